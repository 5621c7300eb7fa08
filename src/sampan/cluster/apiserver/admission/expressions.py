"""Expressions of admission: the variables they see, compiled once each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sampan.cluster.apiserver.admission.attributes import Attributes
from sampan.cluster.apiserver.cel import BOOL, DYN, STRING, Program, Type, compile_program, list_of, map_of
from sampan.cluster.apiserver.kind import Kind

_KIND = Type("kubernetes.GroupVersionKind", fields={"group": STRING, "version": STRING, "kind": STRING})
_RESOURCE = Type("kubernetes.GroupVersionResource", fields={"group": STRING, "version": STRING, "resource": STRING})
_USER = Type(
    "kubernetes.UserInfo",
    fields={"username": STRING, "uid": STRING, "groups": list_of(STRING), "extra": map_of(STRING, list_of(STRING))},
)
REQUEST = Type(
    "kubernetes.AdmissionRequest",
    fields={
        "kind": _KIND, "resource": _RESOURCE, "subResource": STRING, "requestKind": _KIND, "requestResource": _RESOURCE,
        "requestSubResource": STRING, "name": STRING, "namespace": STRING, "operation": STRING, "userInfo": _USER,
        "dryRun": BOOL, "options": DYN,
    },
)  # fmt: skip
BASE: dict[str, Type] = {"object": DYN, "oldObject": DYN, "request": REQUEST}


def bindings(attributes: Attributes, kind: Kind) -> dict[str, Any]:
    return {
        "object": attributes.shown(attributes.new, kind),
        "oldObject": attributes.shown(attributes.old, kind),
        "request": attributes.request(kind),
    }


@lru_cache(maxsize=512)
def _compiled(text: str, names: tuple[tuple[str, Type], ...], structures: bool) -> Program:
    return compile_program(text, dict(names), structures=structures)


def program(text: str, variables: Mapping[str, Type], *, structures: bool = False) -> Program:
    """`structures`: objects may be written, as mutations do. Raises SyntaxFault."""
    return _compiled(text, tuple(variables.items()), structures)
