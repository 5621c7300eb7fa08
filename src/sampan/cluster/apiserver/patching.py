"""The patch types of the API over `sampan.kube.patch`, its faults turned into answers."""

from __future__ import annotations

import json
from typing import Any

from sampan.cluster.apiserver import resets
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind
from sampan.kube.errors import ApiError, Cause, bad_request
from sampan.kube.objects import Object, now
from sampan.kube.patch import strategic
from sampan.kube.patch.fields import Fields
from sampan.kube.schema import Schema
from sampan.kube.transport import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH

STRATEGIC = STRATEGIC_MERGE_PATCH


def copy_of(obj: Object) -> Object:
    copied: Object = json_copy(obj)
    return copied


def patch(content_type: str, current: Object, body: Any, node: Schema) -> Object:
    """`current` (a copy of ours) changed by a JSON, merge or strategic merge patch. Raises ApiError 400 or 422."""
    from sampan.kube.patch import json as json_patch
    from sampan.kube.patch import merge

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
    shown = (
        strategic.go_text(body)
        if content_type == STRATEGIC
        else json.dumps(patched, ensure_ascii=False, separators=(",", ":"))
    )
    fault = error.message.partition(": ")[2] or error.message
    cause = Cause("patch", f"Invalid value: {json.dumps(shown, ensure_ascii=False)}: {fault}")
    details = {"causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}]}
    return ApiError(422, "Invalid", f' "" is invalid: patch: {cause.message}', details)


def server_side(
    current: Object | None, applied: Object, kind: Kind, *, manager: str, force: bool, subresource: str | None
) -> Object:
    """The object that applying `applied` makes, with its managedFields. Raises ApiError 409 with the conflicts."""
    from sampan.kube.patch import apply

    try:
        result = apply.apply(
            current, copy_of(applied), kind.schema, manager=manager, force=force, subresource=subresource, now=now(),
            view=kind.view, reset=resets.of(kind, subresource),
        )  # fmt: skip
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise bad_request(f"the object cannot be applied: {error}") from None
    return copy_of(result)


def scale_causes(kind: Kind, obj: Object) -> list[Cause]:
    """Faults of the numbers that a custom kind's scale reads: no whole numbers, or negative."""
    if kind.crd is None or kind.scale is None:
        return []
    found = []
    for path in (kind.scale.spec, kind.scale.status):
        value: Any = obj
        wanted = "map[string]interface{}"
        for step in path:
            if not isinstance(value, dict):
                break
            value = value.get(step)
        else:
            wanted = "int64"
        where = "." + ".".join(path)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or wanted != "int64":
            go = {bool: "bool", float: "float64", int: "int64", str: "string", list: "[]interface {}"}
            shown = f"{strategic.go_text(value)} is of the type {go.get(type(value), 'map[string]interface {}')}"
            found.append(Cause(where, f"Invalid value: 0: {where} accessor error: {shown}, expected {wanted}"))
        elif value < 0:
            found.append(Cause(where, f"Invalid value: {value}: should be a non-negative integer"))
        elif value > 2**31 - 1:
            found.append(Cause(where, f"Invalid value: {value}: should be less than or equal to {2**31 - 1}"))
    return found


def is_readable(kind: Kind, obj: Object) -> bool:
    """Whether spec and status of an object have the types their kind should, where that has not been seen to."""
    from sampan.kube import decoding, schema

    if kind.crd is None:
        return True
    told = {name: value for name, value in obj.items() if name not in {"metadata", "apiVersion", "kind"}}
    return not decoding.typed_fault(kind.schema, schema.prune(kind.schema, told), repeats=True)


def track(  # noqa: PLR0917
    old: Object | None, new: Object, node: Schema, manager: str, subresource: str | None, kind: Kind | None = None,
    rewritten: Fields | None = None,
) -> None:  # fmt: skip
    """Record in `new` (in place) who owns what after a create, update or patch. `node`: the schema of both objects;
    `kind`: theirs, where it has several versions; `rewritten`: fields that are another's now, if they look as before.

    A built-in kind is stored in one version, and owned in the one that the request is of.
    """
    from sampan.kube.patch import managed_fields

    given = new
    if kind is not None and kind.crd is None and kind.storage is not kind.resource:
        old, new, node = None if old is None else kind.outward(old), kind.outward(new), kind.schema
    tracked = managed_fields.track_update(
        old, new, node, manager=manager, subresource=subresource, api_version=new["apiVersion"], now=now(),
        view=kind.view if kind else None, reset=resets.of(kind, subresource) if kind else managed_fields.NO_RESET,
        rewritten=rewritten or {},
    )  # fmt: skip
    entries = tracked["metadata"].get("managedFields")
    if entries:
        given["metadata"]["managedFields"] = json_copy(entries)
    else:
        given["metadata"].pop("managedFields", None)
