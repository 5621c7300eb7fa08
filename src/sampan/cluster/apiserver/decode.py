"""Request bodies into objects: JSON, YAML, protobuf; duplicate and unknown fields by `fieldValidation`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.cluster.apiserver import yaml_bodies
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.kind import Kind
from sampan.kube import numbers
from sampan.kube.errors import Cause, bad_request, invalid, unsupported_media_type
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.kube.schema import Schema

PROTOBUF = "application/vnd.kubernetes.protobuf"
JSON_TYPES = {"application/json", "", "*/*", "application/json-patch+json", "application/merge-patch+json",
              "application/strategic-merge-patch+json"}  # fmt: skip
YAML_TYPES = {"application/yaml", "application/apply-patch+yaml"}
UNTYPED = {"application/apply-patch+yaml", "application/strategic-merge-patch+json"}
"""What is read before the types of its fields are known, as all of a custom kind is."""
_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


class _Repeated(dict[str, Any]):
    """An object whose text named a field twice."""

    repeated: tuple[str, ...] = ()
    first: Mapping[str, Any] = MappingProxyType({})


def read_body(call: Call) -> tuple[Any, list[str]]:
    """(value, duplicate field messages). Raises ApiError 400 or 415."""
    value, repeated = _read(call)
    loose = media_type(call.content_type) in UNTYPED or (call.kind is not None and call.kind.crd is not None)
    if loose and isinstance(call.body, bytes) and numbers.may_differ(call.body):
        value = numbers.held(value)
    return value, repeated


def _read(call: Call) -> tuple[Any, list[str]]:
    body = call.body
    if not isinstance(body, bytes):
        try:
            return json_copy(body), []
        except TypeError as error:
            raise bad_request(f"the body is not JSON-shaped: {error}") from None
    kind = media_type(call.content_type)
    if kind == PROTOBUF:
        return _read_protobuf(body), []
    misplaced = "patch+" in kind and call.verb not in {"", "patch"}
    if kind in YAML_TYPES and not misplaced:
        return yaml_bodies.read(body), yaml_bodies.repeated_keys(body)
    if kind not in JSON_TYPES or misplaced:
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: "
            f"application/json, application/yaml, {PROTOBUF}"
        )
    return _read_json(call, body)


def json_copy(value: Any) -> Any:
    """A deep copy of a JSON-shaped value; through its text, which is several times faster than walking it."""
    return _decode(_encode(value))


def _read_json(call: Call, body: bytes) -> tuple[Any, list[str]]:
    seen: list[_Repeated] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) == len(items):
            return made
        counts: dict[str, int] = {}
        marked = _Repeated()
        for key, value in items:
            counts[key] = counts.get(key, 0) + 1
            earlier = marked.get(key)
            marked[key] = {**earlier, **value} if isinstance(earlier, dict) and isinstance(value, dict) else value
        marked.first = dict(reversed(items))
        marked.repeated = tuple(key for key, count in counts.items() if count > 1)
        seen.append(marked)
        return marked

    try:
        value = _decode(body)
        if _encode(value) != body:  # what comes out as it went in names no field twice
            value = json.loads(body, object_pairs_hook=pairs)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    faults: list[str] = []
    if seen:
        _find_repeated(value, "", faults)
        call.earlier = _first(value)
        value = json_copy_plain(value)
    return value, faults


def _first(value: Any) -> Any:
    """A copy that has of each field named twice the value it was first given."""
    if isinstance(value, dict):
        first = value.first if isinstance(value, _Repeated) else {}
        return {key: _first(first.get(key, item)) for key, item in value.items()}
    return [_first(item) for item in value] if isinstance(value, list) else value


def json_copy_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: json_copy_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_copy_plain(item) for item in value]
    return value


def _find_repeated(value: Any, path: str, faults: list[str]) -> None:
    if isinstance(value, dict):
        repeated = value.repeated if isinstance(value, _Repeated) else ()
        for key, item in value.items():
            if key in repeated:
                _find_repeated(value.first[key], f"{path}.{key}" if path else key, faults)  # type: ignore[attr-defined]
                faults.append(f'duplicate field "{path}{"." if path else ""}{key}"')
            _find_repeated(item, f"{path}.{key}" if path else key, faults)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_repeated(item, f"{path}[{index}]", faults)


def _read_protobuf(body: bytes) -> Any:
    try:
        from sampan.kube import protobuf
    except ImportError:
        raise unsupported_media_type("protobuf bodies cannot be read here") from None
    try:
        return protobuf.decode(body)
    except (ValueError, KeyError, IndexError, RecursionError, UnicodeError) as error:
        raise bad_request(f"the body is not a valid protobuf object: {error}") from None


def check_object(value: Any) -> Object:
    """Raises ApiError 400 for what is no object at all."""
    if not isinstance(value, dict):
        raise bad_request("the body must be an object with apiVersion and kind")
    metadata = value.get("metadata")
    if metadata is None:
        value["metadata"] = {}
    elif not isinstance(metadata, dict):
        found = {bool: "bool", str: "string", list: "array"}.get(type(metadata), "number")
        name, version = value.get("kind"), str(value.get("apiVersion")).rpartition("/")[2]
        raise bad_request(
            f'{name} in version "{version}" cannot be handled as a {name}: json: cannot unmarshal {found} into Go'
            f" struct field {name}.metadata of type v1.ObjectMeta"
        )
    for name in ("name", "namespace", "generateName", "resourceVersion", "uid"):
        if value["metadata"].get(name) is not None and not isinstance(value["metadata"][name], str):
            raise bad_request(f"metadata.{name} must be a string")
    return value


def check_types(call: Call, kind: Kind, obj: Object) -> None:
    """400 for a built-in object whose fields have the wrong JSON type: upstream cannot decode such a body.

    Calls from within the process go without: validation refuses the same objects, with 422."""
    from sampan.kube import decoding

    if kind.crd is not None and call.encoded:
        named = {"metadata": obj["metadata"]}
        fault = decoding.decode_fault(kind.schema, named, kind.resource.kind, kind.resource.version)
        if fault:
            raise bad_request(fault)
    if kind.crd is None and call.encoded:
        # a field named twice is read twice
        fault = decoding.decode_fault(kind.schema, obj, kind.resource.kind, kind.resource.version, earlier=call.earlier)
        if fault:
            raise bad_request(fault)


def read_part(call: Call) -> Object:
    """The body of a subresource that has a kind of its own (Binding, Eviction, TokenRequest). Raises ApiError 400 for
    what is no such object."""
    from sampan.kube import decoding, kinds, schema

    obj = check_object(read_body(call)[0])
    group, version, kind = kinds.SUBRESOURCE_KINDS[call.subresource or ""]
    found = schema.for_kind(f"{group}/{version}" if group else version, kind)
    fault = decoding.decode_fault(found, obj, kind, version) if found is not None else None
    if fault:
        raise bad_request(fault)
    return obj


def check_applied_kind(kind: Kind, body: Object) -> None:
    """400 for an object to apply of no kind or another one."""
    api_version, name = body.get("apiVersion") or "", body.get("kind") or ""
    if (api_version, name) != (kind.resource.api_version, kind.resource.kind):
        shown = api_version if "/" in str(api_version) else f"/{api_version}"
        raise bad_request(f"invalid object type: {shown if api_version else '/'}, Kind={name}")


def check_applied(call: Call, kind: Kind, obj: Object) -> None:
    """400 for an object that cannot be applied: wrong types, and fields its schema lacks."""
    from sampan.kube import decoding

    if fault := decoding.typed_fault(kind.schema, obj):
        resource, metadata = kind.resource, obj.get("metadata")
        if not isinstance(metadata, dict):
            metadata = {}
        version = resource.api_version if resource.group else f"/{resource.api_version}"
        raise bad_request(
            f"failed to create typed patch object ({metadata.get('namespace') or ''}/{metadata.get('name') or ''};"
            f" {version}, Kind={resource.kind}): {fault}",
        )


def read_applied(kind: Kind, obj: Object) -> None:
    """Read an applied object as its types, in place. Raises ApiError 400 for text that a built-in kind has no type for:
    quantities, base64."""
    from sampan.kube import decoding

    if kind.crd is None and (
        fault := decoding.decode_fault(kind.schema, obj, kind.resource.kind, kind.resource.version, strict=True)
    ):
        resource, metadata = kind.resource, obj["metadata"]
        version = resource.api_version if resource.group else f"/{resource.api_version}"
        fault = fault.partition(" cannot be handled as a ")[2].partition(": ")[2].removeprefix("unmarshalerDecoder: ")
        if "base64" in fault:
            fault = f"error decoding from json: {fault}"
        raise bad_request(
            f"failed to convert new object (/{metadata.get('name') or ''}; {version}, Kind={resource.kind}) to proper"
            f" version: unable to convert unstructured object to {version}, Kind={resource.kind}: {fault}"
        )
    if kind.crd is None:
        decoding.narrow(kind.schema, obj)


def check_name(call: Call, obj: Object) -> None:
    """400 for an object that names another one than the path, or none."""
    metadata = obj["metadata"]
    if call.namespace and (metadata.get("namespace") or call.namespace) != call.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if not metadata.get("name"):
        raise bad_request(
            f"the name of the object ({call.name} based on URL) was undeterminable: name must be provided"
        )
    if metadata["name"] != call.name:
        raise bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({call.name})"
        )


OWNER = {"apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"}
"""The fields of an owner reference; what else is given tells none from another."""


def check_owners(call: Call, obj: Object) -> None:
    """Keep one of owner references that are the same, and say so."""
    owners = obj["metadata"].get("ownerReferences")
    if not isinstance(owners, list) or len(owners) < 2:
        return
    known = [{k: v for k, v in owner.items() if k in OWNER} if isinstance(owner, dict) else owner for owner in owners]
    kept = [owner for index, owner in enumerate(owners) if known[index] not in known[:index]]
    again = [owner for index, owner in enumerate(owners) if known[index] in known[:index]]
    if repeated := [str(owner.get("uid")) for owner in again if isinstance(owner, dict)]:
        when = " after mutating admission happens" if call.verb == "patch" else ""
        call.warnings.append(
            f".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+,"
            " and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed:"
            f" {', '.join(repeated)}"
        )
    obj["metadata"]["ownerReferences"] = kept


def _within(fault: str, path: str) -> bool:
    """Whether a field given twice is the one at `path`, or below it."""
    where = fault.removeprefix("duplicate field ").strip('"')
    return where == path or where.startswith((f"{path}.", f"{path}["))


def check_fields(call: Call, kind: Kind, obj: Object, repeated: list[str], node: Schema | None = None) -> None:
    """Report unknown and duplicate fields as asked: an error (Strict), warnings (Warn), or nothing (Ignore).

    `node`: the schema of the object, if it is of another version than the request.
    """
    from sampan.kube import schema

    mode = call.query.get("fieldValidation") or ("Warn" if isinstance(call.body, bytes) else "Ignore")
    if mode == "Ignore":
        return
    applied = media_type(call.content_type) == "application/apply-patch+yaml"
    yaml = applied or media_type(call.content_type) == "application/yaml"
    unknown = schema.unknown_fields(node or kind.schema, obj)
    if kind.crd is not None:  # in order, but what is said of the metadata is first
        unknown.sort(key=lambda fault: (not fault.startswith('unknown field "metadata.'), fault))
    if kind.crd is None and not yaml and call.verb != "patch":  # what is unknown is not looked into
        hidden = [fault.removeprefix("unknown field ").strip('"') for fault in unknown]
        repeated = [fault for fault in repeated if not any(_within(fault, path) for path in hidden)]
    faults = [*repeated, *unknown]
    if not faults:
        return
    if mode == "Strict":
        if kind.crd is None and repeated and unknown and not yaml and call.verb != "patch":
            from sampan.cluster.apiserver.strict import in_order

            faults = in_order(call.body, faults)
        if yaml and repeated:
            said = "yaml: unmarshal errors:\n" + "\n".join(f"  {fault}" for fault in repeated)
            if applied:
                raise bad_request(f"error strict decoding YAML: error converting YAML to JSON: {said}")
            faults = [said, *unknown]
        raise bad_request(
            f'{kind.resource.kind} in version "{kind.resource.version}" cannot be handled as a '
            f"{kind.resource.kind}: strict decoding error: {', '.join(faults)}"
        )
    call.warnings.extend(faults)


def check_named(kind: Kind, obj: Object) -> None:
    """400 for a custom object that names no kind or version: it is of no type that is known without."""
    resource = kind.resource
    _check_kind_named(kind, obj)
    if obj.get("apiVersion") in (None, ""):
        raise bad_request(
            f"the API version in the data () does not match the expected API version ({resource.api_version})"
        )


def _check_kind_named(kind: Kind, obj: Object) -> None:
    if obj.get("kind") in (None, ""):
        text = json.dumps(obj, ensure_ascii=False)
        raise bad_request(
            f"the object provided is unrecognized (must be of type {kind.resource.kind}): Object 'Kind' is missing in"
            f" '{text}'"
        )


def read_merged(kind: Kind, obj: Object) -> None:
    """Read, in place, what a strategic merge makes of a built-in object: its type is known without being named, and
    numbers too large for their fields are cut."""
    from sampan.kube import decoding

    for name, value in (("apiVersion", kind.resource.api_version), ("kind", kind.resource.kind)):
        if obj.get(name) in (None, ""):
            obj[name] = value
    decoding.narrow(kind.schema, obj)


def check_patched(kind: Kind, patched: Any) -> None:
    """400 for what a patch makes of a custom object that names no kind, or names it or a version with no text."""
    if isinstance(patched, dict):
        _check_texts(kind, patched)
        _check_kind_named(kind, patched)
        if "apiVersion" in patched and patched["apiVersion"] is None:
            raise bad_request("unreadable: .apiVersion accessor error: <nil> is of the type <nil>, expected string")
        if (version := patched.get("apiVersion") or "").count("/") > 1:
            raise bad_request(f"unexpected GroupVersion string: {version}")


def is_of(kind: Kind, obj: Object) -> bool:
    """Whether an object is of a kind, in whatever version: of others the fields are not known."""
    group = (obj.get("apiVersion") or "").rpartition("/")[0]
    return (group, obj.get("kind")) == (kind.resource.group, kind.resource.kind)


def check_same_kind(kind: Kind, patched: Object) -> None:
    """400 for what a patch makes of a custom object without a version; 422 for one of another kind or version."""
    resource, version = kind.resource, patched.get("apiVersion")
    if not version:
        raise bad_request("Object 'apiVersion' is missing in 'object has no apiVersion field'")
    wrong = [
        Cause(name, f"Invalid value: {json.dumps(patched[name])}: must be {wanted}")
        for name, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind))
        if patched[name] != wanted
    ]
    if wrong:
        raise invalid(patched["kind"], patched["metadata"]["name"], wrong, version.rpartition("/")[0])


def _check_texts(kind: Kind, *objects: Any) -> None:
    from sampan.kube.decoding import json_word

    resource = kind.resource
    for each in objects:
        for name in ("apiVersion", "kind"):
            if isinstance(each, dict) and not isinstance(each.get(name), str | None):
                raise bad_request(
                    f"the object provided is unrecognized (must be of type {resource.kind}): couldn't get version/kind;"
                    f" json parse error: json: cannot unmarshal {json_word(each[name])} into Go struct field .{name} of"
                    " type string"
                )


def check_kind(kind: Kind, obj: Object, earlier: Any = None) -> None:
    """Fill in or check apiVersion and kind. Raises ApiError 400 when the body is of another kind than the path."""
    resource = kind.resource
    _check_texts(kind, earlier, obj)
    for name, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        found = obj.setdefault(name, wanted)
        if not found:
            obj[name] = wanted
        elif found != wanted:
            raise bad_request(
                f"{obj.get('kind')!r} in version {obj.get('apiVersion')!r} in the body does not match the path, which"
                f" is for {resource.kind!r} in version {resource.api_version!r}"
            )
