"""The least of OpenAPI v2, for kubectl 1.27 and 1.28, which ask it whether a PATCH takes `fieldValidation`.

They accept protobuf only, so the few messages of `OpenAPIv2.proto` are written by hand. There are no definitions in it:
those clients then patch with the types built into them, and `explain` reads v3.
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.kube.kinds import Resource

ACCEPTED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What the answer says it is: Go does not take the `@` there."""
PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "force")


def _field(number: int, value: bytes | str) -> bytes:
    """One length-delimited field."""
    data = value.encode() if isinstance(value, str) else value
    size, length = len(data), b""
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + data


def _query(name: str) -> bytes:
    """ParametersItem > Parameter > NonBodyParameter > QueryParameterSubSchema (in, name, type)."""
    schema = _field(2, "query") + _field(4, name) + _field(6, "string")
    return _field(1, _field(2, _field(3, schema)))


def _patch(resource: Resource) -> bytes:
    """An Operation: its parameters and the kind it is for."""
    text = f'group: "{resource.group}"\nkind: {resource.kind}\nversion: {resource.version}\n'
    kind = _field(1, "x-kubernetes-group-version-kind") + _field(2, _field(2, text))
    return b"".join(_field(8, _query(name)) for name in PARAMETERS) + _field(13, kind)


def document(resources: Iterable[Resource]) -> bytes:
    paths = b""
    for resource in resources:
        if "patch" in resource.verbs:
            path = resource.path("{namespace}" if resource.namespaced else None, "{name}")
            paths += _field(2, _field(1, path) + _field(2, _field(8, _patch(resource))))
    return _field(1, "2.0") + _field(2, _field(1, "Kubernetes") + _field(2, "v1.36.0")) + _field(8, paths)
