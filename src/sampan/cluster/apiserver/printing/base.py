"""What every table of columns is made of: `Column`, and the cell formats they share.

Cells follow what kubectl shows (`get` and `get -o wide`): `<none>`, `<unknown>`, durations such as `2m3s`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from sampan.kube.objects import Object, parse_time

NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"

Value = Callable[[Object], Any]


class Column(Struct, frozen=True):
    """One column of a `meta.k8s.io/v1` Table. `priority` 0 is always shown, above 0 only with `-o wide`."""

    name: str
    value: Value
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0

    def definition(self) -> dict[str, Any]:
        """This column as a `TableColumnDefinition`."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


def wide(name: str, value: Value, type: str = "string", description: str = "") -> Column:
    return Column(name, value, type, description=description, priority=1)


def at(obj: Any, *path: str) -> Any:
    """The value under `path` of nested mappings, None where any step is missing or null."""
    for step in path:
        if not isinstance(obj, Mapping):
            return None
        obj = obj.get(step)
    return obj


def text(*path: str, default: Any = "") -> Value:
    """A column value: the field at `path`, or `default` when it is missing or empty."""

    def value(obj: Object) -> Any:
        found = at(obj, *path)
        return default if found is None or found == "" else found

    return value


def number(*path: str) -> Value:
    return text(*path, default=0)


def human_duration(seconds: float) -> str:
    """A duration as kubectl prints it: two units while small, one when large (`5s`, `2m3s`, `3h`, `5d`, `2y3d`)."""
    whole = int(seconds)
    if whole < 0:
        return "<invalid>" if whole < -1 else "0s"
    if whole < 120:
        return f"{whole}s"
    minutes, hours = whole // 60, whole // 3600
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 24 * 8:
        return _two(days, "d", hours % 24, "h")
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"


def since(timestamp: str | None) -> str:
    """The time passed since an RFC 3339 `timestamp`, `<unknown>` without one."""
    if not timestamp:
        return UNKNOWN
    try:
        return human_duration((datetime.now(UTC) - parse_time(timestamp)).total_seconds())
    except (ValueError, TypeError):
        return UNKNOWN


def age(obj: Object) -> str:
    return since(at(obj, "metadata", "creationTimestamp"))


def labels_text(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) if labels else NONE


_OPERATORS = {"In": "in", "NotIn": "notin"}


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector in the syntax of `-l`, `<none>` when it is absent or empty."""
    if not selector:
        return NONE
    terms = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression["key"], expression.get("operator")
        if operator in _OPERATORS:
            term = f"{key} {_OPERATORS[operator]} ({','.join(sorted(expression.get('values') or ()))})"
        else:
            term = key if operator == "Exists" else f"!{key}"
        terms.append((key, term))
    return ",".join(term for _, term in sorted(terms, key=lambda pair: pair[0])) or NONE


def limited(items: Iterable[str], most: int = 3) -> str:
    """The first `most` items joined by commas, and how many were left out."""
    listed = list(items)
    joined = ",".join(listed[:most])
    return f"{joined} + {len(listed) - most} more..." if len(listed) > most else joined


NAME = Column(
    "Name",
    text("metadata", "name"),
    format="name",
    description=(
        "Name must be unique within a namespace. Is required when creating resources, although some resources may allow"
        " a client to request the generation of an appropriate name automatically. Name is primarily intended for "
        "creation idempotence and configuration definition. Cannot be updated. More info:"
        " https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
    ),
)
AGE = Column("Age", age, description="Time since the object was created.")
CREATED_AT = Column("Created At", text("metadata", "creationTimestamp"), "date", description="When it was created.")
