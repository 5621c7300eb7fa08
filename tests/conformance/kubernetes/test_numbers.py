"""Numbers that do not go into their fields: fractions, whole ones too large, of built-in kinds and custom ones; and
fields given twice of which neither can be read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import STRATEGIC, Reply, Wire

Object = dict[str, Any]
POD: Object = {"containers": [{"name": "c", "image": "i"}]}


def deployments(ns: str) -> str:
    return f"/apis/apps/v1/namespaces/{ns}/deployments"


def apply(wire: Wire, ns: str, **spec: Any) -> Reply:
    template = {"metadata": {"labels": {"app": "x"}}, "spec": POD}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}
    whole = {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": template, **spec}
    return wire.apply(f"{deployments(ns)}/a", {**body, "spec": whole}, force="true")


@pytest.mark.parametrize("there", [False, True])
def test_an_apply_takes_whole_numbers_however_they_are_written(wire: Wire, ns: str, there: bool) -> None:
    if there:
        assert apply(wire, ns).code == 201
    reply = apply(wire, ns, replicas=0.0, minReadySeconds=1e1)
    assert (reply.code, reply["spec"]["replicas"], reply["spec"]["minReadySeconds"]) == (200 if there else 201, 0, 10)
    assert apply(wire, ns, replicas=1e20)["spec"]["replicas"] == 0  # as a processor converts what is too large
    assert apply(wire, ns, replicas=10**20)["spec"]["replicas"] == 0
    broken = apply(wire, ns, replicas=1.5)
    assert broken.code in (400, 500)  # upstream's is no error of the client
    assert broken["message"].endswith("Kind=Deployment: cannot convert float64 to int32")
    surge = apply(wire, ns, strategy={"rollingUpdate": {"maxSurge": 1.5}})
    assert surge["message"].endswith("json: cannot unmarshal number 1.5 into Go value of type int32")


def test_a_strategic_merge_takes_whole_numbers_and_no_fractions(wire: Wire, ns: str) -> None:
    assert apply(wire, ns).code == 201
    path = f"{deployments(ns)}/a"
    assert wire.patch(path, '{"spec": {"minReadySeconds": 3.0}}', STRATEGIC)["spec"]["minReadySeconds"] == 3
    assert wire.patch(path, '{"spec": {"minReadySeconds": 3.5}}', STRATEGIC).code == 422


def test_of_a_field_given_twice_what_a_type_of_its_own_cannot_read_is_said_first(wire: Wire, ns: str) -> None:
    pod = '{"metadata": {"name": "a"}, "spec": {"containers": %s}}'
    named = '[{"name": "c", "image": "i", "resources": {"requests": {"memory": "odd"}}}]'
    first = f'"x", "containers": {named}'
    reply = wire.post(f"/api/v1/namespaces/{ns}/pods", pod % first)
    assert reply.code == 400
    assert "quantities must match the regular expression" in reply["message"]
    reply = wire.post(f"/api/v1/namespaces/{ns}/pods", pod % '"x", "terminationGracePeriodSeconds": "y"')
    assert "cannot unmarshal string into Go struct field PodSpec.spec.containers" in reply["message"]


FORMATS = {"small": {"type": "integer", "format": "int32"}, "whole": {"type": "integer"},
           "part": {"type": "number", "format": "float"}, "day": {"type": "string", "format": "date"},
           "few": {"type": "integer", "enum": [1, 2]}, "either": {"x-kubernetes-int-or-string": True}}  # fmt: skip


@pytest.fixture
def things(wire: Wire, ns: str) -> str:
    """The collection of a custom kind with `FORMATS`."""
    group = f"{ns}.example.com"
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": FORMATS}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    spec = {"group": group, "scope": "Cluster", "names": names, "versions": [version]}
    body = {"metadata": {"name": f"things.{group}"}, "spec": spec}
    assert wire.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body).code == 201
    eventually(lambda: wire.get(f"/apis/{group}/v1/things").code == 200)
    return f"/apis/{group}/v1/things"


def test_formats_name_the_types_of_a_custom_kind(wire: Wire, things: str) -> None:
    def said(**spec: Any) -> list[str]:
        body = {"apiVersion": things[6:].rpartition("/")[0], "kind": "Thing", "metadata": {"name": "a"}, "spec": spec}
        reply = wire.post(things, body, dryRun="All")
        return [] if reply.code == 201 else [message for _, _, message in reply.causes]

    eventually(lambda: not said(whole=1))
    assert said(whole=2.0, small=-(2**31), part=1.5, few=1, either=3.0) == []
    twice = 'Invalid value: "": Checked value must be of type integer {} in spec.{}'
    assert said(small=1.5) == [
        twice.format("with format int32", "small"),
        'Invalid value: "float64": spec.small in body must be of type int32: "float64"',
    ]
    assert said(small=2**31) == [twice.format("with format int32", "small")]
    assert said(small=True) == ['Invalid value: "": spec.small in body must be of type int32: ""']
    assert said(small="x") == ['Invalid value: "string": spec.small in body must be of type integer: "string"']
    assert said(whole=10**20) == [
        twice.format("(default format)", "whole"),
        'Invalid value: "number": spec.whole in body must be of type integer: "number"',
    ]
    assert said(part=1e40) == ['Invalid value: "": Checked value must be of type number with format float in spec.part']
    assert said(day=5) == ['Invalid value: "int64": spec.day in body must be of type date: "int64"']
    assert said(few=3) == ['Unsupported value: 3: supported values: "1", "2"']
