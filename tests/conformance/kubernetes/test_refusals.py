"""How what is wrong is refused and what is odd is warned of: each was a difference that random operations found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.test_details import CONTAINER, apps, core, deployment, template
from tests.conformance.kubernetes.wire import STRATEGIC, Wire


def batch(ns: str) -> str:
    return f"/apis/batch/v1/namespaces/{ns}/jobs"


def test_an_empty_text_is_no_quantity(wire: Wire, ns: str) -> None:
    body = {"metadata": {"name": "q"}, "spec": {"hard": {"pods": ""}}}
    for reply in (wire.post(core(ns, "resourcequotas"), body), wire.put(f"{core(ns, 'resourcequotas')}/q", body)):
        assert (reply.code, reply.reason) == (400, "BadRequest")
        assert "quantities must match the regular expression" in reply["message"]


@pytest.mark.parametrize("moment", ["1", "", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.12345678Z"])
def test_a_moment_of_an_event_has_microseconds(wire: Wire, ns: str, moment: str) -> None:
    about = {"kind": "Pod", "name": "a", "namespace": ns}
    reply = wire.post(core(ns, "events"), {"metadata": {"name": "e"}, "involvedObject": about, "eventTime": moment})
    assert (reply.code, f'parsing time "{moment}"' in reply["message"]) == (400, True), reply


def test_metadata_of_an_event_are_checked_last(wire: Wire, ns: str) -> None:
    metadata = {"name": "e", "finalizers": ["bad finalizer"], "ownerReferences": [{"kind": "x"}]}
    body: dict[str, Any] = {"metadata": metadata, "involvedObject": {"kind": "Pod", "name": "a", "namespace": "other"}}
    reply = wire.post(core(ns, "events"), body)
    assert [field for _, field, _ in reply.causes] == ["involvedObject.namespace"]
    body["involvedObject"]["namespace"] = ns
    assert "metadata.finalizers" in {field for _, field, _ in wire.post(core(ns, "events"), body).causes}


def test_a_job_keeps_the_labels_of_its_pods(wire: Wire, ns: str) -> None:
    body = {"metadata": {"name": "j"}, "spec": {"suspend": True, "template": template(restartPolicy="Never")}}
    assert wire.post(batch(ns), body).code == 201
    reply = wire.patch(f"{batch(ns)}/j", {"spec": {"template": {"metadata": {"labels": None}}}}, STRATEGIC)
    labels = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")
    assert {f"spec.template.metadata.labels[{label}]" for label in labels} <= {field for _, field, _ in reply.causes}
    wire.delete(f"{batch(ns)}/j", {"propagationPolicy": "Background"})


def test_templates_that_are_missing(wire: Wire, ns: str) -> None:
    reply = wire.post(core(ns, "podtemplates"), {"metadata": {"name": "t"}})
    assert [field for _, field, _ in reply.causes] == ["template.spec.containers"]
    reply = wire.post(core(ns, "replicationcontrollers"), {"metadata": {"name": "t"}})
    assert [field for _, field, _ in reply.causes] == ["spec.selector", "spec.template"]


def test_containers_without_a_name_have_the_same(wire: Wire, ns: str) -> None:
    nameless = {"image": "nginx"}
    reply = wire.post(core(ns, "pods"), {"metadata": {"name": "p"}, "spec": {"containers": [nameless, nameless]}})
    assert ("FieldValueDuplicate", "spec.containers[1].name") in {(reason, field) for reason, field, _ in reply.causes}


def test_parameters_of_an_ingress_class(wire: Wire) -> None:
    parameters = {"apiGroup": "X", "kind": "", "name": "a/b", "scope": "Cluster"}
    body = {"metadata": {"name": "fault"}, "spec": {"controller": "x.io/c", "parameters": parameters}}
    reply = wire.post("/apis/networking.k8s.io/v1/ingressclasses", body)
    fields = {field.removeprefix("spec.parameters.") for _, field, _ in reply.causes}
    assert fields == {"apiGroup", "kind", "name"}


def test_what_an_unknown_field_says_twice_is_not_looked_into(wire: Wire, ns: str) -> None:
    text = '{"metadata":{"name":"a"},"odd":1,"odd":{"x":1,"x":2},"data":{"k":"1","k":"2"}}'
    reply = wire.post(core(ns, "configmaps"), text, dryRun="All")
    assert sorted(reply.warnings) == ['299 - "duplicate field \\"data.k\\""', '299 - "unknown field \\"odd\\""']


def test_finalizers_that_exclude_each_other(wire: Wire, ns: str) -> None:
    metadata = {"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}
    reply = wire.post(core(ns, "configmaps"), {"metadata": metadata}, dryRun="All")
    assert reply.causes[0][2].endswith("finalizer orphan and foregroundDeletion cannot be both set")


def test_a_controller_whose_template_changes_is_warned_of_what_it_was(wire: Wire, ns: str) -> None:
    port = {"ports": [{"containerPort": 80, "name": "http"}]}
    doubled = template({**CONTAINER, **port}, {**CONTAINER, "name": "side", **port})
    path = core(ns, "replicationcontrollers")
    body: dict[str, Any] = {"metadata": {"name": "r"}, "spec": {"replicas": 0, "template": doubled}}
    assert len(wire.post(path, body).warnings) == 2
    body["spec"]["template"] = template()
    assert len(wire.put(f"{path}/r", body).warnings) == 2
    body["spec"]["template"] = template(CONTAINER, {**CONTAINER, "name": "side"})
    assert wire.put(f"{path}/r", body).warnings == []
    wire.delete(f"{path}/r", {"propagationPolicy": "Background"})


def test_an_empty_table_of_a_kind_without_columns_has_no_rows(wire: Wire, ns: str) -> None:
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    assert wire.request("GET", core(ns, "limitranges"), headers=table)["rows"] is None
    assert wire.request("GET", core(ns, "pods"), headers=table)["rows"] == []


def test_resources_of_a_pod_change_by_their_subresource_only(wire: Wire, ns: str) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    path = f"{core(ns, 'pods')}/p"
    spec: dict[str, Any] = {"containers": [{**CONTAINER, "resources": {"requests": {"cpu": "1m"}}}],
                            "nodeSelector": {"no": "where"}}  # fmt: skip
    assert wire.apply(path, {**body, "spec": spec}).code == 201
    spec["containers"][0]["resources"] = {"requests": {"cpu": "2m"}}
    reply = wire.apply(path, {**body, "spec": spec})
    assert (reply.code, reply.causes[0][1]) == (422, "spec")
    wire.delete(path, {"gracePeriodSeconds": 0})


def test_amounts_of_broken_bytes_are_warned_of(wire: Wire, ns: str) -> None:
    container = {**CONTAINER, "resources": {"requests": {"memory": 1.5}, "limits": {"memory": "2500m"}}}
    reply = wire.post(core(ns, "podtemplates"), {"metadata": {"name": "t"}, "template": template(container)})
    assert reply.warnings == [
        f'299 - "template.spec.containers[0].resources.{part}[memory]: fractional byte value \\"{amount}\\" is invalid,'
        ' must be an integer"'
        for part, amount in (("limits", "2500m"), ("requests", "1500m"))
    ]


def test_versions_of_reviews_are_labels(wire: Wire) -> None:
    hook = {"name": "a.example.com", "clientConfig": {"url": "https://x"}, "sideEffects": "None"}
    body = {"metadata": {"name": "fault"}, "webhooks": [{**hook, "admissionReviewVersions": ["v1", "X"]}]}
    reply = wire.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", body)
    assert (reply.code, reply.causes[0][1]) == (422, "webhooks[0].admissionReviewVersions[1]")


def test_variables_of_a_policy_have_names(wire: Wire) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["never"]}
    named = [{"name": "", "expression": "1"}, {"name": "a b", "expression": "1"}]
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}], "variables": named}
    body = {"metadata": {"name": "fault"}, "spec": spec}
    reply = wire.post("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", body)
    assert {field for _, field, _ in reply.causes} == {"spec.variables[0].name", "spec.variables[1].name"}


def test_any_change_of_a_workload_brings_the_warnings_of_its_template_again(wire: Wire, ns: str) -> None:
    twice = {**CONTAINER, "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}
    path = apps(ns, "deployments")
    assert len(wire.post(path, deployment("d", twice)).warnings) == 1
    assert len(wire.patch(f"{path}/d", {"spec": {"minReadySeconds": 3}}).warnings) == 1
    assert len(wire.patch(f"{path}/d/scale", {"spec": {"replicas": 1}}).warnings) == 1
    assert wire.patch(f"{path}/d", {"metadata": {"labels": {"a": "b"}}}).warnings == []
    wire.delete(f"{path}/d", {"propagationPolicy": "Background"})


@pytest.mark.parametrize(
    ("name", "fault"), [("A_b", "a lowercase RFC 1123 subdomain"), ("a.b", "at least three segments")]
)
def test_the_name_of_a_webhook(wire: Wire, name: str, fault: str) -> None:
    hook = {
        "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://example.com/"},
    }  # fmt: skip
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    refused = wire.post(path, {"metadata": {"name": "fault"}, "webhooks": [hook]})
    assert [(field, fault in message) for _, field, message in refused.causes] == [("webhooks[0].name", True)]


@pytest.mark.parametrize("policy", ["", "Odd"])
def test_what_a_webhook_matches_by(wire: Wire, policy: str) -> None:
    hook = {
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "matchPolicy": policy,
        "clientConfig": {"url": "https://example.com/"},
    }  # fmt: skip
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    refused = wire.post(path, {"metadata": {"name": "fault"}, "webhooks": [hook]})
    assert [(field, message) for _, field, message in refused.causes] == [
        ("webhooks[0].matchPolicy", f'Unsupported value: "{policy}": supported values: "Equivalent", "Exact"')
    ]
