"""What a built-in kind says and leaves out: a structure is never left out, only empty; nor is a required number; an
empty list or map is, unless it is required.

What Go's encoding of the types does is seen in every answer (`status: {}`, `resources: {}`), and in managedFields,
where what was there from the start is owned by nobody.
"""

from __future__ import annotations

from typing import Any

from sampan.kube.schema import Schema

_ZEROS: dict[int, list[tuple[str, Schema, Any]]] = {}


_BARE = {"io.k8s.api.core.v1.LimitRangeSpec", "io.k8s.api.discovery.v1.EndpointSlice"}
"""Definitions that may lack lists their schemas call required."""


def _fields(schema: Schema) -> list[tuple[str, Schema, Any]]:
    """(name, schema, zero) of the fields never left out; text is, where it would only say that it is missing."""
    key = id(schema.properties)  # shared by all nodes of a definition, and kept by the library
    found = _ZEROS.get(key)
    if found is None:
        # text only of what controllers write: elsewhere it would only say that it is missing
        told = schema.definition.endswith(("Condition", "v1.Event", "v1.NodeSystemInfo"))
        wanted = (int, bool, str) if told else (int, bool)
        found = _ZEROS[key] = [
            (name, child, child.default)
            for name, child in schema.properties.items()
            if not child.structural
            and name not in schema.omitted
            and (child.default == {} or (child.default.__class__ in wanted and not child.default))
        ]
    return found


def settle(schema: Schema, value: Any) -> None:
    """Add to `value`, in place, the fields it lacks that its kind always has; remove the empty ones it never shows."""
    if isinstance(value, dict):
        if schema.structural:  # of a custom kind only the metadata is a structure of Go's
            metadata = schema.properties.get("metadata")
            if metadata is not None and not metadata.structural and "kind" in value:
                settle(metadata, value.get("metadata"))
            return
        properties, values = schema.properties, schema.values
        for name, _, zero in _fields(schema):
            if value.get(name) is None:
                value[name] = {} if zero == {} else zero
        for name in schema.nulls:
            if name not in value and (name not in schema.required or schema.definition in _BARE):
                value[name] = None  # what is required is refused
        empty = []
        for name, item in value.items():
            if isinstance(item, (dict, list)):
                inner = properties.get(name) or values
                if inner is not None:
                    required = name in schema.required and schema.definition not in _BARE
                    if not item and name in properties and not required and is_collection(inner):
                        empty.append(name)
                    else:
                        settle(inner, item)
        for name in empty:
            if name not in schema.nulls:  # `close` makes those null, when it is known who owns them
                del value[name]
    elif isinstance(value, list):
        items = schema.items
        for index, item in enumerate(value):
            if isinstance(item, (dict, list)):
                settle(items, item)
            elif item is None and not items.structural and items.type in _NOTHING:
                value[index] = of(items) if items.type == "object" else _NOTHING[items.type]


def close(schema: Schema, obj: dict[str, Any]) -> None:
    """Make null, in place, the empty lists of an object and its spec that are null where they are missing."""
    for node, value in ((schema, obj), (schema.properties.get("spec"), obj.get("spec"))):
        if node is not None and isinstance(value, dict):
            for name in node.nulls:
                if value.get(name) == []:
                    value[name] = None


def reopen(schema: Schema, obj: dict[str, Any], given: dict[str, Any]) -> None:
    """Make those of them empty again, in place, that were given so, in what is shown of an object not stored."""
    for node, value, said in (
        (schema, obj, given),
        (schema.properties.get("spec"), obj.get("spec"), given.get("spec")),
    ):
        if node is not None and isinstance(value, dict) and isinstance(said, dict):
            value.update({name: [] for name in node.nulls if value.get(name, ()) is None and said.get(name) == []})


_NOTHING: dict[str, Any] = {"object": {}, "string": "", "integer": 0, "boolean": False}
"""What a null among the elements of a list is read as."""


def is_collection(schema: Schema) -> bool:
    """Whether it is a list or a map, and not a structure."""
    return schema.type == "array" or (schema.type == "object" and not schema.open and not schema.properties)


def fill(schema: Schema, value: Any) -> Any:
    """`value`, with the fields it lacks in place that Go's encoding never leaves out, text too, and without those that
    it does. For parts of objects, of which nothing is known to be missing."""
    if isinstance(value, dict):
        for name, child in schema.properties.items() if not schema.structural else ():
            # what is null is as if it were missing
            if value.get(name) is None and name not in schema.omitted and child.default in ("", 0, {}):
                value[name] = {} if child.default == {} else child.default
            if name in value and _is_left_out(schema, name, child, value[name]):
                del value[name]
            if name in value:
                fill(child, value[name])
        for name in schema.nulls:
            if name not in schema.required or schema.definition in _BARE:
                value.setdefault(name, None)
    elif isinstance(value, list):
        for item in value:
            fill(schema.items, item)
    return value


def _is_left_out(schema: Schema, name: str, child: Schema, value: Any) -> bool:
    if value is None or value in ({}, []):
        return name not in schema.required and name not in schema.nulls and (value is None or is_collection(child))
    return name in schema.omitted and value in ("", 0)


def of(schema: Schema) -> dict[str, Any]:
    """An object of the kind in which nothing is set. Required lists are null."""
    made: dict[str, Any] = {name: "" for name, child in schema.properties.items() if child.default == ""}
    for name, child, zero in _fields(schema):
        made[name] = of(child) if zero == {} else zero
    return made | dict.fromkeys(schema.nulls)
