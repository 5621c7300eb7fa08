"""JSON, merge and strategic merge patches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sampan.kube import schema
from sampan.kube.errors import ApiError
from sampan.kube.patch import json as json_patch
from sampan.kube.patch import merge, strategic

POD = schema.load().definition("io.k8s.api.core.v1.Pod")
DEPLOYMENT = schema.load().definition("io.k8s.api.apps.v1.Deployment")
SERVICE = schema.load().definition("io.k8s.api.core.v1.Service")

KEYS = st.sampled_from("abc")
VALUES = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from("xy"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=3)


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_undoes_its_diff(before: Any, after: Any) -> None:
    held = copy.deepcopy(before)
    assert merge.apply(before, merge.diff(before, after)) == after
    assert before == held
    assert merge.diff(after, after) == {}


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"a": None}, {}), ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}), ({}, {"a": {"b": None}}, {"a": {}}),
        ({"a": "b"}, ["c"], ["c"]), ({"e": None}, {"a": 1}, {"e": None, "a": 1}), ([1], {"a": "b"}, {"a": "b"}),
    ],
)  # fmt: skip
def test_merge_patch_as_rfc_7386_shows(target: Any, patch: Any, result: Any) -> None:
    assert merge.apply(target, patch) == result


def op(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": name, "path": path, **more}


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        ({"a": 1}, [op("add", "/b", value=2)], {"a": 1, "b": 2}),
        ({"a": [1, 3]}, [op("add", "/a/1", value=2), op("add", "/a/-", value=4)], {"a": [1, 2, 3, 4]}),
        ({"a": {"b/c~d": 1}}, [op("replace", "/a/b~1c~0d", value=2)], {"a": {"b/c~d": 2}}),
        ({"a": [1, 2]}, [op("remove", "/a/0")], {"a": [2]}),
        ({"a": 1}, [op("move", "/b", **{"from": "/a"})], {"b": 1}),
        ({"a": {}}, [op("copy", "/b", **{"from": "/a"}), op("add", "/b/y", value=2)], {"a": {}, "b": {"y": 2}}),
        ({"a": 1.0}, [op("test", "/a", value=1)], {"a": 1.0}),
        ({"a": 1}, [op("add", "", value={"b": 1})], {"b": 1}),
        ({"a": 1}, [op("replace", "/a", value=None)], {"a": None}),
    ],
)  # fmt: skip
def test_json_patch(target: Any, operations: Any, result: Any) -> None:
    held = copy.deepcopy(target)
    assert json_patch.apply(target, operations) == result
    assert target == held


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ({}, 400), ([1], 400), ([op("jump", "/a")], 400), ([op("add", "/a")], 400), ([op("add", "a", value=1)], 400),
        ([op("remove", "/zz")], 422), ([op("replace", "/zz/y", value=1)], 422), ([op("add", "/l/9", value=1)], 422),
        ([op("test", "/a", value=True)], 422), ([op("test", "/a", value=2)], 422), ([op("remove", "/l/01")], 422),
        ([op("move", "/m/x", **{"from": "/m"})], 422), ([op("test", "/a", value=1)] * 10_001, 413),
    ],
)  # fmt: skip
def test_json_patches_that_do_not_fit(operations: Any, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        json_patch.apply({"a": 1, "l": [1, 2], "m": {}}, operations)
    assert caught.value.code == code


def pod(*containers: Any, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


def smp(target: Any, patch: Any, node: Any = POD) -> Any:
    held = copy.deepcopy((target, patch))
    result = strategic.apply(target, patch, node)
    assert (target, patch) == held
    return result


A, B, C = ({"name": name, "image": name} for name in "abc")


def test_containers_merge_by_name() -> None:
    result = smp(pod(A, B), {"spec": {"containers": [{"name": "b", "image": "x"}, C]}})
    assert result["spec"]["containers"] == [A, {"name": "b", "image": "x"}, C]


def test_directives_in_lists() -> None:
    assert smp(pod(A, B), {"spec": {"containers": [{"$patch": "delete", "name": "a"}]}})["spec"]["containers"] == [B]
    replaced = smp(pod(A, B), {"spec": {"containers": [C, {"$patch": "replace"}]}})
    assert replaced["spec"]["containers"] == [C]
    with pytest.raises(ApiError, match="merge key: name"):
        smp(pod(A), {"spec": {"containers": [{"image": "x"}]}})
    with pytest.raises(ApiError, match="unknown patch type: burn in map"):
        smp(pod(A), {"spec": {"containers": [{"name": "a", "$patch": "burn"}]}})


def test_directives_in_maps() -> None:
    start = pod(A, securityContext={"runAsUser": 1, "fsGroup": 2})
    patch = {"spec": {"securityContext": {"$patch": "replace", "runAsUser": 5}}}
    assert smp(start, patch)["spec"]["securityContext"] == {"runAsUser": 5}
    assert smp(start, {"spec": {"securityContext": {"$patch": "delete"}}})["spec"]["securityContext"] == {}
    assert "securityContext" not in smp(start, {"spec": {"securityContext": None}})["spec"]


def test_retain_keys_replaces_a_union() -> None:
    live = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert smp(live, patch, DEPLOYMENT) == {"spec": {"strategy": {"type": "Recreate"}}}
    with pytest.raises(ApiError, match="retainKeys"):
        smp(live, {"spec": {"strategy": {"$retainKeys": [], "type": "Recreate"}}}, DEPLOYMENT)


def test_primitive_lists() -> None:
    live = {"metadata": {"finalizers": ["a", "b"]}}
    assert smp(live, {"metadata": {"finalizers": ["c", "a"]}})["metadata"]["finalizers"] == ["c", "a", "b"]
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["z"]}}
    assert smp(live, patch)["metadata"]["finalizers"] == ["z", "b"]
    command = smp(pod({"name": "a", "args": ["1", "2"]}), {"spec": {"containers": [{"name": "a", "args": ["3"]}]}})
    assert command["spec"]["containers"][0]["args"] == ["3"]


def test_element_order() -> None:
    def order(*names: str) -> list[dict[str, str]]:
        return [{"name": name} for name in names]

    patch = {"spec": {"$setElementOrder/containers": order("c", "a"), "containers": [C]}}
    assert [c["name"] for c in smp(pod(A, B), patch)["spec"]["containers"]] == ["c", "a", "b"]
    only = {"spec": {"$setElementOrder/containers": order("b", "a")}}
    assert [c["name"] for c in smp(pod(A, B), only)["spec"]["containers"]] == ["b", "a"]


def test_service_ports_merge_by_port_alone_and_new_values_are_taken_as_they_are() -> None:
    live = {"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}
    result = smp(live, {"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 81, "name": None}]}}, SERVICE)
    assert result["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "name": "web"}, {"port": 81, "name": None}]


CONTAINERS = st.lists(
    st.fixed_dictionaries({"name": KEYS}, optional={"image": KEYS, "args": st.lists(KEYS, max_size=2)}),
    max_size=3,
    unique_by=lambda c: c["name"],
)


@given(CONTAINERS, CONTAINERS)
def test_a_strategic_patch_is_idempotent_and_holds(before: Any, patch: Any) -> None:
    assume(before or patch)  # else there is nothing to put in order: an error
    change = {"spec": {"containers": patch, "$setElementOrder/containers": [{"name": c["name"]} for c in patch]}}
    once = smp(pod(*before), change)
    assert smp(once, change) == once
    result = {c["name"]: c for c in once["spec"]["containers"]}
    assert result.keys() == {c["name"] for c in before} | {c["name"] for c in patch}
    for item in patch:
        assert result[item["name"]].items() >= item.items()
    names = [c["name"] for c in once["spec"]["containers"]]
    wanted = [c["name"] for c in patch]
    assert [name for name in names if name in wanted] == wanted
