"""Strategic merge patch: a merge patch that knows lists by their merge keys.

Directives: `$patch` (replace, delete, merge) in maps and list elements, `$retainKeys`, and per field
`$deleteFromPrimitiveList/FIELD` and `$setElementOrder/FIELD`. Which lists merge, and by which key, is in the schema
(`merge_key`, `patch_strategy`).
"""

from __future__ import annotations

from typing import Any

from sampan.kube.errors import bad_request
from sampan.kube.schema import ANYTHING, Schema

_PATCH, _RETAIN = "$patch", "$retainKeys"
_DELETE_FROM, _ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"


def apply(target: Any, patch: Any, schema: Schema | None) -> Any:
    """`target` changed by `patch`; without a schema, lists replace. Raises ApiError 400 for a malformed directive."""
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: a strategic merge patch is an object")
    return _merge_map(target if isinstance(target, dict) else {}, patch, schema or ANYTHING)


def _merge_map(target: dict[str, Any], patch: dict[str, Any], schema: Schema) -> dict[str, Any]:
    match patch.get(_PATCH):
        case None | "merge":
            pass
        case "replace":
            return _merge_map({}, {key: value for key, value in patch.items() if key != _PATCH}, schema)
        case "delete":
            return {}
        case other:
            raise bad_request(f'Unknown patch type found: "{other}"')
    result = dict(target)
    if _RETAIN in patch:
        result = _retain(result, patch)
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            field = key[len(_DELETE_FROM) :]
            if isinstance(result.get(field), list):
                result[field] = [item for item in result[field] if item not in _list(key, value)]
    for key, value in patch.items():
        if key in (_PATCH, _RETAIN) or key.startswith(_DELETE_FROM):
            continue
        if key.startswith(_ORDER):
            field = key[len(_ORDER) :]
            if field not in patch and isinstance(result.get(field), list):
                child = schema.child(field) or ANYTHING
                result[field] = _ordered(result[field], [], result[field], _list(key, value), child.merge_key)
            continue
        child = schema.child(key) or ANYTHING
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            present = result.get(key)
            if "replace" in child.patch_strategy and _PATCH not in value:
                result[key] = _clean(value, child)
            else:
                result[key] = _merge_map(present if isinstance(present, dict) else {}, value, child)
        elif isinstance(value, list) and "merge" in child.patch_strategy:
            present = result.get(key)
            order = patch.get(_ORDER + key)
            result[key] = _merge_list(present if isinstance(present, list) else [], value, child, order)
        elif isinstance(value, list):
            result[key] = _clean(value, child)
        else:
            result[key] = value
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


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise bad_request(f"error decoding patch: {key} must be a list")
    return value


def _retain(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    keep = _list(_RETAIN, patch[_RETAIN])
    for key, value in patch.items():
        if not key.startswith("$") and value is not None and key not in keep:
            raise bad_request("error decoding patch: $retainKeys list must contain all fields present in the patch")
    return {key: value for key, value in target.items() if key in keep}


def _clean(value: Any, schema: Schema) -> Any:
    """A value new to the object: without directives and nulls."""
    if isinstance(value, dict):
        return _merge_map({}, value, schema)
    if isinstance(value, list):
        elements = schema.items
        return [
            _merge_map({}, {k: v for k, v in item.items() if k != _PATCH}, elements) if isinstance(item, dict) else item
            for item in value
            if not (isinstance(item, dict) and item.get(_PATCH) == "delete")
        ]
    return value


def _merge_list(target: list[Any], patch: list[Any], schema: Schema, order: Any) -> list[Any]:
    if not all(isinstance(item, dict) for item in (*patch, *target)):
        if any(isinstance(item, dict) for item in (*patch, *target)):
            raise bad_request("error decoding patch: a list mixes objects and plain values")
        merged = [*target, *(item for item in dict.fromkeys(patch) if item not in target)]
        touched: list[Any] = patch
    else:
        key = schema.merge_key
        if not key:
            return _clean(patch, schema)  # type: ignore[no-any-return]
        if any(item.get(_PATCH) == "replace" for item in patch):
            return _clean([item for item in patch if item.get(_PATCH) != "replace"], schema)  # type: ignore[no-any-return]
        merged = _merge_elements(target, patch, schema, key)
        touched = [item[key] for item in patch]
    wanted = touched if order is None else _list(_ORDER, order)
    return _ordered(merged, touched, target, wanted, schema.merge_key)


def _bare(value: Any) -> Any:
    """An element new to a list: taken as it is, but for directives."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if not key.startswith("$") and item is not None}
    return [_bare(item) for item in value] if isinstance(value, list) else value


def _merge_elements(target: list[Any], patch: list[Any], schema: Schema, key: str) -> list[Any]:
    merged = list(target)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {go_text(item)} does not contain declared merge key: {key}")
        directive = item.get(_PATCH)
        if directive == "delete":
            merged = [present for present in merged if present.get(key) != item[key]]
            continue
        if directive not in (None, "merge"):
            raise bad_request(f'Unknown patch type found: "{directive}"')
        for index, present in enumerate(merged):
            if present.get(key) == item[key]:
                merged[index] = _merge_map(present, item, schema.items)
                break
        else:
            merged.append(_bare(item))
    return merged


def _ordered(merged: list[Any], touched: list[Any], before: list[Any], order: list[Any], key: str) -> list[Any]:
    """`merged` in the order of the patch; what only the server has keeps its place relative to its neighbours."""

    def identity(item: Any) -> Any:
        return item.get(key) if isinstance(item, dict) and key else item

    wanted = [identity(item) for item in order]  # elements, or what tells them apart
    served = [identity(item) for item in before]

    def place(items: list[Any], item: Any) -> int:
        return items.index(item) if item in items else len(items)

    from_patch = [item for item in merged if identity(item) in wanted or identity(item) in touched]
    from_patch.sort(key=lambda item: place(wanted, identity(item)))
    server_only = [item for item in merged if not (identity(item) in wanted or identity(item) in touched)]
    server_only.sort(key=lambda item: place(served, identity(item)))
    result = []
    while server_only and from_patch:
        left, right = identity(server_only[0]), identity(from_patch[0])
        first = left in served and right in served and served.index(left) < served.index(right)
        result.append((server_only if first else from_patch).pop(0))
    return result + server_only + from_patch
