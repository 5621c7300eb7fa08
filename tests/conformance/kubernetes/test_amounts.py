"""Amounts as they were written; labels of jobs; what holds a definition."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import MERGE, Reply, Wire

Object = dict[str, Any]
POD: Object = {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never", "nodeSelector": {"no": "where"}}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def core(ns: str, plural: str) -> str:
    return f"/api/v1/namespaces/{ns}/{plural}"


def refused(reply: Reply) -> list[tuple[str, str]]:
    """Fields and what is wrong with them, each once: upstream checks updates twice."""
    assert reply.code == 422, reply
    return sorted({(field, message) for _, field, message in reply.causes})


def test_a_status_changes_the_prefix_of_a_name(wire: Wire, ns: str) -> None:
    path = core(ns, "services")
    wire.post(path, {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}})
    assert wire.patch(f"{path}/a/status", {"metadata": {"generateName": "b-"}})["metadata"]["generateName"] == "b-"


def jobs(ns: str) -> str:
    return f"/apis/batch/v1/namespaces/{ns}/jobs"


def job(wire: Wire, ns: str, name: str, template: Object, **metadata: Any) -> Object:
    spec = {"suspend": True, "template": {"metadata": template, "spec": POD}}
    reply = wire.post(jobs(ns), {"metadata": {"name": name, **metadata}, "spec": spec})
    assert reply.code == 201, reply
    return dict(reply.body)


def test_a_job_without_labels_has_all_those_of_its_pods(wire: Wire, ns: str) -> None:
    for name, template in (("a", {"labels": {"app": "x"}}), ("b", {})):
        made = job(wire, ns, name, template)
        assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"]
        assert made["metadata"]["labels"].keys() >= {"job-name", "controller-uid"} | template.get("labels", {}).keys()
    assert job(wire, ns, "c", {"labels": {"app": "x"}}, labels={"own": "1"})["metadata"]["labels"] == {"own": "1"}


def test_the_last_pod_of_an_indexed_job_has_a_name_that_hosts_may_have(wire: Wire, ns: str) -> None:
    spec = {"suspend": True, "completionMode": "Indexed", "completions": 101, "template": {"spec": POD}}
    for name in ("a.b", "a" * 60):
        reply = wire.post(jobs(ns), {"metadata": {"name": name}, "spec": spec})
        assert refused(reply) == [
            ("metadata.name",
             f'Invalid value: "{name}": will not able to create pod with invalid DNS label: {name}-100'),
        ]  # fmt: skip
    assert wire.post(jobs(ns), {"metadata": {"name": "a" * 59}, "spec": spec}).code == 201


def test_a_status_without_labels_and_spec_gives_a_job_those_of_its_pods(wire: Wire, ns: str) -> None:
    made = job(wire, ns, "a", {"labels": {"app": "x"}}, labels={"own": "1"})
    reply = wire.put(f"{jobs(ns)}/a/status", {"metadata": {"name": "a"}, "status": {}})
    assert reply["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"]
    sent = {"template": {"metadata": {"labels": {"sent": "1"}}}}
    reply = wire.put(f"{jobs(ns)}/a/status", {"metadata": {"name": "a"}, "spec": sent})
    assert reply["metadata"]["labels"] == {"sent": "1"}


def definition(ns: str) -> Object:
    group = f"{ns}.example.com"
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def test_a_definition_is_held_from_its_deletion_on(wire: Wire, ns: str) -> None:
    body = definition(ns)
    path = f"{DEFINITIONS}/{body['metadata']['name']}"
    assert "finalizers" not in wire.post(DEFINITIONS, body)["metadata"]
    unconditional = wire.put(path, body)
    assert refused(unconditional) == [("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")]
    things = f"/apis/{ns}.example.com/v1/things"
    eventually(lambda: wire.get(things).code == 200)
    thing = {"apiVersion": f"{ns}.example.com/v1", "kind": "Thing", "metadata": {"name": "a", "finalizers": ["x.io/f"]}}
    eventually(lambda: wire.post(things, thing).code in (201, 409))
    gone = wire.delete(path).body
    assert (gone["metadata"]["finalizers"], gone["metadata"]["generation"]) == (
        ["customresourcecleanup.apiextensions.k8s.io"], 1,
    )  # fmt: skip
    assert "deletionGracePeriodSeconds" not in gone["metadata"]

    def reason() -> str:
        conditions = wire.get(path)["status"]["conditions"]
        return str(next((row["reason"] for row in conditions if row["type"] == "Terminating"), ""))

    eventually(lambda: reason() == "InstanceDeletionInProgress")
    late = wire.post(things, {**thing, "metadata": {"name": "b"}})
    assert (late.code, late["message"]) == (
        403,
        f'things.{ns}.example.com "b" is forbidden: create not allowed while custom resource definition is terminating',
    )
    assert wire.patch(f"{things}/a", {"metadata": {"finalizers": None}}).code == 200
    eventually(lambda: wire.get(path).code == 404)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1.500", "1.500"), ("+5", "+5"), ("1E3", "1E3"), ("1e+3", "1e+3"), ("0001", "0001"), ("01Ki", "01Ki"),
        ("1.", "1."), ("1.50", "1500m"), ("0.500", "500m"), ("1000", "1k"), ("08Ki", "8Ki"), ("1e4", "10e3"),
        ("1n", "1m"), ("1e22", "10e21"), ("10E", "10E"), ("123456789012345678901", "123456789012345678901"),
        ("10Ei", "9223372036854775807"),
    ],
)  # fmt: skip
def test_amounts_stay_as_written_where_they_are_nearly_canonical(wire: Wire, ns: str, written: str, shown: str) -> None:
    template = {"spec": {**POD, "containers": [{**POD["containers"][0], "resources": {"requests": {"cpu": written}}}]}}
    reply = wire.post(core(ns, "podtemplates"), {"metadata": {"name": "t"}, "template": template}, dryRun="All")
    assert reply.code == 201, reply
    assert reply["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == shown


def test_an_amount_written_otherwise_is_another_version_of_the_same(wire: Wire, ns: str) -> None:
    path = core(ns, "podtemplates")
    for amount, generation in (("1.500", 1), ("1500m", 1), ("1.501", 2)):
        container = {**POD["containers"][0], "resources": {"requests": {"cpu": amount}}}
        body = {"metadata": {"name": "t"}, "template": {"spec": {**POD, "containers": [container]}}}
        reply = wire.post(path, body) if amount == "1.500" else wire.patch(f"{path}/t", body, MERGE)
        assert reply.code in (200, 201), reply
        assert reply["metadata"]["generation"] == generation
        assert reply["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == amount
