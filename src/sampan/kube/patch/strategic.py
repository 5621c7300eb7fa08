"""Strategic merge patch: a merge patch that knows lists by their merge keys.

Directives: `$patch` (replace, delete) in maps and list elements, `$retainKeys`, and per field
`$deleteFromPrimitiveList/FIELD` and `$setElementOrder/FIELD`. Which lists merge, and by which key, is in the schema
(`merge_key`, `patch_strategy`). What the target lacks is taken from the patch as it is, but for directives and nulls;
what replaces, or is new to a merging list, as it is.
"""

from __future__ import annotations

import json
from typing import Any

from sampan.kube.errors import ApiError, bad_request
from sampan.kube.schema import ANYTHING, Schema

_PATCH, _RETAIN = "$patch", "$retainKeys"
_DELETE_FROM, _ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"
_GO_KINDS = {dict: "map[string]interface {}", list: "[]interface {}", str: "string", bool: "bool", float: "float64",
             int: "int64", type(None): "%!s(<nil>)"}  # fmt: skip
_GONE: Any = object()


def apply(target: Any, patch: Any, schema: Schema | None) -> Any:
    """`target` changed by `patch`; without a schema, lists replace. Raises ApiError 400 for a malformed directive."""
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: a strategic merge patch is an object")
    return _merge_map(target if isinstance(target, dict) else {}, patch, schema or ANYTHING)


def _merge_map(target: dict[str, Any], patch: dict[str, Any], schema: Schema, go: str = "struct") -> dict[str, Any]:
    """`go`: what upstream has the map as, a structure or a pointer to one."""
    if _PATCH in patch:
        match patch[_PATCH]:
            case "replace":
                return {key: value for key, value in patch.items() if key != _PATCH}
            case "delete":
                return {}
            case other:
                raise _unknown(other, patch)
    result = dict(target)
    patch = dict(patch)
    if _RETAIN in patch:
        result = _retain(result, patch)
    for key in [key for key in patch if key.startswith(_ORDER)]:
        _set_order(result, patch, key, schema, go)
    for key, value in patch.items():
        field = key.removeprefix(_DELETE_FROM)
        if value is None:
            result.pop(field, None)
        elif field not in result or _kind(result[field]) != _kind(value):
            if field != key:
                continue
            result[field] = _bare(value)
            if result[field] is _GONE:
                del result[field]
        elif isinstance(value, dict):
            child = schema.child(field) or ANYTHING
            if "replace" not in child.patch_strategy:
                value = _merge_map(result[field], value, child, "struct" if child.default == {} else "ptr")  # noqa: PLW2901
            result[field] = value
        elif isinstance(value, list):
            child = schema.child(field) or ANYTHING
            if field != key:
                result[field] = [item for item in result[field] if item not in value]
            elif "merge" in child.patch_strategy:
                result[field] = _merge_list(result[field], value, child)
            else:
                result[field] = value
        else:
            result[field] = value
    return result


