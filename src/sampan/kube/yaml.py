"""Reading manifests (YAML or JSON, several documents) with the lines they came from, and writing them stably.

Scalars are read as Kubernetes reads them: times stay text, `1:30` is text, `1e3` a number, `y` a truth. Duplicate
keys are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml
from msgspec import Struct

try:
    from yaml import CSafeDumper as _BaseDumper
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml: slower, the same otherwise
    from yaml import SafeDumper as _BaseDumper  # type: ignore[assignment]
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

LIMIT = 500_000
"""The most values a text may hold once its aliases are expanded."""

DEPTH = 200
"""The deepest nesting that is read."""
SAFE_DEPTH = 1000

_INDENT = re.compile(r"^[ ]*(?:[-?:!&][^ ]*[ \t]+)*", re.MULTILINE)
_TAG = "tag:yaml.org,2002:"
_SHORT = frozenset("yYnN")
_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")
_PART = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")


class YamlError(ValueError):
    """A text that cannot be read: `source`, `line`, `column` (from 1), `problem`; the message shows the line itself."""

    def __init__(self, problem: str, source: str, line: int, column: int, text: str) -> None:
        self.problem, self.source, self.line, self.column = problem, source, line, column
        rows = text.splitlines()
        shown = f"\n  {line} | {rows[line - 1]}" if 0 < line <= len(rows) else ""
        super().__init__(f"{source}:{line}:{column}: {problem}{shown}")


class Document(Struct):
    """One document: `object` in JSON shape, and `line`, where it begins (from 1)."""

    object: Any
    line: int
    source: str = ""
    node: Any = None

    def line_of(self, path: str) -> int:
        """The line of a path such as `spec.containers[0].image`, or of the nearest parent that is there."""
        node, line = self.node, self.line
        for name, index in _PART.findall(path):
            found = _step(node, name or index)
            if found is None:
                break
            node, line = found
        return line


def _step(node: Any, part: str) -> tuple[Any, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item, item.start_mark.line + 1
    return None


class _Reader:
    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.count = 0
        self.loader = _Loader("")

    def fault(self, problem: str, node: Any) -> YamlError:
        mark = node.start_mark
        return YamlError(problem, self.source, mark.line + 1, mark.column + 1, self.text)

    def value(self, node: Any, depth: int = 0) -> Any:
        self.count += 1
        if self.count > LIMIT or depth > DEPTH:
            raise self.fault("the document is too large or too deep", node)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return self.mapping(node, depth)

    def mapping(self, node: Any, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged = self.merged(value_node, depth) | merged
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fault("a key must be plain text", key_node)
            key = self.scalar(key_node)
            if isinstance(key, bool):
                key = str(key).lower()
            elif not isinstance(key, str):
                key = key_node.value
            if key in result:
                raise self.fault(f'key "{key}" already set in map', key_node)
            result[key] = self.value(value_node, depth + 1)
        return {**{key: value for key, value in merged.items() if key not in result}, **result}

    def merged(self, node: Any, depth: int) -> dict[str, Any]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for each in nodes:
            if not isinstance(each, yaml.MappingNode):
                raise self.fault("`<<` merges maps only", each)
            found = self.mapping(each, depth + 1) | found
        return found

    def scalar(self, node: Any) -> Any:
        tag, text = node.tag, node.value
        if tag == _TAG + "str":
            if node.style:
                return text
            if text in _SHORT:
                return text in "yY"
            return float(text) if _EXPONENT.fullmatch(text) else text
        if tag == _TAG + "timestamp" or ":" in text:
            return text
        if tag == _TAG + "null":
            return None
        try:
            value = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.fault(f"`{text}` cannot be read as {tag.removeprefix(_TAG)}", node) from error
        if isinstance(value, bytes):
            return text
        if not isinstance(value, Hashable) or isinstance(value, tuple):
            raise self.fault(f"{tag} has no place in a manifest", node)
        return value


def load_documents(text: str | bytes, source: str = "<input>") -> list[Document]:
    """Every document that is not empty. Raises YamlError."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise YamlError("the text is not UTF-8", source, 1, 1, "") from error
    if text.lstrip()[:1] == "{":
        try:
            return [Document(json.loads(text, object_pairs_hook=_pairs), 1, source)]
        except _Duplicate as error:
            raise YamlError(f'key "{error}" already set in map', source, 1, 1, "") from None
        except ValueError:
            pass  # perhaps a flow mapping, or several documents
        except RecursionError:
            raise YamlError("the document is too large or too deep", source, 1, 1, "") from None
    reader = _Reader(text, source)
    try:
        check_depth(text, source)
        return [
            Document(reader.value(node), node.start_mark.line + 1, source, node)
            for node in yaml.compose_all(text, _Loader)
            if not (isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null")
        ]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise YamlError(problem, source, line, column, text) from error
    except yaml.YAMLError as error:
        raise YamlError(str(error).partition("\n")[0], source, 1, 1, text) from error
    except RecursionError:
        raise YamlError("the document is too large or too deep", source, 1, 1, "") from None


def check_depth(text: str, source: str) -> None:
    """Refuses nesting that would overflow the stack of libyaml's composer, which is recursive and does not look.

    No text nests deeper than its brackets and its furthest first column; only where that is much are events counted.
    """
    column = max(map(len, _INDENT.findall(text)), default=0)
    if text.count("[") + text.count("{") + column < SAFE_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise YamlError("the document is too deep", source, line, 1, "")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Duplicate(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(key)
            seen.add(key)
    return result


def load(text: str | bytes, source: str = "<input>") -> list[Any]:
    """The objects of `load_documents`."""
    return [document.object for document in load_documents(text, source)]


# -- writing ---------------------------------------------------------------------------------------------------------

_FIRST = "apiVersion kind metadata name namespace labels annotations type spec image data".split()  # noqa: SIM905
_RANK = {key: rank for rank, key in enumerate(_FIRST)}
_LAST = len(_FIRST)
_RESERVED = re.compile(r"[yYnN]|[-+]?\d[\d_]*([eE][-+]?\d+|(:\d+)+)|0[oO][0-7]+")


class _Dumper(_BaseDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, value: str) -> Any:
    style = None
    if "\n" in value and not re.search(r"[ \t]\n|^\s|\t", value) and value.isprintable() is False:
        style = "|"
    elif _RESERVED.fullmatch(value):
        style = "'"
    return dumper.represent_scalar(_TAG + "str", value, style=style)


def _map(dumper: Any, value: dict[str, Any]) -> Any:
    items = sorted(value.items(), key=lambda item: (_RANK.get(item[0], _LAST), item[0]))
    return dumper.represent_mapping(_TAG + "map", items, flow_style=False if value else None)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _map)


def dump(obj: Any) -> str:
    """Block YAML. Keys stand in a fixed order, so that equal objects give equal text: the customary ones (apiVersion,
    kind, metadata, name ...) first, the rest sorted. What other readers would take for a number or truth is quoted."""
    options: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "width": 10_000, "allow_unicode": True}
    return str(yaml.dump(obj, Dumper=_Dumper, **options))


def dump_all(objects: list[Any]) -> str:
    """Several documents, parted by `---`."""
    return "---\n".join(dump(obj) for obj in objects)
