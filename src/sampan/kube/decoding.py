"""What keeps a body from being decoded or applied as a built-in kind, in upstream's words."""

from __future__ import annotations

from typing import Any

from sampan.kube.schema import Schema
from sampan.kube.validation import GO_TYPES, fits, join, json_type, shown


def _go_type(node: Schema) -> str:
    """The Go type of a built-in field, as decoding names it: `v1.PodSpec`, `[]v1.Container`, `map[string]string`."""
    if node.definition:
        return ".".join(node.definition.split(".")[-2:])
    if node.type == "array":
        return f"[]{_go_type(node.items)}"
    if node.type == "object" and node.values is not None:
        return f"map[string]{_go_type(node.values)}"
    return node.format or GO_TYPES.get(node.type, node.type)


def typed_fault(schema: Schema, obj: Any) -> str | None:
    """What keeps a built-in object from being applied: a field of the wrong type, or one its schema does not have."""

    def walk(node: Schema, value: Any, path: str) -> str | None:
        if value is None or node.open or node.format == "quantity" or node.int_or_string or not node.type:
            return None
        if not fits(value, node.type):
            expected = {"object": "map", "array": "list", "integer": "numeric (int or float)"}.get(node.type, node.type)
            return f"{path}: expected {expected}, got &{{{value}}}"
        if isinstance(value, dict):
            for key, item in value.items():
                child = node.child(key)
                if child is None:
                    return f"{path}.{key}: field not declared in schema"
                if fault := walk(child, item, f"{path}.{key}"):
                    return fault
        elif isinstance(value, list):
            for index, item in enumerate(value):
                keys = (
                    ",".join(f"{k}={shown(item.get(k))}" for k in node.list_map_keys) if isinstance(item, dict) else ""
                )
                if fault := walk(node.items, item, f"{path}[{keys or index}]"):
                    return fault
        return None

    return walk(schema, obj, "")


def decode_fault(schema: Schema, obj: dict[str, Any], kind: str, version: str) -> str | None:
    """The message for a body whose types do not fit a built-in kind (upstream answers 400); None when they fit."""

    def walk(node: Schema, value: Any, path: str, owner: str) -> str | None:
        if value is None or node.open:
            return None
        if node.format == "quantity":
            if isinstance(value, bool | dict | list):
                return "unmarshalerDecoder: quantities must match the regular expression"
            return None
        if node.int_or_string and isinstance(value, bool | dict | list):
            found = {"boolean": "bool"}.get(json_type(value), json_type(value))
            return f"json: cannot unmarshal {found} into Go struct field {owner}.{path} of type int32"
        if node.int_or_string or not node.type:
            return None
        if not fits(value, node.type):
            found = {"integer": "number", "boolean": "bool"}.get(json_type(value), json_type(value))
            return f"json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {_go_type(node)}"
        if isinstance(value, dict):
            name = node.definition.rpartition(".")[2] or owner
            for key, item in value.items():
                child = node.child(key)
                # a key of a map is no field of Go's
                where = join(path, key) if key in node.properties else path
                if child is not None and (fault := walk(child, item, where, name)):
                    return fault
        elif isinstance(value, list):
            for item in value:
                if fault := walk(node.items, item, path, owner):
                    return fault
        return None

    fault = walk(schema, obj, "", kind)
    return f'{kind} in version "{version}" cannot be handled as a {kind}: {fault}' if fault else None
