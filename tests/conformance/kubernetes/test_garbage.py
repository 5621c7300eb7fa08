"""What becomes of dependents, of pods under a budget, and of what is in a namespace that goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Wire

Object = dict[str, Any]
NOBODY = "11111111-1111-1111-1111-111111111111"
HOLD = "example.com/hold"


class Maps:
    """Config maps of a namespace that own each other."""

    def __init__(self, wire: Wire, ns: str) -> None:
        self.wire, self.ns, self.path = wire, ns, f"/api/v1/namespaces/{ns}/configmaps"

    def make(self, name: str, *owners: Object, **metadata: Any) -> Any:
        body = {"metadata": {"name": name, "ownerReferences": list(owners), **metadata}}
        reply = self.wire.post(self.path, body)
        assert reply.code == 201, reply
        return reply.body

    def get(self, name: str) -> Any:
        return self.wire.get(f"{self.path}/{name}")

    def deleting(self, name: str) -> bool:
        return "deletionTimestamp" in self.get(name)["metadata"]

    def delete(self, name: str, policy: str = "Background") -> Any:
        return self.wire.delete(f"{self.path}/{name}", {"propagationPolicy": policy})

    def gone(self, name: str) -> None:
        eventually(lambda: self.get(name).code == 404, what=f"{name} gone")

    def release(self, name: str) -> None:
        self.wire.patch(f"{self.path}/{name}", {"metadata": {"finalizers": None}})


@pytest.fixture
def maps(wire: Wire, ns: str) -> Maps:
    return Maps(wire, ns)


def owner(obj: Object, **more: Any) -> Object:
    kind = obj.get("kind") or "ConfigMap"
    metadata = obj["metadata"]
    return {"apiVersion": "v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"], **more}


def test_background_goes_down_the_chain(maps: Maps) -> None:
    middle = maps.make("middle", owner(maps.make("top")))
    maps.make("leaf", owner(middle))
    assert maps.delete("top").code == 200
    assert maps.get("top").code == 404, "the owner is gone at once"
    maps.gone("middle")
    maps.gone("leaf")


def test_foreground_waits_for_those_that_block(maps: Maps) -> None:
    top = maps.make("top")
    maps.make("blocks", owner(top, blockOwnerDeletion=True), finalizers=[HOLD])
    maps.make("follows", owner(top), finalizers=[HOLD])
    reply = maps.delete("top", "Foreground")
    assert (reply.code, reply["metadata"]["finalizers"]) == (200, ["foregroundDeletion"])
    for name in ("blocks", "follows"):
        eventually(partial(maps.deleting, name))
    assert maps.get("top")["metadata"]["deletionTimestamp"]
    maps.release("blocks")
    maps.gone("top")
    assert maps.get("follows").code == 200, "nobody waited for it"
    maps.release("follows")


def test_orphans_forget_their_owner(maps: Maps) -> None:
    maps.make("child", owner(maps.make("top")))
    assert maps.delete("top", "Orphan").code == 200
    maps.gone("top")
    assert "ownerReferences" not in maps.get("child")["metadata"]


def test_an_object_lives_as_long_as_one_owner(maps: Maps) -> None:
    first, second = maps.make("first"), maps.make("second")
    maps.make("child", owner(first), owner(second))
    maps.delete("first")
    eventually(lambda: [row["name"] for row in maps.get("child")["metadata"]["ownerReferences"]] == ["second"])
    maps.delete("second")
    maps.gone("child")


@pytest.mark.parametrize(
    "reference",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "top", "uid": NOBODY},
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": NOBODY},
        {"apiVersion": "v1", "kind": "Namespace", "name": "never-was", "uid": NOBODY},
    ],
)
def test_an_owner_that_is_not(maps: Maps, reference: Object) -> None:
    maps.make("top")
    maps.make("child", reference)
    maps.gone("child")
    assert maps.get("top").code == 200


def settled(wire: Wire, ns: str) -> None:
    """The collector has come this far: what was made before has been looked at."""
    maps = Maps(wire, ns)
    maps.make("probe", {"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": NOBODY})
    maps.gone("probe")
    time.sleep(0.5)


def test_owners_that_cannot_be_known_are_let_be(wire: Wire, ns: str, maps: Maps) -> None:
    maps.make("unknown", {"apiVersion": "nope.example.com/v1", "kind": "Nope", "name": "x", "uid": NOBODY})
    maps.make("of-namespace", owner({"kind": "Namespace", **wire.get(f"/api/v1/namespaces/{ns}").body}))
    settled(wire, ns)
    assert maps.get("unknown").code == maps.get("of-namespace").code == 200


def test_owners_in_another_namespace(wire: Wire, ns: str, maps: Maps) -> None:
    there = wire.post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": f"o-{ns}"}}).body
    maps.make("child", owner(there))
    maps.gone("child")
    role = f"role-{ns}"
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    wire.post(roles, {"metadata": {"name": role, "ownerReferences": [owner(there)]}, "rules": []})
    settled(wire, ns)
    assert wire.get(f"{roles}/{role}").code == 200, "a kind of the cluster cannot be owned from a namespace"
    events = "/api/v1/namespaces/default/events"
    told = eventually(
        lambda: [e for e in wire.get(events)["items"] if e["involvedObject"].get("name") == role], what="an event"
    )
    assert (told[0]["reason"], told[0]["type"]) == ("OwnerRefInvalidNamespace", "Warning")
    assert "does not exist in namespace" in told[0]["message"]
    wire.delete(f"{roles}/{role}")
    wire.delete(f"/api/v1/namespaces/default/configmaps/o-{ns}")


BUDGET = "Cannot evict pod as it would violate the pod's disruption budget."


def test_evictions_spend_a_budget(wire: Wire, ns: str) -> None:
    pods, budgets = f"/api/v1/namespaces/{ns}/pods", f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets"
    spec = {"schedulerName": "nobody", "containers": [{"name": "c", "image": "x"}]}
    for name in ("p1", "p2"):
        wire.post(pods, {"metadata": {"name": name, "labels": {"a": "b"}}, "spec": spec})
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        wire.patch(f"{pods}/{name}/status", {"status": ready})
    wire.post(
        budgets, {"metadata": {"name": "b"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"a": "b"}}}}
    )
    status: Callable[[], Any] = lambda: wire.get(f"{budgets}/b").body.get("status") or {}  # noqa: E731
    eventually(lambda: status().get("currentHealthy") == 2)
    assert {key: status().get(key) for key in ("disruptionsAllowed", "desiredHealthy", "expectedPods")} == {
        "disruptionsAllowed": 0,
        "desiredHealthy": 2,
        "expectedPods": 2,
    }

    def evict(name: str, **more: Any) -> Any:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, **more}
        return wire.post(f"{pods}/{name}/eviction", body)

    refused = evict("p1")
    assert (refused.code, refused.reason, refused["message"]) == (429, "TooManyRequests", BUDGET)
    assert refused["details"]["causes"] == [
        {"reason": "DisruptionBudget", "message": "The disruption budget b needs 2 healthy pods and has 2 currently"}
    ]
    assert "retry-after" not in refused.headers, "clients would repeat it by themselves"
    assert evict("p1", metadata={"name": "p2"})["message"] == "name in URL does not match name in Eviction object"
    assert evict("zz").code == 404
    wire.patch(f"{budgets}/b", {"spec": {"minAvailable": 1}})
    eventually(lambda: status().get("disruptionsAllowed") == 1)
    assert evict("p1", deleteOptions={"dryRun": ["All"]}).code == 201
    assert evict("p1").code == 201
    assert evict("p2").code == 429


def test_a_namespace_tells_what_it_waits_for(wire: Wire, ns: str) -> None:
    name = f"{ns}-x{os.getpid() % 97}"
    path = f"/api/v1/namespaces/{name}"
    wire.post("/api/v1/namespaces", {"metadata": {"name": name}})
    wire.post(f"{path}/configmaps", {"metadata": {"name": "held", "finalizers": [HOLD]}})
    reply = wire.delete(path)
    assert (reply.code, reply["kind"], reply["status"]) == (200, "Namespace", {"phase": "Terminating"})
    conditions = eventually(
        lambda: (rows := wire.get(path)["status"].get("conditions") or []) and len(rows) == 5 and rows
    )
    assert {row["type"]: (row["status"], row["reason"]) for row in conditions} == {
        "NamespaceDeletionDiscoveryFailure": ("False", "ResourcesDiscovered"),
        "NamespaceDeletionGroupVersionParsingFailure": ("False", "ParsedGroupVersions"),
        "NamespaceDeletionContentFailure": ("False", "ContentDeleted"),
        "NamespaceContentRemaining": ("True", "SomeResourcesRemain"),
        "NamespaceFinalizersRemaining": ("True", "SomeFinalizersRemain"),
    }
    messages = {row["type"]: row["message"] for row in conditions}
    assert messages["NamespaceContentRemaining"] == "Some resources are remaining: configmaps. has 1 resource instances"
    assert f"{HOLD} in 1 resource instances" in messages["NamespaceFinalizersRemaining"]
    late = wire.post(f"{path}/configmaps", {"metadata": {"name": "late"}})
    assert late.code == 403 and "because it is being terminated" in late["message"]
    assert late.causes == [("NamespaceTerminating", "metadata.namespace", f"namespace {name} is being terminated")]
    wire.patch(f"{path}/configmaps/held", {"metadata": {"finalizers": None}})
    eventually(lambda: wire.get(path).code == 404)


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
def test_some_namespaces_stay(wire: Wire, name: str) -> None:
    reply = wire.delete(f"/api/v1/namespaces/{name}", dryRun="All")
    assert (reply.code, reply["message"]) == (
        403,
        f'namespaces "{name}" is forbidden: this namespace may not be deleted',
    )
