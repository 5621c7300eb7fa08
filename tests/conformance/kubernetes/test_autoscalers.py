"""Autoscalers: the metrics that may be, as both versions see them, and who owns what by either."""

from __future__ import annotations

from typing import Any

from tests.conformance.kubernetes.wire import Reply, Wire

Object = dict[str, Any]
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"}
NOTE = "kubectl.kubernetes.io/last-applied-configuration"


def path(ns: str, version: str = "v2") -> str:
    return f"/apis/autoscaling/{version}/namespaces/{ns}/horizontalpodautoscalers"


def spec(*metrics: Object, **more: Any) -> Object:
    return {"scaleTargetRef": TARGET, "maxReplicas": 3, **({"metrics": list(metrics)} if metrics else {}), **more}


def make(wire: Wire, ns: str, *metrics: Object, name: str = "h", **more: Any) -> Reply:
    return wire.post(path(ns), {"metadata": {"name": name}, "spec": spec(*metrics, **more)})


def said(reply: Reply) -> set[tuple[str, str]]:
    """Field below the first metric, and what is said of it, each once."""
    assert reply.code == 422, reply
    return {(field.removeprefix("spec.metrics[0]."), message) for _, field, message in reply.causes}


def test_a_metric_is_checked_by_the_source_it_has_whatever_its_type(wire: Wire, ns: str) -> None:
    share = {"type": "Utilization", "averageUtilization": 0}
    assert said(make(wire, ns, {"resource": {"target": share}})) >= {
        ("type", "Required value: must specify a metric source type"),
        ("resource.name", "Required value: must specify a resource name"),
        ("resource.target.averageUtilization", "Invalid value: 0: must be greater than 0"),
    }
    raw = {"metric": {"name": "a/b"}, "target": {"type": "Odd"}}
    assert said(make(wire, ns, {"type": "Pods", "external": raw, "resource": {}})) == {
        ("external", "Forbidden: must populate the given metric source only"),
        ("external.metric.name", "Invalid value: \"a/b\": may not contain '/'"),
        (
            "external.target.averageValue",
            "Required value: must set either a target value for metric or a per-pod target",
        ),
        ("external.target.type", 'Invalid value: "Odd": must be either Utilization, Value, or AverageValue'),
        ("pods", "Required value: must populate information for the given metric source"),
        ("resource", "Forbidden: must populate the given metric source only"),
    }


def test_a_source_says_one_thing(wire: Wire, ns: str) -> None:
    both = {"type": "Utilization", "averageUtilization": 5, "averageValue": "1"}
    inside = {"type": "ContainerResource", "containerResource": {"name": "storage", "container": "A_", "target": both}}
    found = said(make(wire, ns, inside))
    assert ("containerResource.name", 'Invalid value: "storage": must be a standard resource for containers') in found
    assert (
        "containerResource.target.averageValue",
        "Forbidden: may not set both a target raw value and a target utilization",
    ) in found
    assert {field for field, _ in found} == {
        "containerResource.name", "containerResource.container", "containerResource.target.averageValue",
    }  # fmt: skip


def test_rules_need_policies_of_some_effect(wire: Wire, ns: str) -> None:
    rules = {"scaleUp": {"stabilizationWindowSeconds": -1, "tolerance": "-1", "policies": [{"type": ""}]}}
    found = {
        (field.removeprefix("spec.behavior.scaleUp."), message)
        for field, message in said(make(wire, ns, behavior=rules))
    }
    assert found == {
        ("stabilizationWindowSeconds", "Invalid value: -1: must be greater than or equal to zero"),
        ("tolerance", 'Invalid value: "-1": must be greater than or equal to 0'),
        ("policies[0].type", 'Unsupported value: "": supported values: "Percent", "Pods"'),
        ("policies[0].value", "Invalid value: 0: must be greater than zero"),
        ("policies[0].periodSeconds", "Invalid value: 0: must be greater than zero"),
    }  # fmt: skip


