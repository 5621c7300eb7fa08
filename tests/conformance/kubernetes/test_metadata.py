"""Metadata that a write brings: marks of a deletion, names and namespaces, owners; and what is unknown about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.kubernetes.test_cel import Served
from tests.conformance.kubernetes.test_details import core
from tests.conformance.kubernetes.wire import APPLY, JSON_PATCH, Reply, Wire

Object = dict[str, Any]


@pytest.fixture
def served(wire: Wire) -> Iterator[Served]:
    made = Served(wire, {"type": "object", "properties": {"a": {"type": "integer"}}})
    yield made
    made.remove()


def config_map(wire: Wire, ns: str, **metadata: Any) -> str:
    assert wire.post(core(ns, "configmaps"), {"metadata": {"name": "a", **metadata}}).code == 201
    return f"{core(ns, 'configmaps')}/a"


def owned(reply: Reply) -> dict[str, set[str]]:
    """Manager -> the fields of the metadata it owns."""
    entries = reply["metadata"].get("managedFields") or ()
    return {entry["manager"]: set(entry["fieldsV1"].get("f:metadata", {})) for entry in entries}


@pytest.mark.parametrize("mark", [{"deletionTimestamp": "2026-01-01T00:00:00Z"}, {"deletionGracePeriodSeconds": 3}])
def test_only_a_deletion_marks_an_object(wire: Wire, ns: str, served: Served, mark: Object) -> None:
    path = config_map(wire, ns, **mark)  # which is forgotten when it is new
    field = f"metadata.{next(iter(mark))}"
    refused = wire.put(path, {"metadata": {"name": "a", **mark}})
    assert {(where, text.rpartition(": ")[2]) for _, where, text in refused.causes} == {(field, "field is immutable")}
    assert served.create(a=1).code == 201
    assert field in {where for _, where, _ in wire.patch(f"{served.path}/a", {"metadata": mark}).causes}


def test_whoever_does_not_say_the_marks_of_a_deletion_takes_their_owners(wire: Wire, ns: str) -> None:
    path = config_map(wire, ns, finalizers=["example.com/f"])
    wire.patch(path, {"metadata": {"managedFields": [{}]}})
    wire.delete(path)
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"app": "x"}}}
    marks = {"f:deletionTimestamp", "f:deletionGracePeriodSeconds"}
    assert marks < owned(wire.apply(path, applied, manager="m"))["before-first-apply"]
    same = wire.patch(path, {"metadata": {"labels": {"tier": "y"}}})
    assert marks < owned(same)["before-first-apply"]
    metadata = {"name": "a", "finalizers": ["example.com/f"], "labels": {"app": "z"}}
    without = wire.put(path, {"metadata": {**metadata, "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    assert without["metadata"]["deletionTimestamp"] > "2026-01-02"
    assert not any("f:deletionGracePeriodSeconds" in fields for fields in owned(without).values())


def test_an_applied_object_is_merged_before_its_name_is_looked_at(wire: Wire, ns: str) -> None:
    path = config_map(wire, ns)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    assert wire.apply(path, body, manager="m1").code == 200
    other = {**body, "metadata": {"name": "b"}, "data": {"x": "2"}}
    assert wire.apply(path, other, manager="m2").code == 409
    twice = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {%s}, "data": {"y": "1", "y": "1"}}'
    for metadata, said in (
        ('"name": "b"', "the name of the object (b) does not match the name on the URL"),
        ('"name": "b", "namespace": "other"', "the namespace of the provided object does not match"),
    ):
        refused = wire.request("PATCH", path, twice % metadata, content_type=APPLY, fieldManager="m2")
        assert (refused.code, refused["message"].startswith(said), len(refused.warnings)) == (400, True, 1)
    unborn = twice % '"resourceVersion": "1"'
    nameless = wire.request("PATCH", f"{path}-new", unborn, content_type=APPLY, fieldManager="m2")
    assert (nameless.code, "undeterminable" in nameless["message"], len(nameless.warnings)) == (400, True, 1)


def test_what_is_wrong_with_an_owner_is_said_once(served: Served) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "controller": True}
    body = {
        "apiVersion": "cel.example.com/v1", "kind": served.kind, "spec": {"a": "x"},
        "metadata": {"name": "o", "ownerReferences": [owner, {**owner, "uid": "u"}]},
    }  # fmt: skip
    refused = served.wire.post(served.path, body)
    assert sorted(field for _, field, _ in refused.causes) == [
        "metadata.ownerReferences", "metadata.ownerReferences.uid", "spec.a",
    ]  # fmt: skip


def test_unknown_fields_of_a_custom_object_are_told_in_order(served: Served) -> None:
    body = {
        "apiVersion": "cel.example.com/v1", "kind": served.kind, "zz": 1, "aa": 1,
        "metadata": {"name": "order", "odd": 1}, "spec": {"zz": 1, "b": 1},
    }  # fmt: skip
    refused = served.wire.post(served.path, body, fieldValidation="Strict")
    unknown = [part.rstrip('", ') for part in refused["message"].split('unknown field "')[1:]]
    assert unknown == ["metadata.odd", "aa", "spec.b", "spec.zz", "zz"]


def test_a_version_that_is_none_has_no_fields(served: Served) -> None:
    served.create("version", a=1)
    path = f"{served.path}/version"
    patch = [{"op": "replace", "path": "/apiVersion", "value": "cel.example.com/v9"}]
    other = served.wire.patch(path, patch, JSON_PATCH)
    assert (other.code, other.warnings) == (422, ['299 - "unknown field \\"spec\\""'])
    nothing = served.wire.patch(path, [{"op": "replace", "path": "/apiVersion", "value": None}], JSON_PATCH)
    assert {(field, "accessor error" in message) for _, field, message in nothing.causes} == {("patch", True)}


def test_metadata_are_looked_at_whatever_the_kind(served: Served) -> None:
    """Of an object that a patch makes another kind of, the fields of the metadata are known, the rest are not asked."""
    served.create("kind", a=1)
    path = f"{served.path}/kind"
    other = [{"op": "replace", "path": "/kind", "value": "Other"}, {"op": "add", "path": "/zz", "value": 1}]
    assert served.wire.patch(path, other, JSON_PATCH).warnings == []
    odd = [*other, {"op": "add", "path": "/metadata/odd", "value": 1}]
    assert served.wire.patch(path, odd, JSON_PATCH).warnings == ['299 - "unknown field \\"metadata.odd\\""']
    assert served.wire.patch(path, odd, JSON_PATCH, fieldValidation="Strict").code == 422


def test_what_kubectl_applied_is_noted_as_it_was_sent(wire: Wire, ns: str) -> None:
    """A name that only the path gives is not in the note."""
    path, note = f"/api/v1/namespaces/{ns}/configmaps/noted", "kubectl.kubernetes.io/last-applied-configuration"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "noted", "annotations": {note: "{}"}}}
    assert wire.post(f"/api/v1/namespaces/{ns}/configmaps", body).code == 201
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"a": "b"}}
    told = wire.apply(path, applied, "kubectl", force="true")
    expected = '{"apiVersion":"v1","data":{"a":"b"},"kind":"ConfigMap","metadata":{}}\n'
    assert (told.code, told["metadata"]["annotations"][note]) == (200, expected)


def test_a_null_of_a_field_that_takes_anything_goes(wire: Wire) -> None:
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    made = Served(wire, {"type": "object", "properties": {"free": free}})
    created = made.create(free=None)
    assert (created.code, created["spec"]) == (201, {})
    assert made.create("deep", free={"any": None})["spec"] == {"free": {"any": None}}
    made.remove()


def test_true_is_not_one(wire: Wire) -> None:
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    made = Served(wire, {"type": "object", "properties": {"free": free}})
    assert made.create(free={"list": [1]}).code == 201
    changed = made.patch(free={"list": [True]})
    assert (changed["spec"]["free"]["list"][0] is True, changed["metadata"]["generation"]) == (True, 2)
    assert wire.get(f"{made.path}/a")["spec"]["free"]["list"][0] is True
    made.remove()