def go_text(value: Any) -> str:
    """A JSON value as Go prints it: `map[spec:map[replicas:2]]`."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{go_text(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(go_text, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "<nil>" if value is None else str(value)


def _kind(value: Any) -> str:
    return _GO_KINDS[type(value)]


def _wrong(wanted: type, value: Any) -> ApiError:
    return bad_request(f"expected a {_GO_KINDS[wanted]}, but received a {_kind(value)}")


def _unknown(directive: Any, patch: dict[str, Any]) -> ApiError:
    return bad_request(f"unknown patch type: {go_text(directive)} in map: {go_text(patch)}")


def _no_key(item: dict[str, Any], key: str) -> ApiError:
    return bad_request(f"map: {go_text(item)} does not contain declared merge key: {key}")


def _bare(value: Any) -> Any:
    """A value new to the object: without nulls in maps, and without what holds a `$patch`."""
    if isinstance(value, dict):
        if _PATCH in value:
            return _GONE
        kept = {key: _bare(item) for key, item in value.items() if item is not None}
        return {key: item for key, item in kept.items() if item is not _GONE}
    if isinstance(value, list):
        return [item for item in map(_bare, value) if item is not _GONE]
    return value


def _undirected(value: Any) -> Any:
    """A list that is new to the object and whose order is set: without what holds a `$patch`; its nulls stay."""
    if isinstance(value, dict):
        kept = {key: _undirected(item) for key, item in value.items()}
        return _GONE if _PATCH in value else {key: item for key, item in kept.items() if item is not _GONE}
    if isinstance(value, list):
        return [item for item in map(_undirected, value) if item is not _GONE]
    return value


def _retain(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    keep = patch.pop(_RETAIN)
    fault = bad_request("invalid patch format of retainKeys")
    if not isinstance(keep, list):
        raise fault
    for key, value in patch.items():
        if value is not None and not key.startswith((_DELETE_FROM, _ORDER)) and key not in keep:
            raise fault
    return {key: value for key, value in target.items() if key in keep}


def _set_order(result: dict[str, Any], patch: dict[str, Any], key: str, schema: Schema, go: str) -> None:
    """Take `$setElementOrder/FIELD`, and FIELD with it, out of the patch into the result."""
    order, field = patch.pop(key), key.removeprefix(_ORDER)
    if not isinstance(order, list):
        raise _wrong(list, order)
    for present in (result, patch):
        if field in present and not isinstance(present[field], list):
            raise _wrong(list, present[field])
    child = _ordered_child(schema, field, go)
    before, wanted = result.get(field, []), patch.get(field, [])
    _check_order(wanted, order, child.merge_key)
    if field not in result and field not in patch:
        return
    if field not in patch:
        merged = before
    elif field not in result:
        merged = _undirected(wanted)
    elif "merge" in child.patch_strategy:
        merged = _merge_list(before, wanted, child)
    else:
        merged = wanted
    if not before and not wanted:
        raise bad_request("no elements in any of the given slices")
    _same_kind(before, wanted)
    result[field] = _ordered(merged, order, before, child.merge_key)
    patch.pop(field, None)


def _ordered_child(schema: Schema, field: str, go: str) -> Schema:
    """The node of a list whose order is set: a field of a structure that is known, which is a `go`."""
    if schema.type == "object" and not schema.properties and not schema.open:
        raise bad_request("merging an object in json but data type is not struct, instead is: map")
    child = schema.child(field)
    if child is None:
        name = schema.definition.rpartition(".")[2]
        raise bad_request(f"unable to find api field in struct {name} for the json field {json.dumps(field)}")
    value = field in schema.omitted or field in schema.required or child.default in ("", 0, {})
    if (
        child.type != "array" and (value or child.values is not None) and not child.open
    ):  # and nothing that is pointed to
        raise bad_request(f"expected slice or array type, but got: {go}")
    return child


def _check_order(wanted: list[Any], order: list[Any], key: str) -> None:
    """Elements of the patch must come in the order that is set."""
    kept = [item for item in wanted if not (isinstance(item, dict) and _PATCH in item)] if order else []
    rest = iter(order)
    for item in kept:
        if not any(_identity(item, key) == _identity(other, key) for other in rest):
            rest_of = f"doesn't match $setElementOrder list:\n{go_text(order)}\n"
            raise bad_request(f"The order in patch list:\n{go_text(wanted)}\n {rest_of}")


def _identity(item: Any, key: str) -> Any:
    if not key:
        return item
    if not isinstance(item, dict):
        raise _wrong(dict, item)
    if key not in item:
        raise _no_key(item, key)
    return item[key]


def _same_kind(*lists: list[Any]) -> None:
    """Elements of lists that merge are all of one kind, and no lists."""
    kinds = [_kind(item) for items in lists for item in items]
    if kinds[:1] == [_GO_KINDS[list]]:  # the first says what all are to be
        raise ApiError(422, "Invalid", "lists of lists are not supported")
    if len(set(kinds)) > 1:
        raise bad_request(f"list element types are not identical: {go_text(list(lists))}")


def _merge_list(target: list[Any], patch: list[Any], schema: Schema) -> list[Any]:
    if not target and not patch:
        return target
    _same_kind(target, patch)
    key = schema.merge_key
    if not isinstance((target or patch)[0], dict):
        merged: list[Any] = []
        for item in (*target, *patch):
            if item not in merged:
                merged.append(item)
        return _ordered(merged, patch, target, "")
    if not key:
        raise bad_request(f"cannot merge lists without merge key for {schema.definition.rpartition('.')[2]}")
    target, patch = _directed(target, patch, key)
    return _ordered(_merge_elements(target, patch, schema, key), patch, target, key)


def _directed(target: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """Follow the directives of elements: (what is left of the target, the elements of the patch without one)."""
    plain = [item for item in patch if _PATCH not in item]
    replaced = False
    for item in patch:
        match item.get(_PATCH, _GONE):
            case "delete":
                gone = _identity(item, key)
                target = [present for present in target if present.get(key) != gone]
            case "replace":
                replaced = True
            case "merge":
                raise bad_request("merging lists cannot yet be specified in the patch")
            case other if other is not _GONE:
                raise _unknown(other, item)
    return (plain, []) if replaced else (target, plain)


def _merge_elements(target: list[Any], patch: list[Any], schema: Schema, key: str) -> list[Any]:
    merged = list(target)
    for item in patch:
        wanted = _identity(item, key)
        for index, present in enumerate(merged):
            if present.get(key, _GONE) == wanted:
                merged[index] = _merge_map(present, item, schema.items)
                break
        else:
            merged.append(item)
    return merged


def _ordered(merged: list[Any], order: list[Any], before: list[Any], key: str) -> list[Any]:
    """`merged` in the order asked for; what only the target had keeps its place relative to its neighbours."""
    wanted = [_identity(item, key) for item in order]
    served = [item.get(key) if key and isinstance(item, dict) else item for item in before]
    from_patch = [item for item in merged if _identity(item, key) in wanted]
    server_only = [item for item in merged if _identity(item, key) not in wanted]
    from_patch.sort(key=lambda item: wanted.index(_identity(item, key)))
    server_only.sort(key=lambda item: _place(served, _identity(item, key)))
    result = []
    while server_only and from_patch:
        left, right = _identity(server_only[0], key), _identity(from_patch[0], key)
        first = left in served and right in served and served.index(left) < served.index(right)
        result.append((server_only if first else from_patch).pop(0))
    return result + server_only + from_patch


def _place(items: list[Any], item: Any) -> int:
    return items.index(item) if item in items else len(items)
