"""What random operations on both servers found since `test_details.py` and `test_refusals.py`: services, autoscalers,
claims, events, deletions, and what Go tells apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.kubernetes.test_details import apps, core, template
from tests.conformance.kubernetes.wire import APPLY, JSON_PATCH, MERGE, STRATEGIC, Reply, Wire

Object = dict[str, Any]


def autoscalers(ns: str, version: str) -> str:
    return f"/apis/autoscaling/{version}/namespaces/{ns}/horizontalpodautoscalers"


def fields(reply: Reply) -> set[str]:
    assert reply.code == 422, reply
    return {field for _, field, _ in reply.causes}


def test_what_v1_has_no_fields_for_is_annotated(wire: Wire, ns: str) -> None:
    pods = {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "5"}}}
    cpu = {"type": "Utilization", "averageUtilization": 50}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"},
        "maxReplicas": 3,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": cpu}}, pods],
        "behavior": {"scaleDown": {"selectPolicy": "Min"}},
    }
    wire.post(autoscalers(ns, "v2"), {"metadata": {"name": "h"}, "spec": spec})
    old = wire.get(f"{autoscalers(ns, 'v1')}/h").body
    notes = {key.rpartition("/")[2]: json.loads(text) for key, text in old["metadata"]["annotations"].items()}
    assert notes["metrics"] == [{"type": "Pods", "pods": {"metricName": "m", "targetAverageValue": "5"}}]
    assert notes["behavior"]["ScaleDown"]["SelectPolicy"] == "Min"
    assert old["spec"]["targetCPUUtilizationPercentage"] == 50
    old["spec"]["maxReplicas"] = 4
    for key in ("resourceVersion", "managedFields"):
        old["metadata"].pop(key)
    assert wire.put(f"{autoscalers(ns, 'v1')}/h", old).code == 200
    new = wire.get(f"{autoscalers(ns, 'v2')}/h").body
    assert (new["spec"]["maxReplicas"], "annotations" in new["metadata"]) == (4, False)
    assert sorted(metric["type"] for metric in new["spec"]["metrics"]) == ["Pods", "Resource"]
    assert new["spec"]["behavior"]["scaleDown"]["selectPolicy"] == "Min"
    unknown = wire.patch(f"{autoscalers(ns, 'v1')}/h/status", {"status": {"conditions": [{"type": "Unheard"}]}})
    assert "Unheard" not in "".join(unknown["metadata"]["annotations"].values())


def test_the_scaled_kind_is_of_a_group(wire: Wire, ns: str) -> None:
    spec = {"scaleTargetRef": {"apiVersion": "x", "kind": "Deployment", "name": "a"}, "maxReplicas": 1}
    assert fields(wire.post(autoscalers(ns, "v2"), {"metadata": {"name": "h"}, "spec": spec})) == {
        "spec.scaleTargetRef.apiVersion"
    }


def test_a_service_created_by_its_status_has_no_address(wire: Wire, ns: str) -> None:
    path, spec = core(ns, "services"), {"ports": [{"port": 80}]}
    assert wire.put(f"{path}/a/status", {"metadata": {"name": "a"}, "spec": spec}).code == 201
    assert "clusterIP" not in wire.patch(f"{path}/a", {}, MERGE)["spec"]
    given = wire.put(f"{path}/b/status", {"metadata": {"name": "b"}, "spec": {**spec, "clusterIP": "None"}})
    assert fields(given) == {"spec.clusterIPs"}


def test_a_headless_service_that_gets_a_selector_wants_both_families(wire: Wire, ns: str) -> None:
    path = core(ns, "services")
    made = wire.post(path, {"metadata": {"name": "a"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})
    assert made["spec"]["ipFamilyPolicy"] == "RequireDualStack"
    body = {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}}}
    assert fields(wire.put(f"{path}/a", body)) == {"spec.ipFamilyPolicy"}


def test_ports_of_one_number_share_a_node_port(wire: Wire, ns: str) -> None:
    path, dns = core(ns, "services"), [{"name": p.lower(), "port": 53, "protocol": p} for p in ("TCP", "UDP")]
    made = wire.post(path, {"metadata": {"name": "a"}, "spec": {"type": "NodePort", "ports": dns}})
    assert len({port["nodePort"] for port in made["spec"]["ports"]}) == 1
    twice = [{"name": "x", "port": 80}, {"name": "y", "port": 80}]
    refused = wire.post(path, {"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": twice}})
    assert fields(refused) == {"spec.ports[1]", "spec.ports[1].nodePort"}


def test_a_write_of_the_status_brings_no_warnings(wire: Wire, ns: str) -> None:
    spec = {"clusterIP": "None", "sessionAffinity": "ClientIP", "selector": {"a": "b"}}
    path = core(ns, "services")
    assert len(wire.post(path, {"metadata": {"name": "a"}, "spec": spec}).warnings) == 1
    assert wire.patch(f"{path}/a/status", {"metadata": {"labels": {"a": "b"}}}).warnings == []


def test_templates_of_claims_are_checked_when_they_are_new(wire: Wire, ns: str) -> None:
    def body(**claim: Any) -> Object:
        spec = {"selector": {"matchLabels": {"app": "x"}}, "template": template(), "replicas": 0}
        return {"metadata": {"name": "s"}, "spec": {**spec, "volumeClaimTemplates": [claim]}}

    where = "spec.volumeClaimTemplates[0].spec"
    refused = wire.post(apps(ns, "statefulsets"), body(metadata={"name": "d"}, spec={}))
    assert fields(refused) == {f"{where}.accessModes", f"{where}.resources[storage]"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    made = wire.post(apps(ns, "statefulsets"), body(metadata={"name": "d"}, spec=claim))
    assert (made.code, made["spec"]["serviceName"]) == (201, "")


def test_a_claim_keeps_its_class(wire: Wire, ns: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": " 1Gi "}}}
    path = core(ns, "persistentvolumeclaims")
    made = wire.post(path, {"metadata": {"name": "c"}, "spec": {**spec, "storageClassName": "none"}})
    assert made["spec"]["resources"] == {"requests": {"storage": "1Gi"}}
    assert fields(wire.put(f"{path}/c", {"metadata": {"name": "c"}, "spec": spec})) == {"spec"}


@pytest.mark.parametrize(
    ("plural", "body", "field"),
    [
        ("networking.k8s.io/v1/{}/networkpolicies", {"ingress": [{"ports": [{"protocol": ""}]}]}, "protocol"),
        ("networking.k8s.io/v1/{}/ingresses", {"ingressClassName": "", "defaultBackend": {"service": {
            "name": "1", "port": {"number": 1}}}}, "spec.ingressClassName"),
        ("networking.k8s.io/v1/ingressclasses", {"controller": "x.io/c", "parameters": {
            "kind": "P", "name": "p", "scope": ""}}, "spec.parameters.scope"),
        ("policy/v1/{}/poddisruptionbudgets", {"unhealthyPodEvictionPolicy": ""}, "spec.unhealthyPodEvictionPolicy"),
    ],
)  # fmt: skip
def test_a_choice_that_is_empty_is_wrong(wire: Wire, ns: str, plural: str, body: Object, field: str) -> None:
    path = f"/apis/{plural.format(f'namespaces/{ns}')}"
    refused = wire.post(path, {"metadata": {"name": "fault"}, "spec": {"podSelector": {}, **body}})
    assert [found.endswith(field) for found in fields(refused)] == [True], refused


def test_events_of_their_own_group_are_strict(wire: Wire, ns: str) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{ns}/events"
    body: Object = {"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "namespace": ns}}
    assert fields(wire.put(f"{path}/e", body)) == {"eventTime", "type"}
    body |= {
        "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "x.io/c", "reportingInstance": "i",
        "action": "Do", "reason": "r", "type": "Normal",
    }  # fmt: skip
    refused = wire.post(path, {**body, "deprecatedCount": 1, "series": {"count": 1}})
    assert fields(refused) == {"count", "series.count", "series.lastObservedTime"}
    assert wire.post(path, body).code == 201
    assert fields(wire.patch(f"{path}/e", {"note": "x", "reportingController": "x.io/d"})) == {
        "message", "reportingController"
    }  # fmt: skip
    changed = wire.patch(f"{core(ns, 'events')}/e", {"message": "x"})
    assert [entry["apiVersion"] for entry in changed["metadata"]["managedFields"]] == ["v1"]


def test_one_owner_is_in_control(wire: Wire, ns: str) -> None:
    owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": n, "uid": n, "controller": True} for n in "ab"]
    refused = wire.post(core(ns, "configmaps"), {"metadata": {"name": "a", "ownerReferences": owners}})
    assert fields(refused) == {"metadata.ownerReferences"}
    assert 'Found "true" in references for ConfigMap/a and ConfigMap/b' in refused["message"]


def test_a_namespace_is_marked_before_it_goes(wire: Wire, ns: str) -> None:
    path = f"/api/v1/namespaces/{ns}x"
    wire.post("/api/v1/namespaces", {"metadata": {"name": f"{ns}x", "finalizers": ["example.com/f"]}})
    refused = wire.put(f"{path}/finalize", {"metadata": {"name": f"{ns}x"}, "spec": {"finalizers": ["bad f"]}})
    assert fields(refused) == {"spec.finalizers[0]"}
    marked = wire.delete(path)
    assert (marked["kind"], marked["status"]["phase"]) == ("Namespace", "Terminating")
    again = wire.delete(path, {"propagationPolicy": "Foreground"})
    assert again.code in (200, 404, 409)
    wire.patch(path, {"metadata": {"finalizers": None}})


def test_a_finalizer_decides_about_dependents(wire: Wire, ns: str) -> None:
    path, spec = core(ns, "replicationcontrollers"), {"replicas": 0, "template": template(), "selector": {}}
    for name, kept in (("a", "foregroundDeletion"), ("b", "orphan")):
        body = {"metadata": {"name": name, "finalizers": ["example.com/f", kept]}, "spec": spec}
        assert wire.post(path, body).code == 201
        assert wire.delete(f"{path}/{name}", {"dryRun": ["All"]})["metadata"]["finalizers"] == ["example.com/f", kept]
        wire.patch(f"{path}/{name}", {"metadata": {"finalizers": None}})


def test_an_empty_map_is_another_than_none_where_nothing_may_change(wire: Wire, ns: str) -> None:
    path = core(ns, "configmaps")
    wire.post(path, {"metadata": {"name": "a"}, "data": {"x": "1"}, "immutable": True})
    assert fields(wire.patch(f"{path}/a", {"binaryData": {"y": None}})) == {"binaryData"}


def test_numbers_too_large_are_cut_by_an_apply(wire: Wire, ns: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{ns}/leases/l"
    spec = {"leaseDurationSeconds": 2**40 + 7}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}
    assert wire.apply(path, body)["spec"] == {"leaseDurationSeconds": 7}
    assert (
        wire.patch(path, {"spec": {"leaseDurationSeconds": 2**40 + 8}}, STRATEGIC)["spec"]["leaseDurationSeconds"] == 8
    )
    assert wire.patch(path, {"spec": spec}, MERGE).code == 422
    assert wire.put(path, body).code == 400


def test_a_time_may_be_any_scalar_to_an_apply(wire: Wire, ns: str) -> None:
    body = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": {"x": "y"}}
    assert ".eventTime: expected any scalar" in wire.apply(f"{core(ns, 'events')}/e", body)["message"]


def test_rules_of_a_role_that_is_put_together_are_nobodys(wire: Wire, ns: str) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{ns}"
    selectors = [{"matchLabels": {"none": ns}}]
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ns},
        "aggregationRule": {"clusterRoleSelectors": selectors},
    }  # fmt: skip
    assert wire.request("PATCH", path, body, content_type=APPLY, fieldManager="m").code == 201
    changed = wire.patch(path, {"metadata": {"labels": {"a": "b"}}}, STRATEGIC)
    owned = [
        entry
        for entry in changed["metadata"]["managedFields"]
        if entry["manager"] not in {"m", "clusterrole-aggregation-controller"}
    ]
    assert ["f:rules" in entry["fieldsV1"] for entry in owned] == [False]
    assert fields(wire.patch(path, {"aggregationRule": {"clusterRoleSelectors": []}})) == {
        "aggregationRule.clusterRoleSelectors"
    }
    wire.delete(path)


def test_an_unchanged_kind_is_asked_for_by_a_patch_without_a_version(wire: Wire, ns: str) -> None:
    path = f"{core(ns, 'configmaps')}/a"
    wire.post(core(ns, "configmaps"), {"metadata": {"name": "a"}})
    unversioned: list[Object] = [{"op": "remove", "path": "/apiVersion"}]
    assert wire.patch(path, unversioned, JSON_PATCH).code == 400
    assert wire.patch(path, [*unversioned, {"op": "replace", "path": "/kind", "value": "x"}], JSON_PATCH).code == 422
    strict = wire.request("PATCH", path, unversioned, content_type=JSON_PATCH, fieldValidation="Strict")
    assert strict.code == 422


def test_where_a_dry_run_ends_at_another_uid(wire: Wire, ns: str) -> None:
    path, body = f"{core(ns, 'endpoints')}/a", {"metadata": {"name": "a", "uid": "none"}}
    wire.post(core(ns, "endpoints"), {"metadata": {"name": "a"}})
    assert f"Key: /registry/services/endpoints/{ns}/a," in wire.put(path, body)["message"]
    assert f"Key: /services/endpoints/{ns}/a," in wire.put(path, body, dryRun="All")["message"]


def test_labels_of_an_endpoint_slice_are_counted(wire: Wire, ns: str) -> None:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices"
    wire.post(path, {"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": []})
    assert wire.patch(f"{path}/e", {"metadata": {"annotations": {"a": "b"}}})["metadata"]["generation"] == 1
    assert wire.patch(f"{path}/e", {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 2
    wrong = wire.patch(f"{path}/e", {"endpoints": [{"addresses": ["10.0.0.1"], "nodeName": ""}]})
    assert fields(wrong) == {"endpoints[0].nodeName"}


def test_only_the_first_source_of_a_volume_is_looked_into(wire: Wire, ns: str) -> None:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/v"}, "csi": {}}
    body = {"metadata": {"name": f"{ns}-fault"}, "spec": spec}
    assert fields(wire.post("/api/v1/persistentvolumes", body)) == {"spec.csi"}


def test_endpoints_go_with_their_service_whichever_way_it_goes(wire: Wire, ns: str) -> None:
    metadata = {"name": "a", "finalizers": ["example.com/f"]}
    wire.post(core(ns, "services"), {"metadata": metadata, "spec": {"ports": [{"port": 80}]}})
    wire.post(core(ns, "endpoints"), {"metadata": {"name": "a"}})
    assert wire.delete(f"{core(ns, 'services')}/a").code == 200
    assert wire.get(f"{core(ns, 'endpoints')}/a").code == 200
    wire.patch(f"{core(ns, 'services')}/a", {"metadata": {"finalizers": None}})
    assert wire.get(f"{core(ns, 'endpoints')}/a").code == 404


@pytest.mark.parametrize(
    ("plural", "spec", "field", "said"),
    [
        ("deployments", {"strategy": {"type": "x"}}, "spec.strategy", '{"Type":"x","RollingUpdate":null}: supported'),
        ("statefulsets", {"updateStrategy": {"type": "x"}}, "spec.updateStrategy", "must be 'RollingUpdate' or"),
        ("statefulsets", {"podManagementPolicy": "x"}, "spec.podManagementPolicy", "must be 'OrderedReady' or"),
        ("statefulsets", {"ordinals": {"start": -1}}, "spec.ordinals.start", "must be greater than or equal to 0"),
        ("statefulsets", {"serviceName": "A_b"}, "spec.serviceName", "RFC 1123 label"),
        ("daemonsets", {"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}},
         "spec.updateStrategy.rollingUpdate.maxSurge", "may not be set when maxUnavailable is non-zero"),
    ],
)  # fmt: skip
def test_how_a_workload_is_updated(wire: Wire, ns: str, plural: str, spec: Object, field: str, said: str) -> None:
    body = {"selector": {"matchLabels": {"app": "x"}}, "template": template(), **spec}
    refused = wire.post(apps(ns, plural), {"metadata": {"name": "fault"}, "spec": body})
    assert fields(refused) == {field}
    assert said in refused.causes[0][2]


def test_the_fields_of_a_patch_are_told_of_before_its_name(wire: Wire, ns: str) -> None:
    path = f"{autoscalers(ns, 'v2')}/h"
    spec = {"scaleTargetRef": {"apiVersion": "x/v1", "kind": "X", "name": "a"}, "maxReplicas": 1}
    wire.post(autoscalers(ns, "v2"), {"metadata": {"name": "h"}, "spec": spec})
    twice = wire.request("PATCH", path, '{"odd": 1, "odd": 2}', content_type=MERGE, dryRun="All")
    assert sorted(twice.warnings) == ['299 - "duplicate field \\"odd\\""', '299 - "unknown field \\"odd\\""']


def test_a_url_of_a_webhook_that_is_wrong_twice(wire: Wire) -> None:
    hook = {"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"]}
    body = {"metadata": {"name": "fault"}, "webhooks": [{**hook, "clientConfig": {"url": ""}}]}
    refused = wire.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", body)
    assert fields(refused) == {"webhooks[0].clientConfig.url"}
    assert len(refused.causes) == 2


def test_metadata_of_a_budget_are_checked_last_when_it_is_new(wire: Wire, ns: str) -> None:
    path, wrong = f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets", {"finalizers": ["bad finalizer"]}
    assert wire.post(path, {"metadata": {"name": "a"}, "spec": {"minAvailable": 1}}).code == 201
    new = wire.post(path, {"metadata": {"name": "b", **wrong}, "spec": {"minAvailable": "x"}})
    assert fields(new) == {"spec.minAvailable"}
    changed = wire.patch(f"{path}/a", {"metadata": wrong, "spec": {"minAvailable": "x"}})
    assert fields(changed) == {"spec.minAvailable", "metadata.finalizers"}


def test_rows_show_the_metadata_of_what_is_stored(wire: Wire, ns: str) -> None:
    spec = {
        "scaleTargetRef": {"apiVersion": "x/v1", "kind": "X", "name": "a"}, "maxReplicas": 1,
        "behavior": {"scaleUp": {"selectPolicy": "Min"}},
    }  # fmt: skip
    wire.post(autoscalers(ns, "v2"), {"metadata": {"name": "h"}, "spec": spec})
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    (row,) = wire.request("GET", f"{autoscalers(ns, 'v1')}/h", headers=table)["rows"]
    assert "annotations" not in row["object"]["metadata"]


def test_labels_by_way_of_the_status_are_those_of_the_template_sent(wire: Wire, ns: str) -> None:
    path = core(ns, "replicationcontrollers")
    wire.post(path, {"metadata": {"name": "r"}, "spec": {"replicas": 0, "template": template()}})
    other = {**template(), "metadata": {"labels": {"app": "y"}}}
    sent = {"metadata": {"name": "r"}, "spec": {"template": other}, "status": {"replicas": 0}}
    changed = wire.put(f"{path}/r/status", sent)
    assert (changed["metadata"]["labels"], changed["spec"]["selector"]) == ({"app": "y"}, {"app": "x"})


def test_what_a_type_of_its_own_cannot_read_is_said_first(wire: Wire, ns: str) -> None:
    wrong = {"name": 3, "resources": {"requests": {"cpu": True}}}
    refused = wire.post(core(ns, "podtemplates"), {"metadata": {"name": "t"}, "template": template(wrong)})
    assert (refused.code, "quantities must match" in refused["message"]) == (400, True)


def test_a_policy_that_no_pod_has_is_wrong_of_a_job_twice(wire: Wire, ns: str) -> None:
    body = {"metadata": {"name": "j"}, "spec": {"template": template(restartPolicy="x")}}
    refused = wire.post(f"/apis/batch/v1/namespaces/{ns}/jobs", body)
    assert fields(refused) == {"spec.template.spec.restartPolicy"}
    assert len({message for _, _, message in refused.causes}) == 2


def test_an_address_that_nobody_applies_any_more_stays(wire: Wire, ns: str) -> None:
    path, spec = f"{core(ns, 'services')}/a", {"ports": [{"port": 80}]}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    assert wire.apply(path, {**body, "spec": {**spec, "clusterIP": "None"}}).code == 201
    left = wire.apply(path, {**body, "spec": spec})
    assert (left.code, left["spec"]["clusterIP"], left["spec"]["clusterIPs"]) == (200, "None", ["None"])


def test_what_an_event_is_about_besides_stays_nothing(wire: Wire, ns: str) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{ns}/events"
    wire.post(core(ns, "events"), {"metadata": {"name": "e"}, "involvedObject": {"namespace": ns, "name": "n"}})
    assert "related" in fields(wire.patch(f"{path}/e", {"related": {}}))


def test_an_event_is_of_a_name_without_a_kind_too(wire: Wire, ns: str) -> None:
    event = {"metadata": {"name": "e"}, "involvedObject": {"namespace": ns, "name": "n"}, "count": 3, "series": {}}
    assert wire.post(core(ns, "events"), event).code == 201
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    (row,) = wire.request("GET", f"{core(ns, 'events')}/e", headers=headers)["rows"]
    assert [row["cells"][at] for at in (0, 3, 8)] == ["<unknown>", "/n", 0]


def test_nulls_of_a_list_whose_order_is_set_stay(wire: Wire, ns: str) -> None:
    wire.post(core(ns, "podtemplates"), {"metadata": {"name": "t"}, "template": template()})
    name = template()["spec"]["containers"][0]["name"]
    env = {"name": name, "env": [{"name": None, "value": "1"}], "$setElementOrder/env": [{"name": None}]}
    patch = {"template": {"spec": {"containers": [env]}}}
    refused = wire.patch(f"{core(ns, 'podtemplates')}/t", patch, STRATEGIC)
    assert fields(refused) == {"template.spec.containers[0].env[0].name"}


def test_a_namespace_that_had_no_finalizers_is_shown_when_it_goes(wire: Wire, ns: str) -> None:
    name, path = f"{ns}-gone", f"/api/v1/namespaces/{ns}-gone"
    wire.post("/api/v1/namespaces", {"metadata": {"name": name, "finalizers": ["example.com/f"]}})
    wire.put(f"{path}/finalize", {"metadata": {"name": name, "finalizers": ["example.com/f"]}, "spec": {}})
    assert "deletionGracePeriodSeconds" not in wire.delete(path)["metadata"]
    assert wire.delete(path)["metadata"]["deletionGracePeriodSeconds"] == 0
    assert wire.patch(path, {"metadata": {"finalizers": None}}).code == 200
    assert wire.get(path).code == 404


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("unheardOf", 'unable to find api field in struct Container for the json field "unheardOf"'),
        ("workingDir", "expected slice or array type, but got: struct"),
    ],
)
def test_the_order_of_what_is_no_list(wire: Wire, ns: str, field: str, fault: str) -> None:
    wire.post(core(ns, "podtemplates"), {"metadata": {"name": "t"}, "template": template()})
    name = template()["spec"]["containers"][0]["name"]
    patch = {"template": {"spec": {"containers": [{"name": name, field: ["x"], f"$setElementOrder/{field}": ["x"]}]}}}
    assert fault in wire.patch(f"{core(ns, 'podtemplates')}/t", patch, STRATEGIC)["message"]


@pytest.mark.parametrize(
    ("spec", "warnings"),
    [
        (
            {"containers": [{"name": name, "image": "x", "ports": [{"containerPort": 80}] * 2} for name in "ab"]},
            [
                f"containers[{i}].ports[{j}]: duplicate port definition with template.spec.containers[{k}].ports[{m}]"
                for i, j, k, m in ((0, 1, 0, 0), (1, 0, 0, 0), (1, 0, 0, 1), (1, 1, 0, 0), (1, 1, 0, 1), (1, 1, 1, 0))
            ],
        ),
        (
            {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80, "hostIP": "192.0.2.1"}]}]},
            [
                "containers[0].ports[0]: hostIP set without hostPort:"
                " {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:192.0.2.1}"
            ],
        ),
        ({"imagePullSecrets": [{}]}, ['imagePullSecrets[0].name: invalid empty name ""']),
        ({"nodeSelector": {"beta.kubernetes.io/os": "x"}},
         ['nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead']),
        ({"terminationGracePeriodSeconds": -1},
         ["terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"]),
    ],
)  # fmt: skip
def test_what_a_pod_that_is_accepted_is_warned_of(wire: Wire, ns: str, spec: Object, warnings: list[str]) -> None:
    body = template()
    made = wire.post(core(ns, "podtemplates"), {"metadata": {"name": "t"}, "template": {"spec": body["spec"] | spec}})
    assert made.code == 201, made
    told = [json.loads(warning.partition(" - ")[2]) for warning in made.warnings]
    assert told == [f"template.spec.{warning}" for warning in warnings]


def test_the_name_of_the_service_of_a_stateful_set_is_not_looked_at_again(wire: Wire, ns: str) -> None:
    body = {"selector": {"matchLabels": {"app": "x"}}, "template": template(), "replicas": 0}
    wire.post(apps(ns, "statefulsets"), {"metadata": {"name": "s"}, "spec": body})
    changed = wire.patch(f"{apps(ns, 'statefulsets')}/s", {"spec": {"serviceName": "A_b"}}, MERGE)
    assert fields(changed) == {"spec"}


def test_types_of_a_policy_that_are_none_are_those_it_had(wire: Wire, ns: str) -> None:
    path = f"/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"
    wire.post(path, {"metadata": {"name": "p"}, "spec": {"podSelector": {}}})
    same = wire.patch(f"{path}/p", [{"op": "remove", "path": "/spec/policyTypes/0"}], JSON_PATCH)
    assert (same["spec"]["policyTypes"], same["metadata"]["generation"]) == (["Ingress"], 1)


def test_what_is_unknown_and_what_is_there_twice_is_told_as_it_comes(wire: Wire, ns: str) -> None:
    text = '{"odd": 1, "metadata": {"name": "c", "name": "c", "x": 1}, "data": {"a": "1", "a": "2"}, "y": 1, "y": 2}'
    refused = wire.request("POST", core(ns, "configmaps"), text, fieldValidation="Strict")
    said = refused["message"].partition("strict decoding error: ")[2]
    assert said.replace('"', "").split(", ") == [
        "unknown field odd", "duplicate field metadata.name", "unknown field metadata.x", "duplicate field data.a",
        "unknown field y",
    ]  # fmt: skip


def test_two_ports_of_a_service_do_not_get_one_node_port_by_their_name(wire: Wire, ns: str) -> None:
    port = {"name": "p", "port": 80}
    wire.post(core(ns, "services"), {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [port]}})
    spec = {"type": "NodePort", "ports": [port, {**port, "port": 81}]}
    refused = wire.put(f"{core(ns, 'services')}/s", {"metadata": {"name": "s"}, "spec": spec})
    assert (refused.code in {400, 500}, refused["message"].startswith("duplicate nodePort: {TCP 3")) == (True, True)


def test_ports_of_a_slice_without_a_number_show_their_name(wire: Wire, ns: str) -> None:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices"
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    for name, ports, shown in (("a", [{}], "<unset>"), ("b", [{"name": "http"}], "http")):
        assert wire.post(path, {"metadata": {"name": name}, "addressType": "IPv4", "ports": ports}).code == 201
        (row,) = wire.request("GET", f"{path}/{name}", headers=headers)["rows"]
        assert row["cells"][2] == shown


def test_annotations_that_are_null_are_not_noted(wire: Wire, ns: str) -> None:
    note, path = "kubectl.kubernetes.io/last-applied-configuration", f"{core(ns, 'configmaps')}/c"
    wire.post(core(ns, "configmaps"), {"metadata": {"name": "c", "annotations": {note: "{}"}}})
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "annotations": None}}
    applied = wire.apply(path, body, manager="kubectl", force="true")
    assert "annotations" not in json.loads(applied["metadata"]["annotations"][note])["metadata"]


def test_what_goes_by_an_update_is_shown_as_it_was_given(wire: Wire, ns: str) -> None:
    path, finalizers = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles", ["example.com/f"]
    wire.post(path, {"metadata": {"name": "r", "finalizers": finalizers}, "rules": []})
    wire.delete(f"{path}/r")
    gone = wire.put(f"{path}/r", {"metadata": {"name": "r"}, "rules": []})
    assert (gone.code, gone["rules"], wire.get(f"{path}/r").code) == (200, [], 404)


def test_seconds_of_a_replication_controller(wire: Wire, ns: str) -> None:
    spec = {"template": template(), "replicas": 0, "minReadySeconds": -1}
    assert fields(wire.post(core(ns, "replicationcontrollers"), {"metadata": {"name": "r"}, "spec": spec})) == {
        "spec.minReadySeconds"
    }
