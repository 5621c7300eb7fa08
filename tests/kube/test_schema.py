"""Schemas of built-in and custom kinds, and the documents made of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from sampan.kube import decoding, kinds, openapi, schema
from sampan.kube.schema import Schema

DEPLOYMENT = schema.load().definition("io.k8s.api.apps.v1.Deployment")
POD = schema.load().definition("io.k8s.api.core.v1.Pod")


def deployment(**spec: Any) -> dict[str, Any]:
    template = {"metadata": {}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w"},
        "spec": {"selector": {}, "template": template, **spec},
    }


def test_every_built_in_kind_has_a_schema() -> None:
    missing = [r.kind for r in kinds.BUILTIN if schema.for_kind(r.api_version, r.kind) is None]
    assert missing == []


def test_loading_is_cheap() -> None:
    code = (
        "import time; import sampan.kube.schema as s; t=time.perf_counter(); s.load(); s.for_kind('v1','Pod');"
        "print(time.perf_counter()-t)"
    )
    taken = [float(subprocess.check_output([sys.executable, "-c", code], timeout=30)) for _ in range(3)]
    assert min(taken) < 0.02


def test_valid_objects_pass() -> None:
    assert schema.validate(DEPLOYMENT, deployment(replicas=1)) == []
    assert schema.unknown_fields(DEPLOYMENT, deployment(replicas=1)) == []


def test_a_status_may_leave_out_its_zeros() -> None:
    node = schema.load().definition("io.k8s.api.core.v1.Node")
    info = {"nodeInfo": {"architecture": "x"}, "conditions": [{"type": "Ready"}]}
    assert schema.validate(node, {"metadata": {"name": "n"}, "status": info}) == []


def test_unknown_fields_have_paths() -> None:
    obj = deployment(foo=1)
    obj["spec"]["template"]["spec"]["containers"][0]["bar"] = {}
    obj["metadata"]["labels"] = {"anything": "goes"}
    assert schema.unknown_fields(DEPLOYMENT, obj) == [
        'unknown field "spec.template.spec.containers[0].bar"',
        'unknown field "spec.foo"',
    ]
    assert schema.unknown_fields(DEPLOYMENT, schema.prune(DEPLOYMENT, obj)) == []


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"replicas": "3"}, "spec.replicas", "FieldValueTypeInvalid"),
        ({"replicas": 2**40}, "spec.replicas", "FieldValueInvalid"),
        ({"template": None}, "spec.template", "FieldValueRequired"),
        ({"paused": 1}, "spec.paused", "FieldValueTypeInvalid"),
        ({"selector": {"matchLabels": {"a": 1}}}, "spec.selector.matchLabels[a]", "FieldValueTypeInvalid"),
    ],
)
def test_faults_of_built_in_kinds(spec: dict[str, Any], field: str, reason: str) -> None:
    causes = schema.validate(DEPLOYMENT, deployment(**spec))
    assert [(cause.field, cause.reason) for cause in causes] == [(field, reason)]


def test_decoding_faults_read_as_upstreams() -> None:
    assert decoding.decode_fault(DEPLOYMENT, deployment(replicas="3"), "Deployment", "v1") == (
        'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct '
        "field DeploymentSpec.spec.replicas of type int32"
    )
    assert decoding.decode_fault(DEPLOYMENT, deployment(replicas=3), "Deployment", "v1") is None


def test_canonical_forms() -> None:
    pod = {
        "metadata": {"name": "p", "creationTimestamp": None, "deletionTimestamp": "2026-01-01T00:00:00.5Z"},
        "spec": {"containers": [{"resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}, "command": None}]},
    }
    assert schema.canonical(POD, pod) == {
        "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]},
    }
    lease = schema.for_kind("coordination.k8s.io/v1", "Lease")
    assert lease is not None
    assert schema.canonical(lease, {"spec": {"renewTime": "2026-01-01T00:00:00.5Z"}}) == {
        "spec": {"renewTime": "2026-01-01T00:00:00.500000Z"}
    }


CRD = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 5},
                "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                "port": {"x-kubernetes-int-or-string": True},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "maybe": {"type": "string", "nullable": True},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "rows": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id", "proto"],
                    "items": {
                        "type": "object",
                        "properties": {"id": {"type": "integer"}, "proto": {"type": "string", "default": "TCP"}},
                    },
                },
                "template": {"type": "object", "x-kubernetes-embedded-resource": True, "properties": {}},
                "when": {"type": "string", "format": "date-time"},
            },
        }
    },
}


def custom(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"size": 1, **spec}}


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({}, []), ({"size": 9}, ["spec.size"]), ({"size": "1"}, ["spec.size"]), ({"size": 1.0}, []),
        ({"mode": "c"}, ["spec.mode"]), ({"name": "A"}, ["spec.name"]), ({"name": "abcd"}, ["spec.name"]),
        ({"port": "http"}, []), ({"port": 80}, []), ({"port": True}, ["spec.port"]), ({"free": {"x": [1]}}, []),
        ({"maybe": None}, []), ({"tags": ["a", "b", "a"]}, ["spec.tags[2]"]),
        ({"rows": [{"id": 1}, {"id": 1, "proto": "UDP"}, {"id": 1, "proto": "TCP"}]}, ["spec.rows[2]"]),
        ({"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}}, []),
        ({"template": {}}, ["spec.template.apiVersion", "spec.template.kind"]), ({"when": "today"}, ["spec.when"]),
    ],
)  # fmt: skip
def test_custom_kinds(spec: dict[str, Any], fields: list[str]) -> None:
    node = Schema.from_crd(CRD)
    obj = custom(**spec)
    assert [cause.field for cause in schema.validate(node, obj)] == fields
    assert schema.unknown_fields(node, obj) == []


def test_custom_defaults_and_pruning() -> None:
    node = Schema.from_crd(CRD)
    obj = custom(rows=[{"id": 1, "zzz": 1}], mode=None, other=1)
    assert schema.unknown_fields(node, obj) == ['unknown field "spec.rows[0].zzz"', 'unknown field "spec.other"']
    assert schema.apply_defaults(node, schema.prune(node, obj))["spec"] == {
        "size": 1,
        "rows": [{"id": 1, "proto": "TCP"}],
        "mode": "a",
    }
    assert [c.field for c in schema.validate(node, {"apiVersion": "x/v1", "kind": "X", "metadata": {}})] == ["spec"]
    free = Schema.from_crd(None)
    assert schema.unknown_fields(free, custom(x=1)) == []
    assert schema.unknown_fields(free, {"metadata": {"wrong": 1}}) == ['unknown field "metadata.wrong"']


def references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(references, node.values()))


@pytest.mark.parametrize(("group", "version"), sorted({(r.group, r.version) for r in kinds.BUILTIN}))
def test_documents_are_closed_and_patchable(group: str, version: str) -> None:
    document = openapi.document(group, version, kinds.BUILTIN)
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= names
    for path, entry in document["paths"].items():
        if patch := entry.get("patch"):
            assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"], path
            assert "fieldValidation" in [row["name"] for row in patch["parameters"]], path
            assert patch["x-kubernetes-group-version-kind"]["kind"]
    json.dumps(document)


def test_documents_of_custom_kinds() -> None:
    resource = kinds.Resource("x.io", "v1", "X", "xs", "x", subresources=("status", "scale"))
    document = openapi.document("x.io", "v1", [resource], {"xs": CRD})
    node = document["components"]["schemas"]["io.x.v1.X"]
    assert node["properties"]["spec"]["properties"]["size"]["maximum"] == 5
    assert node["x-kubernetes-group-version-kind"] == [{"group": "x.io", "version": "v1", "kind": "X"}]
    assert references(document) <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert "/apis/x.io/v1/namespaces/{namespace}/xs/{name}/scale" in document["paths"]


def test_custom_kinds_offer_no_strategic_merge() -> None:
    resource = kinds.Resource("x.io", "v1", "X", "xs", "x")
    document = openapi.document("x.io", "v1", [resource], {"xs": CRD})
    content = document["paths"]["/apis/x.io/v1/namespaces/{namespace}/xs/{name}"]["patch"]["requestBody"]["content"]
    assert sorted(content) == [
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
    ]
