"""The `Scale` of an object: a kind of its own, read and written as any other, over two numbers of the object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver import carry, decode, patching, scale_owners
from sampan.cluster.apiserver.call import Answer, Call
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind, ScalePaths
from sampan.cluster.apiserver.update import STALE
from sampan.kube.errors import ApiError, Cause, bad_request, conflict, invalid, not_found, unsupported_media_type
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, now
from sampan.kube.patch import apply, managed_fields
from sampan.kube.transport import APPLY_PATCH, STRATEGIC_MERGE_PATCH

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

_UNCONVERTED = (
    "failed to convert {} object (/{}; autoscaling/v1, Kind=Scale) to proper version: request to convert CR to an"
    " invalid group/version: autoscaling/v1"
)
"""Of a custom kind no Scale is made where it has to be more than read."""
SCALE = Kind(Resource("autoscaling", "v1", "Scale", "scales", "scale", True))


async def answer(server: ApiServer, call: Call) -> Answer:
    """GET, PUT and PATCH of `/scale`. Raises ApiError as for any object, and 422 for a negative number."""
    kind = call.served
    paths = kind.scale
    if paths is None:
        raise not_found(f"{kind.resource.plural}/scale", call.name, kind.resource.group)
    if call.verb == "get":
        shown = await _shown(call, server.reader.entry(call).object)
        if kind.crd is not None and _lookup(shown, paths.spec) is None:
            raise _no_number(paths)
        return Answer(obj=_scale_of(shown, paths))
    content = decode.media_type(call.content_type)
    applies = call.verb == "patch" and content == APPLY_PATCH
    body, repeated = decode.read_body(call)
    if call.verb == "patch":
        if content == STRATEGIC_MERGE_PATCH and kind.crd is not None:
            raise unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include:"
                " application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            )
        call.earlier = None  # of a patch, the last value counts
    else:
        _check_read(call, decode.check_object(body), repeated)
        decode.check_name(call, body)

    def change(current: Object) -> Object:
        owners = current["metadata"].get("managedFields")
        present = managed_fields.with_entries(_scale_of(current, paths), scale_owners.of_scale(kind, owners))
        if applies:
            wanted = _apply(call, present, body, repeated)
        else:
            wanted = body if call.verb == "update" else _patched(call, content, present, body, repeated)
        metadata = wanted["metadata"]
        version = metadata.get("resourceVersion")
        if version and version != current["metadata"]["resourceVersion"]:
            raise conflict(kind.resource.plural, call.name, STALE, kind.resource.group)
        if metadata.get("uid"):
            current["metadata"]["uid"] = metadata["uid"]  # the writer tells another one
        replicas = int((wanted.get("spec") or {}).get("replicas") or 0)
        if replicas < 0 and kind.crd is None:
            message = f"Invalid value: {replicas}: must be greater than or equal to 0"
            raise invalid("Scale", call.name, [Cause("spec.replicas", message)], "autoscaling")
        if not applies:
            wanted = _track(call, present, wanted)
        owners = scale_owners.of_object(kind, owners, wanted["metadata"].get("managedFields"))
        return _with(managed_fields.with_entries(current, owners), paths.spec, replicas)

    entry = await server.writer.change(call, change, tracked=True)
    return Answer(obj=_scale_of(await _shown(call, entry.object), paths))


def _no_number(paths: ScalePaths) -> ApiError:
    """Of a custom kind whose number has no default: upstream's word for a Scale that nobody has set."""
    text = f'the spec replicas field ".{".".join(paths.spec)}" does not exist'
    return ApiError(500, "InternalError", f"Internal error occurred: {text}", {"causes": [{"message": text}]})


def _check_read(call: Call, scale: Object, repeated: list[str]) -> None:
    decode.check_kind(SCALE, scale, call.earlier)
    decode.check_types(call, SCALE, scale)
    decode.check_fields(call, SCALE, scale, repeated)


def _patched(call: Call, content: str, present: Object, body: Any, repeated: list[str]) -> Object:
    """The Scale that a patch of the present one makes. Raises ApiError 422 for what is none, 400 for one of another
    name."""
    made = patching.patch(content, present, body, SCALE.schema)
    if isinstance(made, dict) and made.get("apiVersion") in (None, ""):
        if content == STRATEGIC_MERGE_PATCH or call.served.crd is not None:  # its codec needs no version
            made["apiVersion"] = SCALE.resource.api_version
        else:
            if call.query.get("fieldValidation", "Warn") == "Warn":
                call.warnings.extend(f'unknown field "{name}"' for name in sorted(made.keys() - {"apiVersion", "kind"}))
            decode.check_name(call, {"metadata": {}})  # of no version, its fields are not found: upstream's words
    try:
        _check_read(call, decode.check_object(made), repeated)
    except ApiError as error:
        raise patching.refused(content, body, made, error) from None
    decode.check_name(call, made)
    return made


def _apply(call: Call, present: Object, body: Any, repeated: list[str]) -> Object:
    """The Scale that applying one to the present one makes. Raises ApiError 400 for what is none, 409 with the
    conflicts."""
    if isinstance(body, dict):
        decode.check_applied_kind(SCALE, body)
        if call.served.crd is not None and not present["metadata"].get("managedFields"):
            raise bad_request(f"failed to create manager for existing fields: {_UNCONVERTED.format('live', '')}")
        decode.check_applied(call, SCALE, body)
    applied = decode.check_object(body)
    applied["metadata"].setdefault("name", call.name)
    made = apply.apply(
        present, applied, SCALE.schema, manager=call.field_manager, force=call.flag("force"), subresource="scale",
        now=now(),
    )  # fmt: skip
    if call.served.crd is not None and not carry.alike(made, present):
        raise bad_request(_UNCONVERTED.format("new", call.name))
    decode.check_name(call, applied)
    decode.read_applied(SCALE, made)
    decode.check_fields(call, SCALE, applied, repeated)
    return json_copy(made)  # type: ignore[no-any-return]


def _track(call: Call, present: Object, wanted: Object) -> Object:
    """The Scale that was sent, with its owners. It leaves its zero out: who scales to nothing owns nothing."""
    spec = {name: value for name, value in (wanted.get("spec") or {}).items() if value}
    return managed_fields.track_update(
        present, {**wanted, "spec": spec}, SCALE.schema, manager=call.field_manager, subresource="scale",
        api_version=SCALE.resource.api_version, now=now(),
    )  # fmt: skip


async def _shown(call: Call, obj: Object) -> Object:
    """A stored object in the version asked for."""
    kind = call.served
    if kind.converter is None:
        return kind.outward(obj)
    return (await kind.converter.convert([obj], kind.resource.api_version))[0]


def _lookup(obj: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    return obj


def _with(obj: Object, path: tuple[str, ...], value: Any) -> Object:
    """`obj`, with a value set at a path, in place."""
    node = obj
    for step in path[:-1]:
        node = node.setdefault(step, {})
    node[path[-1]] = value
    return obj


def _scale_of(obj: Object, paths: ScalePaths) -> Object:
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": _lookup(obj, paths.status) or 0}
    selector = _lookup(obj, paths.selector) if paths.selector else _lookup(obj, ("spec", "selector"))
    if isinstance(selector, str):
        status["selector"] = selector
    elif isinstance(selector, dict):
        from sampan.kube.selectors import from_label_selector, from_labels

        labelled = "matchLabels" in selector or "matchExpressions" in selector
        status["selector"] = str(from_label_selector(selector) if labelled else from_labels(selector))
    replicas = _lookup(obj, paths.spec) or 0
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }
