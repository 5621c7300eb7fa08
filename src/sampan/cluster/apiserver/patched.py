"""What a JSON, merge or strategic merge patch made of an object, read as an object of its kind."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver import decode, patching
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.kind import Kind
from sampan.kube.errors import ApiError, bad_request
from sampan.kube.objects import Object


def checked(call: Call, content: str, body: Any, patched: Any, repeated: list[str]) -> Object:
    """`patched`, or ApiError 400, 409 or 422. `repeated`: what the body gave twice."""
    kind = call.served
    if kind.crd is None:
        if content == patching.STRATEGIC and isinstance(patched, dict):
            decode.read_merged(kind, patched)
        unversioned = isinstance(patched, dict) and patched.get("apiVersion") in (None, "")
        if unversioned and patched.get("kind") in (None, "", kind.resource.kind):
            _refuse_unversioned(call, content, body, patched)
    try:
        made = (_built_in if kind.crd is None else _custom)(call, kind, patched, repeated)
    except ApiError as error:
        raise patching.refused(content, body, patched, error) from None
    decode.check_name(call, made)
    if kind.crd is not None:
        decode.check_same_kind(kind, made)
    return made


def _built_in(call: Call, kind: Kind, patched: Any, repeated: list[str]) -> Object:
    made = decode.check_object(patched)
    decode.check_kind(kind, made)
    decode.check_types(call, kind, made)
    decode.check_fields(call, kind, made, repeated)
    return made


def _custom(call: Call, kind: Kind, patched: Any, repeated: list[str]) -> Object:
    from sampan.kube import schema

    decode.check_patched(kind, patched)
    made = decode.check_object(patched)
    decode.check_types(call, kind, made)
    if decode.is_of(kind, made):
        node = kind.schema_at(made.get("apiVersion") or "") or schema.no_fields()  # a version that is none has none
        decode.check_fields(call, kind, made, repeated, node)
    else:  # metadata are alike in every kind
        decode.check_fields(call, kind, {"metadata": made["metadata"]}, [])
    return made


def _refuse_unversioned(call: Call, content: str, body: Any, patched: Object) -> None:
    """The fields of an object of no version are not found: upstream's words."""
    unknown = [f'unknown field "{name}"' for name in sorted(patched.keys() - {"apiVersion", "kind"})]
    mode = call.query.get("fieldValidation", "Warn")
    if mode == "Strict" and unknown:
        raise patching.refused(content, body, patched, bad_request(f"strict decoding error: {', '.join(unknown)}"))
    call.warnings.extend(unknown if mode == "Warn" else ())
    decode.check_name(call, {"metadata": {}})
