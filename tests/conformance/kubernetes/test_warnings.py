"""What a client is told of objects that are accepted although they hardly mean what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.kubernetes.test_details import apps, core, template
from tests.conformance.kubernetes.wire import Reply, Wire

Object = dict[str, Any]
NAME = "which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
BYTES = "is invalid, must be an integer"
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1500m"}}}
OLD_LABEL = 'beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead'
TERM = {"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "In", "values": ["linux"]}]}


def told(reply: Reply) -> list[str]:
    assert reply.code in {200, 201}, reply
    return [json.loads(warning.partition(" - ")[2]) for warning in reply.warnings]


def workload(**spec: Any) -> Object:
    return {"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template(), "replicas": 0, **spec}}


@pytest.mark.parametrize(
    ("plural", "whose"),
    [
        ("deployments", "Pod names and hostnames"),
        ("replicasets", "Pod names and hostnames"),
        ("pods", "the Pod's hostname"),
    ],
)
def test_a_name_that_becomes_part_of_others(wire: Wire, ns: str, plural: str, whose: str) -> None:
    path = core(ns, plural) if plural == "pods" else apps(ns, plural)
    body = {"spec": template()["spec"]} if plural == "pods" else workload()
    made = wire.post(path, {"metadata": {"name": "a.b"}, **body}, dryRun="All")
    assert told(made) == [f"metadata.name: this is used in {whose}, {NAME}"]


def test_the_name_of_a_stateful_set_is_a_label(wire: Wire, ns: str) -> None:
    refused = wire.post(apps(ns, "statefulsets"), {"metadata": {"name": "a.b"}, **workload()})
    assert [(field, message) for _, field, message in refused.causes] == [
        ("metadata.name", 'Invalid value: "a.b": must not contain dots')
    ]


def test_templates_of_claims_and_revisions_of_a_stateful_set(wire: Wire, ns: str) -> None:
    claims = [{"metadata": {"name": "v"}, "spec": CLAIM}]
    path, body = apps(ns, "statefulsets"), workload(volumeClaimTemplates=claims, revisionHistoryLimit=-1)
    negative = (
        "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
    )
    said = f'resources.requests[storage]: fractional byte value "1500m" {BYTES}'
    made = wire.post(path, {"metadata": {"name": "s"}, **body})
    assert told(made) == [f"spec.volumeClaimTemplates[0].{said}", negative]
    changed = wire.patch(f"{path}/s", {"metadata": {"labels": {"a": "b"}}})
    assert told(changed) == [f"spec.volumeClaimTemplates[0].Spec.{said}", negative]


def test_claims_and_nodes_of_a_pod(wire: Wire, ns: str) -> None:
    volume = {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": CLAIM}}}
    wish = {"weight": 1, "preference": TERM}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    body = {"metadata": {"name": "t"}, "template": template(volumes=[volume], affinity=affinity)}
    where = "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference"
    claim = "volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]"
    assert set(told(wire.post(core(ns, "podtemplates"), body))) == {
        f"template.spec.{where}.matchExpressions[0].key: {OLD_LABEL}",
        f'template.spec.{claim}: fractional byte value "1500m" {BYTES}',
    }


def test_volumes_that_are_old(wire: Wire, ns: str) -> None:
    spec = {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "cephfs": {"monitors": ["m"]},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [TERM]}},
    }  # fmt: skip
    made = wire.post("/api/v1/persistentvolumes", {"metadata": {"name": ns}, "spec": spec}, dryRun="All")
    assert set(told(made)) == {
        "spec.cephfs: deprecated in v1.28, non-functional in v1.31+",
        f"spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: {OLD_LABEL}",
    }


def test_annotations_that_are_old(wire: Wire, ns: str) -> None:
    backend = {"service": {"name": "a", "port": {"number": 80}}}
    ingress = {
        "metadata": {"name": "i", "annotations": {"kubernetes.io/ingress.class": "x"}},
        "spec": {"defaultBackend": backend},
    }
    made = wire.post(f"/apis/networking.k8s.io/v1/namespaces/{ns}/ingresses", ingress)
    assert told(made) == [
        "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
    ]
    hints = "service.kubernetes.io/topology-aware-hints"
    service = {"metadata": {"name": "s", "annotations": {hints: "auto"}}, "spec": {"ports": [{"port": 80}]}}
    assert told(wire.post(core(ns, "services"), service)) == [
        f"annotation {hints} is deprecated, please use service.kubernetes.io/topology-mode instead"
    ]
