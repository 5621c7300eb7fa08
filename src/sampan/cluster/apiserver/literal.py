"""Empty lists and maps that were given inside of a list: to Go others than none at all, as which they are stored.

Such a list is owned as a whole, so that whoever writes it so changes it.
"""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.kind import Kind
from sampan.kube.objects import Object
from sampan.kube.patch import fields as sets
from sampan.kube.patch.fields import Fields, Path
from sampan.kube.schema import Schema
from sampan.kube.zeros import is_collection


def given(call: Call, kind: Kind, wanted: Object) -> Fields:
    """The lists of a built-in kind, owned as a whole, with something empty inside; looked for where a body has any."""
    body = call.body
    if kind.crd is not None or not isinstance(body, bytes) or (b"[]" not in body and b"{}" not in body):
        return {}
    found: list[Path] = []
    _walk(kind.schema, wanted, (), found)
    return sets.from_paths(found)


def _walk(node: Schema, value: Any, path: Path, found: list[Path]) -> None:
    if isinstance(value, dict):
        if node.map_type == "atomic":
            if any(_in_lists(node.properties.get(name), item) for name, item in value.items()):
                found.append(path)
            return
        for name, item in value.items():
            if isinstance(item, dict | list):
                _walk(sets.child_of(node, name), item, (*path, f"f:{name}"), found)
    elif isinstance(value, list) and value:
        if sets.is_list(node, value):
            for element, item in sets.elements_of(node, value).items():
                _walk(node.items, item, (*path, sets.base_of(element)), found)
        elif _in_lists(node, value):
            found.append(path)


def _in_lists(node: Schema | None, value: Any) -> bool:
    """Whether a value has a list with something empty inside."""
    if node is None:
        return False
    if isinstance(value, list):
        return any(has_empty(node.items, item) for item in value)
    if isinstance(value, dict):
        return any(_in_lists(node.properties.get(name) or node.values, item) for name, item in value.items())
    return False


def has_empty(node: Schema | None, value: Any) -> bool:
    """Whether a value says of a list or map, itself or one in it, that nothing is in it."""
    if node is None or not isinstance(value, dict | list):
        return False
    if not value:
        return is_collection(node)
    if isinstance(value, list):
        return any(has_empty(node.items, item) for item in value)
    return any(has_empty(node.properties.get(name) or node.values, item) for name, item in value.items())
