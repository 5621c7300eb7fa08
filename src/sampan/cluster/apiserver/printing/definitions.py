"""`additionalPrinterColumns` of a CustomResourceDefinition as columns, over a small JSONPath.

JSONPath as the CRD reference allows: `.a.b`, `['a']`, `[0]`, `[-1]`, `[*]`, `[0:2]`, `[?(@.type=="Ready")]`, `..` not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from sampan.cluster.apiserver.printing.base import AGE, NAME, Column, since
from sampan.kube.objects import Object

Step = Callable[[list[Any]], list[Any]]

_TOKEN = re.compile(
    r"""\.?(?P<field>(?:[A-Za-z0-9_$/-]|\\.)+)
      | \[\?\(\s*@(?P<path>[^=!<>)]*?)\s*(?:(?P<operator>==|!=|<=|>=|<|>)\s*(?P<literal>"[^"]*"|'[^']*'|[^)]+?)\s*)?\)\]
      | \[['"](?P<quoted>[^'"]+)['"]\]
      | \.?\[?(?P<all>\*)\]?
      | \[(?P<start>-?\d*):(?P<stop>-?\d*)\]
      | \[(?P<index>-?\d+)\]""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
    "<=": lambda a, b: bool(a <= b),
    ">=": lambda a, b: bool(a >= b),
}


def compile_path(path: str) -> Callable[[Any], list[Any]]:
    """A function giving every value that `path` selects, in order. Raises ValueError for a path it cannot read."""
    rest = path.strip()
    if rest.startswith("{") and rest.endswith("}"):
        rest = rest[1:-1].strip()
    rest = rest.removeprefix("$").removeprefix("@")
    steps: list[Step] = []
    while rest and rest != ".":
        match = _TOKEN.match(rest)
        if match is None or not match.group():
            raise ValueError(f"invalid JSONPath {path!r}: cannot read {rest!r}")
        steps.append(_step(match))
        rest = rest[match.end() :]

    def select(value: Any) -> list[Any]:
        values = [value]
        for step in steps:
            values = step(values)
        return values

    return select


def _step(match: re.Match[str]) -> Step:
    groups = match.groupdict()
    name = groups["quoted"] or (groups["field"] or "").replace("\\", "")
    if name:
        return lambda values: [value[name] for value in values if isinstance(value, dict) and name in value]
    if groups["all"]:
        return lambda values: [item for value in values for item in _children(value)]
    if groups["index"] is not None:
        index = int(groups["index"])
        return lambda values: [v[index] for v in values if isinstance(v, list) and -len(v) <= index < len(v)]
    if groups["start"] is not None:
        part = slice(_number(groups["start"]), _number(groups["stop"]))
        return lambda values: [item for value in values if isinstance(value, list) for item in value[part]]
    return _filter(groups["path"] or "", groups["operator"], groups["literal"])


def _filter(path: str, operator: str | None, literal: str | None) -> Step:
    select = compile_path(path)
    if operator is None:
        return lambda values: [item for value in values for item in _children(value) if select(item)]
    wanted, compare = _literal(literal or ""), _COMPARE[operator]

    def matches(item: Any) -> bool:
        try:
            return any(compare(found, wanted) for found in select(item))
        except TypeError:
            return False

    return lambda values: [item for value in values for item in _children(value) if matches(item)]


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _number(text: str) -> int | None:
    return int(text) if text else None


def _literal(text: str) -> Any:
    if text[:1] in "\"'":
        return text[1:-1]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _cell(values: list[Any], type: str) -> Any:
    if not values:
        return None
    first = values[0]
    match type:
        case "integer":
            return int(first) if isinstance(first, int | float) and not isinstance(first, bool) else None
        case "number":
            return float(first) if isinstance(first, int | float) and not isinstance(first, bool) else None
        case "boolean":
            return first if isinstance(first, bool) else None
        case "date":
            return since(first) if isinstance(first, str) else None
        case _:
            return " ".join(_text(value) for value in values)


def _column(row: Object) -> Column:
    path, type = row["jsonPath"], row.get("type") or "string"
    try:
        select = compile_path(path)
    except ValueError:  # accepted all the same, as upstream does
        return Column(
            row["name"], lambda _: None, type, row.get("format") or "", _description(row), row.get("priority") or 0
        )
    return Column(
        row["name"],
        lambda obj: _cell(select(obj), type),
        type,
        row.get("format") or "",
        _description(row),
        row.get("priority") or 0,
    )


def _description(row: Object) -> str:
    return row.get("description") or f"Custom resource definition column (in JSONPath format): {row['jsonPath']}"


def crd_columns(rows: Sequence[Object] | None) -> list[Column]:
    """The columns of a custom resource: its name, then `rows` (`additionalPrinterColumns`), or its age without any."""
    return [NAME, *(_column(row) for row in rows)] if rows else [NAME, replace(AGE, type="date")]
