"""Structural schemas as types, and JSON values as the values expressions see."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from sampan.cluster.apiserver.cel.library import duration, timestamp
from sampan.cluster.apiserver.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    Type,
    list_of,
    map_of,
)
from sampan.cluster.apiserver.cel.values import EvaluationFault, MapList, SetList
from sampan.kube.schema import Schema

_RESERVED = {
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
    "let", "loop", "package", "namespace", "return", "var", "void", "while",
}  # fmt: skip
_WRITTEN = re.compile(r"__|[./-]")
_MARKS = {"__": "__underscores__", ".": "__dot__", "/": "__slash__", "-": "__dash__"}
_FORMATS: dict[str, tuple[Type, Callable[[str], Any]]] = {
    "date-time": (TIMESTAMP, timestamp), "date": (TIMESTAMP, lambda text: timestamp(f"{text}T00:00:00Z")),
    "duration": (DURATION, duration), "byte": (BYTES, base64.b64decode),
}  # fmt: skip
_SCALARS = {"string": STRING, "integer": INT, "number": DOUBLE, "boolean": BOOL}
_METADATA = Type("object", fields={"name": STRING, "generateName": STRING})
_ROOT = {"apiVersion": STRING, "kind": STRING, "metadata": _METADATA}


def escaped(name: str) -> str | None:
    """A field's name as an identifier of CEL; None where it has none."""
    if name in _RESERVED:
        return f"__{name}__"
    text = _WRITTEN.sub(lambda match: _MARKS[match[0]], name)
    return text if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) else None


def type_of(schema: Schema, *, root: bool = False) -> Type | None:
    """The type of a node; None for one expressions cannot reach."""
    if schema.int_or_string:
        return DYN
    if schema.type == "array":
        item = type_of(schema.items)
        return None if item is None else list_of(item)
    if schema.type != "object":
        found = _FORMATS.get(schema.format) if schema.type == "string" else None
        return found[0] if found else _SCALARS.get(schema.type)
    additional = schema.raw.get("additionalProperties")
    if additional:
        value = type_of(schema.values) if schema.values is not None and isinstance(additional, dict) else None
        return None if value is None else map_of(STRING, value)
    fields: dict[str, Type] = {}
    for name in schema.raw.get("properties") or {}:
        text, kind = escaped(name), type_of(schema.properties[name])
        if text is not None and kind is not None:
            fields[text] = kind
    if root or schema.embedded:
        fields |= _ROOT
    return Type("object", fields=fields)


def value_of(schema: Schema, value: Any, *, root: bool = False) -> Any:
    """`value` as expressions see it. Raises EvaluationFault for text its format forbids."""
    if value is None or schema.int_or_string:
        return value
    if isinstance(value, dict):
        return _object(schema, value, root=root)
    if isinstance(value, list):
        items = [value_of(schema.items, item) for item in value]
        if schema.list_type == "set":
            return SetList(items)
        if schema.list_type == "map":
            made = MapList(items)
            made.keys = tuple(schema.list_map_keys)
            return made
        return items
    if schema.type == "number" and not isinstance(value, bool):
        return float(value)
    found = _FORMATS.get(schema.format)
    if found and schema.type == "string":
        try:
            return found[1](value)
        except ValueError as error:
            raise EvaluationFault(str(error)) from None
    return value


def _object(schema: Schema, value: dict[str, Any], *, root: bool) -> dict[str, Any]:
    if schema.raw.get("additionalProperties") and schema.values is not None:
        return {name: value_of(schema.values, item) for name, item in value.items()}
    result: dict[str, Any] = {}
    declared: Mapping[str, Any] = schema.raw.get("properties") or {}
    for name, item in value.items():
        if name in declared:
            result[escaped(name) or name] = value_of(schema.properties[name], item)
        elif root or schema.embedded:
            result[name] = item
    return result
