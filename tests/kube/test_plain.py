"""What is called plain passes every slower walk unchanged; ordinary objects are plain."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import decoding, schema, validation
from sampan.kube.plain import is_plain

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "web",
        "labels": {"app": "web"},
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [{"manager": "me", "fieldsV1": {"f:spec": {"k": [1, None]}}}],
    },
    "spec": {
        "containers": [
            {
                "name": "main",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 2},
                "securityContext": {"runAsUser": 1000, "privileged": False},
            }
        ],
        "tolerations": [{"operator": "Exists"}],
    },
}
SECRET: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dmFsdWU="}}
KINDS = [(schema.for_kind("v1", "Pod"), POD), (schema.for_kind("v1", "Secret"), SECRET)]
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, 1, 1.0, 2**40, -1, True, "", "x", "1000m", "0.5", "dmFsdWU", "dmFs\n", [], [None], {}, {"x": 1}, {"x": None},
     "2026-01-02T03:04:05.1Z", "2026-13-02T03:04:05Z", [{}], {"name": "x"}]
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        found += places(item, (*path, key))
    return found


CASES = [(node, obj, path) for node, obj in KINDS for path in places(obj)]


@pytest.mark.parametrize(("node", "obj"), KINDS, ids=["Pod", "Secret"])
def test_an_ordinary_object_is_plain(node: Any, obj: Any) -> None:
    assert is_plain(node, obj)


@given(st.sampled_from(CASES), ODD, st.booleans())
def test_what_is_plain_no_walk_would_change_or_refuse(case: Any, odd: Any, beside: bool) -> None:
    node, original, path = case
    obj = deepcopy(original)
    parent = obj
    for step in path[:-1]:
        parent = parent[step]
    if beside and isinstance(parent, dict):
        parent["other"] = odd
    else:
        parent[path[-1]] = odd
    if not is_plain(node, obj):
        return
    with pytest.MonkeyPatch.context() as patched:
        for module in (validation, decoding):
            patched.setattr(module, "is_plain", lambda *_: False)
        assert schema.validate(node, obj) == []
        assert schema.unknown_fields(node, obj) == []
        assert decoding.decode_fault(node, obj, obj["kind"], "v1") is None
    assert schema.prune(node, obj) == obj
    canonical = schema.canonical(node, obj)
    assert canonical == obj
    assert repr(canonical) == repr(obj)  # 1 and 1.0 and True are equal


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "containers", 0, "name"), 7),
        (("spec", "containers", 0, "resources", "limits", "cpu"), "1000m"),
        (("spec", "containers", 0, "ports", 0, "containerPort"), 2**31),
        (("spec", "containers", 0, "ports", 0), {"protocol": "TCP"}),
        (("spec", "nodeSelector"), None),
        (("spec", "unknown"), "x"),
        (("metadata", "creationTimestamp"), "2026-01-02"),
    ],
)
def test_what_some_walk_would_change_or_refuse_is_not_plain(path: Any, value: Any) -> None:
    obj = deepcopy(POD)
    parent: Any = obj
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    assert not is_plain(KINDS[0][0], obj)  # type: ignore[arg-type]
