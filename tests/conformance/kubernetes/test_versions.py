"""Versions of a custom kind whose schemas differ, converted by strategy None: what each shows, and who owns what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.fuzz.more_kinds import GADGET
from tests.conformance.kubernetes.wire import APPLY, Wire

GROUP = f"versions{os.getpid()}.example.com"


@pytest.fixture
def roots(wire: Wire) -> Iterator[tuple[str, str]]:
    """The collections of v1 and v2; v2 is stored."""
    made = {**GADGET, "metadata": {"name": f"gadgets.{GROUP}"}, "spec": {**GADGET["spec"], "group": GROUP}}
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert wire.post(definitions, made).code == 201
    paths = f"/apis/{GROUP}/v1/gadgets", f"/apis/{GROUP}/v2/gadgets"
    eventually(lambda: all(wire.get(path).code == 200 for path in paths))
    yield paths
    wire.delete(f"{definitions}/gadgets.{GROUP}")
    eventually(lambda: wire.get(f"{definitions}/gadgets.{GROUP}").code == 404)


def test_a_version_shows_what_its_own_schema_has(wire: Wire, roots: tuple[str, str]) -> None:
    v1, v2 = roots
    obj = {"apiVersion": f"{GROUP}/v1", "kind": "Gadget", "metadata": {"name": "a"}, "spec": {"size": 1, "old": "o"}}
    assert wire.post(v1, obj)["spec"] == {"size": 1}  # the stored version has no `old`
    assert wire.get(f"{v1}/a")["spec"] == {"size": 1}
    assert wire.get(f"{v2}/a")["spec"] == {"size": 1, "new": "is"}


def test_what_another_manager_cannot_see_is_not_applied(wire: Wire, roots: tuple[str, str]) -> None:
    v1, v2 = roots
    obj = {"apiVersion": f"{GROUP}/v2", "kind": "Gadget", "metadata": {"name": "a"}, "spec": {"size": 1}}
    assert wire.post(v2, obj).code == 201
    obj = {**obj, "apiVersion": f"{GROUP}/v1", "spec": {"old": "o"}}
    reply = wire.request("PATCH", f"{v1}/a", obj, content_type=APPLY, fieldManager="m")
    assert reply.code >= 400
    assert reply["message"].endswith(".spec.old: field not declared in schema")


def test_an_autoscaler_is_applied_in_both_versions(wire: Wire, ns: str) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}

    def path(version: str) -> str:
        return f"/apis/autoscaling/{version}/namespaces/{ns}/horizontalpodautoscalers/h"

    def scaler(version: str, **spec: Any) -> dict[str, Any]:
        typed = {"apiVersion": f"autoscaling/{version}", "kind": "HorizontalPodAutoscaler"}
        return {**typed, "metadata": {"name": "h"}, "spec": spec}

    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    whole = {"scaleTargetRef": target, "maxReplicas": 5, "minReplicas": 2}
    made = wire.apply(path("v2"), scaler("v2", **whole, metrics=[{"type": "Resource", "resource": cpu}]), "m1")
    assert made.code == 201
    assert wire.apply(path("v1"), scaler("v1", targetCPUUtilizationPercentage=50, maxReplicas=5), "m2").code == 200
    left = wire.apply(path("v2"), scaler("v2", **whole), "m1")
    assert left["spec"]["metrics"] == [{"type": "Resource", "resource": cpu}], "m2 owns it, in the other version"
    turned = wire.apply(path("v1"), {**scaler("v1"), "spec": {"scaleTargetRef": target, "maxReplicas": 5}}, "m1")
    assert (turned.code, turned["spec"]["minReplicas"]) == (200, 1), "what is dropped goes, whatever the version"
    assert turned["spec"]["targetCPUUtilizationPercentage"] == 50
    for version, manager in (("v1", "m3"), ("v2", "m4")):
        unlabelled = {**scaler(version), "metadata": {"name": "h", "labels": {}}, "spec": {"maxReplicas": 5}}
        assert wire.apply(path(version), unlabelled, manager).code == 200, "no labels are the same in both"


def test_what_a_version_does_not_know_is_lost_by_an_apply_of_nothing(wire: Wire, roots: tuple[str, str]) -> None:
    v1, v2 = roots

    def gadget(version: str, **spec: Any) -> dict[str, Any]:
        made = {"apiVersion": f"{GROUP}/{version}", "kind": "Gadget", "metadata": {"name": "n"}}
        return {**made, "spec": spec} if spec else made

    assert wire.apply(f"{v2}/n", gadget("v2", new="x", size=1), "m1").code == 201
    seen = wire.apply(f"{v1}/n", gadget("v1"), "m2")
    assert (seen.code, seen["spec"], seen["metadata"]["generation"]) == (200, {"size": 1}, 1), "and adds no defaults"
    assert wire.get(f"{v2}/n")["spec"] == {"size": 1, "new": "is"}