def test_what_is_scaled_may_be_of_the_core_group_only_as_a_replication_controller(wire: Wire, ns: str) -> None:
    core = {"kind": "ReplicationController", "name": "none"}
    assert make(wire, ns, scaleTargetRef=core).code == 201
    assert said(make(wire, ns, name="other", scaleTargetRef={**core, "kind": "Pod"})) == {
        ("spec.scaleTargetRef.apiVersion", 'Invalid value: "": apiVersion must specify API group')
    }
    assert said(make(wire, ns, name="other", scaleTargetRef={**TARGET, "apiVersion": "a/b/c", "kind": "x/y"})) == {
        ("spec.scaleTargetRef.apiVersion", 'Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c'),
        ("spec.scaleTargetRef.kind", "Invalid value: \"x/y\": may not contain '/'"),
    }


def test_the_type_of_a_target_is_guessed_on_the_way_back_from_v1(wire: Wire, ns: str) -> None:
    metric, raw = {"name": "m"}, {"type": "Value", "averageValue": "1500m"}
    share, value = {"type": "Value", "averageUtilization": 5}, {"type": "Utilization", "value": "1"}
    made = make(
        wire, ns,
        {"type": "External", "external": {"metric": metric, "target": raw}},
        {"type": "Resource", "resource": {"name": "memory", "target": share}},
        {"type": "Object", "object": {"metric": metric, "describedObject": TARGET, "target": value}},
    )  # fmt: skip
    assert made.code == 201, made
    assert wire.patch(f"{path(ns, 'v1')}/h", {"metadata": {"labels": {"written": "by-v1"}}}).code == 200
    metrics = wire.get(f"{path(ns)}/h")["spec"]["metrics"]
    assert [next(iter(m[k]["target"]["type"] for k in m if k != "type")) for m in metrics] == [
        "AverageValue", "Utilization", "Value",
    ]  # fmt: skip


def apply(wire: Wire, ns: str, version: str, manager: str, metadata: Object, **more: Any) -> Reply:
    body = {"apiVersion": f"autoscaling/{version}", "kind": "HorizontalPodAutoscaler"}
    return wire.apply(f"{path(ns, version)}/h", {**body, "metadata": {"name": "h", **metadata}, **more}, manager)


def test_an_apply_of_another_version_that_changes_nothing_has_no_time(wire: Wire, ns: str) -> None:
    labels = {"a": "x", "b": "x"}
    assert apply(wire, ns, "v2", "first", {"labels": labels}, spec=spec()).code == 201
    for version, wanted in (("v1", {"labels": {"a": "x"}}), ("v2", {"labels": {}})):
        reply = apply(wire, ns, version, "second", wanted)
        assert reply.code == 200, reply
        entry = next(e for e in reply["metadata"]["managedFields"] if e["manager"] == "second")
        assert (entry["apiVersion"], "time" in entry) == (f"autoscaling/{version}", False)
        assert reply["metadata"]["labels"] == labels


def test_a_null_in_another_version_takes_what_others_own(wire: Wire, ns: str) -> None:
    assert apply(wire, ns, "v2", "first", {}, spec=spec()).code == 201
    parts: tuple[Object, ...] = ({"scaleTargetRef": None}, {"scaleTargetRef": {"name": None}}, {"scaleTargetRef": {}})
    for wanted in parts:
        refused = apply(wire, ns, "v1", "second", {}, spec=wanted)
        assert refused.code == 409, refused
        assert {field for _, field, _ in refused.causes} == {".spec.scaleTargetRef.kind", ".spec.scaleTargetRef.name"}


def test_what_names_an_owner_twice_is_nobodys_once_it_changes_in_another_version(wire: Wire, ns: str) -> None:
    there = wire.post(f"/api/v1/namespaces/{ns}/configmaps", {"metadata": {"name": "o"}})["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": there}
    metadata = {"name": "h", "ownerReferences": [owner, {**owner, "controller": True}]}
    assert (
        wire.post(path(ns, "v1"), {"metadata": metadata, "spec": {"scaleTargetRef": TARGET, "maxReplicas": 3}}).code
        == 201
    )
    changed = wire.patch(f"{path(ns)}/h", {"metadata": {"labels": {"a": "y"}}})
    assert (changed.code, "managedFields" in changed["metadata"]) == (200, False)
