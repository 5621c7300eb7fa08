"""The patch types of the API over `sampan.kube.patch`, its faults turned into answers."""

from __future__ import annotations

import json
from typing import Any

from sampan.cluster.apiserver.decode import json_copy
from sampan.kube.errors import ApiError, Cause, bad_request
from sampan.kube.objects import Object, now
from sampan.kube.schema import Schema
from sampan.kube.transport import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH

STRATEGIC = STRATEGIC_MERGE_PATCH
TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)


def copy_of(obj: Object) -> Object:
    copied: Object = json_copy(obj)
    return copied


def patch(content_type: str, current: Object, body: Any, node: Schema) -> Object:
    """`current` (a copy of ours) changed by a JSON, merge or strategic merge patch. Raises ApiError 400 or 422."""
    from sampan.kube.patch import json as json_patch
    from sampan.kube.patch import merge, strategic

    wanted: type = list if content_type == JSON_PATCH else dict
    if not isinstance(body, wanted):
        raise bad_request(f"a {content_type} body must be {'a list' if wanted is list else 'an object'}")
    try:
        if content_type == JSON_PATCH:
            result = json_patch.apply(current, body)
        elif content_type == MERGE_PATCH:
            result = merge.apply(current, body)
        else:
            result = strategic.apply(current, body, node)
    except ApiError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ApiError(422, "Invalid", f"the patch cannot be applied: {error}") from None
    return copy_of(result)


def refused(content_type: str, body: Any, patched: Object, error: ApiError) -> ApiError:
    """422 for a patch whose outcome cannot be read, which shows the patch (strategic) or that outcome, as upstream."""
    if error.code != 400:
        return error
    shown = _go(body) if content_type == STRATEGIC else json.dumps(patched, ensure_ascii=False, separators=(",", ":"))
    fault = error.message.partition(": ")[2] or error.message
    cause = Cause("patch", f"Invalid value: {json.dumps(shown, ensure_ascii=False)}: {fault}")
    details = {"causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}]}
    return ApiError(422, "Invalid", f' "" is invalid: patch: {cause.message}', details)


def _go(value: Any) -> str:
    """A JSON value as Go prints it: `map[spec:map[replicas:2]]`."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_go(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_go, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "<nil>" if value is None else str(value)


def server_side(
    current: Object | None, applied: Object, node: Schema, *, manager: str, force: bool, subresource: str | None
) -> Object:
    """The object that applying `applied` makes, with its managedFields. Raises ApiError 409 with the conflicts."""
    from sampan.kube import schema
    from sampan.kube.patch import apply

    applied = copy_of(applied)
    try:
        applied = schema.canonical(node, applied)
    except ValueError as error:
        raise bad_request(str(error)) from None
    if subresource is None:
        applied.pop("status", None)
    elif subresource == "status":
        kept = {"apiVersion", "kind", "metadata", "status"}
        applied = {key: value for key, value in applied.items() if key in kept}
    try:
        result = apply.apply(current, applied, node, manager=manager, force=force, subresource=subresource, now=now())
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise bad_request(f"the object cannot be applied: {error}") from None
    return copy_of(result)


def track(old: Object | None, new: Object, node: Schema, manager: str, subresource: str | None) -> None:
    """Record in `new` (in place) who owns what after a create, update or patch."""
    from sampan.kube.patch import managed_fields

    tracked = managed_fields.track_update(
        old, new, node, manager=manager, subresource=subresource, api_version=new["apiVersion"], now=now()
    )
    entries = tracked["metadata"].get("managedFields")
    if entries:
        new["metadata"]["managedFields"] = json_copy(entries)
    else:
        new["metadata"].pop("managedFields", None)
