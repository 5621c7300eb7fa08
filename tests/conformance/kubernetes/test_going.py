"""Objects that go: by way of a version that knows less, and by an update; and what a Deployment is warned of again."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import JSON_PATCH, MERGE, Wire

Object = dict[str, Any]


def version(name: str, **fields: Object) -> Object:
    spec = {"type": "object", "properties": {"size": {"type": "integer"}, **fields}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    return {"name": name, "served": True, "storage": name == "v2", "schema": schema}


def served(wire: Wire, collection: str) -> bool:
    return wire.get(collection).code == 200


@pytest.fixture
def group(wire: Wire, ns: str) -> str:
    """A group with things in two versions, of which v1 knows `old` and v2, the stored one, `new`, by defaults each."""
    group = f"{ns}.example.com"
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    versions = [
        version("v1", old={"type": "string", "default": "was"}),
        version("v2", new={"type": "string", "default": "is"}),
    ]
    spec = {"group": group, "scope": "Cluster", "names": names, "versions": versions}
    body = {"metadata": {"name": f"things.{group}"}, "spec": spec}
    assert wire.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body).code == 201
    for name in ("v1", "v2"):
        eventually(partial(served, wire, f"/apis/{group}/{name}/things"))
    return group


def path(group: str, version: str, name: str = "a") -> str:
    return f"/apis/{group}/{version}/things/{name}"


def make(wire: Wire, group: str, version: str = "v2", **spec: Any) -> Object:
    body = {"apiVersion": f"{group}/{version}", "kind": "Thing", "metadata": {"name": "a", "finalizers": ["x.io/f"]}}
    made: list[Object] = []

    def created() -> bool:
        reply = wire.post(path(group, version).rpartition("/")[0], {**body, "spec": spec}, fieldManager="maker")
        made.append(reply.body)
        return reply.code == 201

    eventually(created)
    return made[-1]


def owned(obj: Object, manager: str) -> set[str]:
    entries = obj["metadata"].get("managedFields") or ()
    return {name for entry in entries if entry["manager"] == manager for name in entry["fieldsV1"].get("f:spec", {})}


def test_a_deletion_by_way_of_an_older_version_loses_what_that_does_not_know(wire: Wire, group: str) -> None:
    made = make(wire, group, size=1, new="n")
    assert owned(made, "maker") == {".", "f:new", "f:size"}
    gone = wire.delete(path(group, "v1"))
    assert gone.code == 200
    left = wire.get(path(group, "v2")).body
    assert "deletionTimestamp" in left["metadata"]
    assert left["spec"] == {"size": 1, "new": "is"}  # what v1 does not know has its default again
    assert owned(left, "maker") == {".", "f:new", "f:size"}  # a deletion asks nobody's leave
    assert wire.patch(path(group, "v2"), {"metadata": {"finalizers": None}}).code == 200


def test_an_object_that_waited_goes_with_the_update_that_lets_it(wire: Wire, group: str) -> None:
    ways: tuple[tuple[Any, str], ...] = (
        ({"metadata": {"finalizers": None}}, MERGE),
        ([{"op": "remove", "path": "/metadata/finalizers"}], JSON_PATCH),
        (None, ""),
    )
    for body, content_type in ways:
        made = make(wire, group, size=2, new="n")
        since = made["metadata"]["resourceVersion"]
        wire.delete(path(group, "v2"))
        if body is None:
            present = wire.get(path(group, "v1")).body
            present["metadata"]["finalizers"] = []
            last = wire.put(path(group, "v1"), present)
        else:
            last = wire.patch(path(group, "v1"), body, content_type)
        assert (last.code, last["apiVersion"], last["kind"]) == (200, f"{group}/v1", "Thing")
        assert last["spec"] == {"size": 2, "old": "was"}
        assert "finalizers" not in last["metadata"]
        assert wire.get(path(group, "v2")).code == 404
        seen = list(wire.watch(path(group, "v2").rpartition("/")[0], seconds=10, quiet=1.0, resourceVersion=since))
        assert [event["type"] for event in seen] == ["MODIFIED", "DELETED"]
        assert seen[-1]["object"]["spec"] == {"size": 2, "new": "n"}  # as it was stored
        assert int(seen[-1]["object"]["metadata"]["resourceVersion"]) > int(since)


def test_a_deployment_is_warned_of_again_when_its_annotations_change(wire: Wire, ns: str) -> None:
    twice = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    spec = {"containers": [{"name": "c", "image": "i", "env": twice}]}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": spec}
    body = {"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template}}
    where = f"/apis/apps/v1/namespaces/{ns}/deployments"
    hidden = 'spec.template.spec.containers[0].env[1]: hides previous definition of \\"A\\"'
    assert hidden in wire.post(where, body).warnings[0]
    before = wire.get(f"{where}/a")["metadata"]["generation"]
    annotated = wire.patch(f"{where}/a", {"metadata": {"annotations": {"note": "1"}}})
    assert (len(annotated.warnings), annotated["metadata"]["generation"]) == (1, before + 1)
    assert hidden in annotated.warnings[0]
    labelled = wire.patch(f"{where}/a", {"metadata": {"labels": {"note": "1"}}})
    assert (labelled.warnings, labelled["metadata"]["generation"]) == ([], before + 1)
    for kind in ("statefulsets", "daemonsets"):
        other = f"/apis/apps/v1/namespaces/{ns}/{kind}"
        extra = {"serviceName": "s"} if kind == "statefulsets" else {}
        made = wire.post(other, {**body, "spec": {**body["spec"], **extra}})  # type: ignore[dict-item]
        assert hidden in made.warnings[0]
        assert wire.patch(f"{other}/a", {"metadata": {"annotations": {"note": "1"}}}).warnings == []
