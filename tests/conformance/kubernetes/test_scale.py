"""`/scale` reads and refuses what it is sent as any kind does: a `Scale` has types, fields and a name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.targets import Target
from tests.conformance.kubernetes.test_details import apps, deployment
from tests.conformance.kubernetes.wire import JSON_PATCH, MERGE, STRATEGIC, Wire


def scale(spec: Any = None, **metadata: Any) -> dict[str, Any]:
    named = {"name": "d", **metadata}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": named, "spec": spec}


@pytest.fixture
def path(wire: Wire, ns: str) -> str:
    assert wire.post(apps(ns, "deployments"), deployment("d")).code == 201
    return f"{apps(ns, 'deployments')}/d/scale"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            scale({"replicas": "x"}),
            "string into Go struct field ScaleSpec.spec.replicas of type int32",
        ),
        (scale({"replicas": 2**40}), "cannot unmarshal number 1099511627776"),
        (scale("x"), "cannot unmarshal string into Go struct field Scale.spec of type v1.ScaleSpec"),
        (scale({"replicas": 1}, name="other"), "the name of the object (other) does not match the name on the URL (d)"),
        (scale({"replicas": 1}, namespace="other"), "the namespace of the provided object does not match"),
        ({**scale({"replicas": 1}), "metadata": {}}, "name must be provided"),
        ({**scale({"replicas": 1}), "kind": "Deployment"}, ""),
    ],
)
def test_what_is_no_scale_of_the_object_is_refused(wire: Wire, path: str, body: Any, said: str) -> None:
    reply = wire.put(path, body)
    assert (reply.code, reply.reason) == (400, "BadRequest"), reply
    assert said in reply["message"]


def test_a_scale_that_cannot_be_read_is_refused_before_its_object_is_missed(wire: Wire, ns: str) -> None:
    body = scale({"replicas": "x"}, name="gone")
    assert wire.put(f"{apps(ns, 'deployments')}/gone/scale", body).code == 400
    assert wire.put(f"{apps(ns, 'deployments')}/gone/scale", scale({}, name="gone")).code == 404


def test_the_uid_and_version_of_a_scale_are_conditions(wire: Wire, path: str) -> None:
    for condition in ({"uid": "other"}, {"resourceVersion": "1"}):
        assert wire.put(path, scale({"replicas": 1}, **condition)).code == 409
    uid = wire.get(path)["metadata"]["uid"]
    assert wire.put(path, scale({"replicas": 2}, uid=uid))["spec"] == {"replicas": 2}


def test_no_number_is_zero(wire: Wire, path: str) -> None:
    assert wire.put(path, scale({"replicas": 3}))["spec"] == {"replicas": 3}
    assert wire.put(path, scale({"replicas": None}))["spec"] == {}


def test_unknown_and_repeated_fields_of_a_scale_are_told(wire: Wire, path: str) -> None:
    body = scale({"replicas": 1, "odd": 1})
    assert wire.put(path, body).warnings == ['299 - "unknown field \\"spec.odd\\""']
    assert wire.put(path, body, fieldValidation="Strict").code == 400
    assert wire.patch(path, {"spec": {"odd": 1}}, fieldValidation="Strict").code == 422
    assert wire.patch(path, {"spec": {"odd": 1}}, STRATEGIC).warnings == ['299 - "unknown field \\"spec.odd\\""']


def test_patches_of_a_scale_that_make_none_are_refused(wire: Wire, path: str) -> None:
    for body in ({"spec": ""}, {"spec": {"replicas": "x"}}, {"spec": {"replicas": 2**40}}, {"kind": "X"}):
        assert wire.patch(path, body, MERGE).code == 422, body
    for gone in ("/metadata", "/apiVersion"):
        reply = wire.patch(path, [{"op": "remove", "path": gone}], JSON_PATCH)
        assert (reply.code, "name must be provided" in reply["message"]) == (400, True), gone


def test_what_is_applied_is_a_scale(target: Target, wire: Wire, path: str) -> None:
    wrong = 400 if target.name == "embedded" else 500  # docs/conformance.md
    for spec, said in (({"replicas": "x"}, ".spec.replicas: expected numeric"), ({"odd": 1}, ".spec.odd: field not")):
        reply = wire.apply(path, scale(spec))
        assert (reply.code, said in reply["message"]) == (wrong, True), reply
    for spec in (scale({"replicas": 1}, name="other"), scale({"replicas": -1})):
        reply = wire.apply(path, spec)
        assert reply.reason == "Conflict", reply
    assert wire.apply(path, scale({"replicas": 1}, name="other"), force="true").code == 400
    assert wire.apply(path, scale({"replicas": -1}), force="true").code == 422


def test_of_two_entries_of_a_manager_the_later_counts(wire: Wire, path: str) -> None:
    assert wire.apply(path, scale({"replicas": 1}), "m2", force="true").code == 200
    after = wire.patch(path.removesuffix("/scale"), {"metadata": {"labels": {"a": "b"}}}, fieldManager="m1")
    rows = [(row["manager"], row["operation"]) for row in after["metadata"]["managedFields"]]
    assert len(rows) == len(set(rows)), rows
