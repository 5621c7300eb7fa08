"""Request bodies into objects: JSON, YAML, protobuf; duplicate and unknown fields by `fieldValidation`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.catalog import Kind
from sampan.kube.errors import ApiError, bad_request, unsupported_media_type
from sampan.kube.objects import Object

PROTOBUF = "application/vnd.kubernetes.protobuf"
JSON_TYPES = {"application/json", "", "*/*", "application/json-patch+json", "application/merge-patch+json",
              "application/strategic-merge-patch+json"}  # fmt: skip
YAML_TYPES = {"application/yaml", "application/apply-patch+yaml"}
_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode

MAX_NODES = 500_000
MAX_DEPTH = 200
FIELD_VALIDATION = ("Strict", "Warn", "Ignore")


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


class _Repeated(dict[str, Any]):
    """An object whose text named a field twice."""

    repeated: tuple[str, ...] = ()


def read_body(call: Call) -> tuple[Any, list[str]]:
    """(value, duplicate field messages). Raises ApiError 400 or 415."""
    body = call.body
    if not isinstance(body, bytes):
        try:
            return json_copy(body), []
        except TypeError as error:
            raise bad_request(f"the body is not JSON-shaped: {error}") from None
    kind = media_type(call.content_type)
    if kind == PROTOBUF:
        return _read_protobuf(body), []
    if kind in YAML_TYPES:
        return _read_yaml(body), []
    if kind not in JSON_TYPES:
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: "
            f"application/json, application/yaml, {PROTOBUF}"
        )
    return _read_json(body, lenient=call.query.get("fieldValidation") == "Ignore")


def json_copy(value: Any) -> Any:
    """A deep copy of a JSON-shaped value; through its text, which is several times faster than walking it."""
    return _decode(_encode(value))


def _read_json(body: bytes, *, lenient: bool) -> tuple[Any, list[str]]:
    seen: list[_Repeated] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) == len(items):
            return made
        counts: dict[str, int] = {}
        for key, _ in items:
            counts[key] = counts.get(key, 0) + 1
        marked = _Repeated(made)
        marked.repeated = tuple(key for key, count in counts.items() if count > 1)
        seen.append(marked)
        return marked

    try:
        value = msgspec.json.decode(body)
        if not lenient:
            value = json.loads(body, object_pairs_hook=pairs)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    faults: list[str] = []
    if seen:
        _find_repeated(value, "", faults)
        value = json_copy_plain(value)
    return value, faults


def json_copy_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: json_copy_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_copy_plain(item) for item in value]
    return value


def _find_repeated(value: Any, path: str, faults: list[str]) -> None:
    if isinstance(value, dict):
        if isinstance(value, _Repeated):
            faults.extend(f'duplicate field "{path}{"." if path else ""}{name}"' for name in value.repeated)
        for key, item in value.items():
            _find_repeated(item, f"{path}.{key}" if path else key, faults)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_repeated(item, f"{path}[{index}]", faults)


def _read_yaml(body: bytes) -> Any:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # JSON is the usual case (client-go sends it as YAML) and far faster to read.
        if body.lstrip()[:1] == b"{":
            return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass
    try:
        # The C loader builds nested values recursively and would overrun its stack; its parser does not.
        depth = 0
        for event in yaml.parse(body, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise bad_request("the YAML body is nested too deeply")
        documents = list(yaml.load_all(body, Loader=loader))
        if len(documents) != 1:
            raise bad_request("the body must hold exactly one YAML document")
        return _plain(documents[0], [MAX_NODES])
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, MemoryError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from None


def _plain(value: Any, budget: list[int]) -> Any:
    """YAML as JSON has it: dates as text, keys as strings, aliases copied, but not into more than `MAX_NODES`."""
    budget[0] -= 1
    if budget[0] < 0:
        raise bad_request("the YAML body expands to too much")
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(key): _plain(item, budget) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, budget) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else str(value)


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

    if kind.crd is None and call.encoded:
        fault = decoding.decode_fault(kind.schema, obj, kind.resource.kind, kind.resource.version)
        if fault:
            raise bad_request(fault)


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


def check_name(call: Call, obj: Object) -> None:
    """400 for an object that names another one than the path, or none."""
    metadata = obj["metadata"]
    if not metadata.get("name"):
        raise bad_request(
            f"the name of the object ({call.name} based on URL) was undeterminable: name must be provided"
        )
    if metadata["name"] != call.name:
        raise bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({call.name})"
        )
    if call.namespace and (metadata.get("namespace") or call.namespace) != call.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


def check_owners(call: Call, obj: Object) -> None:
    """Keep one of owner references that are the same, and say so."""
    owners = obj["metadata"].get("ownerReferences")
    if not isinstance(owners, list) or len(owners) < 2:
        return
    kept = [owner for index, owner in enumerate(owners) if owner not in owners[:index]]
    uids = [owner.get("uid") for owner in owners if isinstance(owner, dict)]
    repeated = dict.fromkeys(uid for index, uid in enumerate(uids) if uid in uids[:index])
    if repeated:
        call.warnings.append(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may"
            " reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed:"
            f" {', '.join(map(str, repeated))}"
        )
    obj["metadata"]["ownerReferences"] = kept


def check_fields(call: Call, kind: Kind, obj: Object, repeated: list[str]) -> None:
    """Report unknown and duplicate fields as asked: an error (Strict), warnings (Warn), or nothing (Ignore)."""
    from sampan.kube import schema

    mode = call.query.get("fieldValidation") or ("Warn" if isinstance(call.body, bytes) else "Ignore")
    if mode not in FIELD_VALIDATION:
        raise ApiError(
            422,
            "Invalid",
            f'fieldValidation: Unsupported value: "{mode}": supported values: "Ignore", "Strict", "Warn"',
        )
    if mode == "Ignore":
        return
    faults = [*repeated, *schema.unknown_fields(kind.schema, obj)]
    if not faults:
        return
    if mode == "Strict":
        raise bad_request(
            f'{kind.resource.kind} in version "{kind.resource.version}" cannot be handled as a '
            f"{kind.resource.kind}: strict decoding error: {', '.join(faults)}"
        )
    call.warnings.extend(faults)


def check_kind(kind: Kind, obj: Object) -> None:
    """Fill in or check apiVersion and kind. Raises ApiError 400 when the body is of another kind than the path."""
    resource = kind.resource
    for name, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        found = obj.setdefault(name, wanted)
        if not found:
            obj[name] = wanted
        elif found != wanted:
            raise bad_request(
                f"{obj.get('kind')!r} in version {obj.get('apiVersion')!r} in the body does not match the path, which"
                f" is for {resource.kind!r} in version {resource.api_version!r}"
            )
