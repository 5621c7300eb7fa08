"""Details that random operations on both servers found to differ: each was a difference once."""

from __future__ import annotations

from typing import Any

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.targets import Target
from tests.conformance.kubernetes.wire import JSON_PATCH, STRATEGIC, Wire

CONTAINER = {"name": "main", "image": "nginx:1"}


def template(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": list(containers) or [CONTAINER], **more}}


def deployment(name: str = "d", *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    spec = {"selector": {"matchLabels": {"app": "x"}}, "template": template(*containers), "replicas": 0, **more}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def core(ns: str, plural: str) -> str:
    return f"/api/v1/namespaces/{ns}/{plural}"


def apps(ns: str, plural: str) -> str:
    return f"/apis/apps/v1/namespaces/{ns}/{plural}"


def test_a_patch_that_renames_or_removes_the_name_is_refused(wire: Wire, ns: str) -> None:
    path = core(ns, "configmaps")
    wire.post(path, {"metadata": {"name": "a"}})
    renamed = wire.patch(f"{path}/a", [{"op": "replace", "path": "/metadata/name", "value": "z"}], JSON_PATCH)
    assert (renamed.code, renamed["message"]) == (
        400,
        "the name of the object (z) does not match the name on the URL (a)",
    )
    for gone in ("/metadata", "/metadata/name", "/apiVersion"):
        reply = wire.patch(f"{path}/a", [{"op": "remove", "path": gone}], JSON_PATCH)
        assert reply.code == 400, (gone, reply)
        assert "was undeterminable: name must be provided" in reply["message"]
    assert wire.patch(f"{path}/a", [{"op": "replace", "path": "/kind", "value": 1}], JSON_PATCH).code == 422


def test_an_applied_object_that_does_not_exist_needs_its_name(wire: Wire, ns: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}
    assert wire.apply(f"{core(ns, 'configmaps')}/new", body).code == 400
    wrong = wire.apply(f"{core(ns, 'configmaps')}/new", {**body, "metadata": {"name": "other"}})
    assert wrong["message"] == "the name of the object (other) does not match the name on the URL (new)"


def test_an_element_applied_twice_is_refused(target: Target, wire: Wire, ns: str) -> None:
    twice = deployment("d", CONTAINER, CONTAINER)
    reply = wire.apply(f"{apps(ns, 'deployments')}/d", twice)
    assert reply.code == (400 if target.name == "embedded" else 500)  # docs/conformance.md
    assert '.spec.template.spec.containers: duplicate entries for key [name="main"]' in reply["message"]


def test_the_same_owner_twice_is_kept_once_with_a_warning(wire: Wire, ns: str) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u1"}
    reply = wire.post(
        core(ns, "configmaps"), {"metadata": {"name": "a", "ownerReferences": [owner, owner]}}, dryRun="All"
    )
    assert reply.code == 201
    assert reply["metadata"]["ownerReferences"] == [owner]
    assert "contains duplicate entries" in reply.warnings[0]


def test_a_faulty_owner_and_a_faulty_finalizer_are_said_with_the_rest(wire: Wire, ns: str) -> None:
    metadata = {"name": "a", "finalizers": ["bad finalizer"], "ownerReferences": [{"apiVersion": "v1", "kind": "X"}]}
    reply = wire.post(core(ns, "services"), {"metadata": metadata, "spec": {"ports": [{"port": 1}, {"port": 2}]}})
    assert reply.code == 422
    fields = {field for _, field, _ in reply.causes}
    assert {"metadata.finalizers", "metadata.ownerReferences.uid", "spec.ports[0].name"} <= fields


def test_volumes_and_claims_are_protected_from_the_start(wire: Wire, ns: str) -> None:
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = wire.post(core(ns, "persistentvolumeclaims"), {"metadata": {"name": "c"}, "spec": spec})
    assert claim["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    volume = {
        "metadata": {"name": f"{ns}-v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"},
                 "storageClassName": "none"},
    }  # fmt: skip
    made = wire.post("/api/v1/persistentvolumes", volume)
    assert made["metadata"]["finalizers"] == ["kubernetes.io/pv-protection"]
    wire.delete(f"/api/v1/persistentvolumes/{ns}-v")
    wire.delete(f"{core(ns, 'persistentvolumeclaims')}/c")


def test_deleted_volumes_that_nobody_uses_go(wire: Wire, ns: str) -> None:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "none",
    }
    wire.post(core(ns, "persistentvolumeclaims"), {"metadata": {"name": "c"}, "spec": spec})
    volume = {
        "metadata": {"name": f"{ns}-v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "hostPath": {"path": "/nowhere"},
                 "storageClassName": "other"},
    }  # fmt: skip
    wire.post("/api/v1/persistentvolumes", volume)
    for path in (f"{core(ns, 'persistentvolumeclaims')}/c", f"/api/v1/persistentvolumes/{ns}-v"):
        assert wire.delete(path).code == 200
        eventually(lambda: wire.get(path).code == 404)  # noqa: B023 - called at once


def test_a_daemon_set_counts_its_templates(wire: Wire, ns: str) -> None:
    count = "deprecated.daemonset.template.generation"
    path = apps(ns, "daemonsets")
    body = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}},
            "template": template(nodeSelector={"no": "where"})}}  # fmt: skip
    assert wire.post(path, body)["metadata"]["annotations"][count] == "1"
    change = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "nginx:2"}]}}}}
    assert wire.patch(f"{path}/d", change, STRATEGIC)["metadata"]["annotations"][count] == "2"
    own = wire.patch(f"{path}/d", {"metadata": {"annotations": {count: "9"}}})
    assert own["metadata"]["annotations"][count] == "2"


def test_names_given_twice_in_a_template_are_warned_of(wire: Wire, ns: str) -> None:
    ports = [{"containerPort": 80, "name": "http"}]
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    body = deployment(
        "d", {**CONTAINER, "env": env, "ports": ports}, {"name": "side", "image": "nginx", "ports": ports}
    )
    warnings = "\n".join(wire.post(apps(ns, "deployments"), body, dryRun="All").warnings)
    assert 'env[1]: hides previous definition of \\"A\\"' in warnings
    assert (
        'containers[1].ports[0]: duplicate port name \\"http\\" with spec.template.spec.containers[0].ports[0]'
        in warnings
    )


def test_elements_new_to_a_list_come_first_in_a_strategic_merge(wire: Wire, ns: str) -> None:
    path = core(ns, "configmaps")
    wire.post(path, {"metadata": {"name": "a", "finalizers": ["x.io/a", "x.io/b"]}})
    changed = wire.patch(f"{path}/a", {"metadata": {"finalizers": ["x.io/c"]}}, STRATEGIC)
    assert changed["metadata"]["finalizers"] == ["x.io/c", "x.io/a", "x.io/b"]
    wire.patch(f"{path}/a", {"metadata": {"finalizers": None}})


def test_a_structure_nobody_applies_any_more_goes_with_its_defaults(wire: Wire, ns: str) -> None:
    path = f"{apps(ns, 'deployments')}/d"
    probed = {**CONTAINER, "readinessProbe": {"httpGet": {"port": 80}}}
    assert wire.apply(path, deployment("d", probed)).code == 201
    left = wire.apply(path, deployment("d"))
    assert left.code == 200, left
    assert "readinessProbe" not in left["spec"]["template"]["spec"]["containers"][0]


def test_some_kinds_are_replaced_only_by_who_read_them(wire: Wire, ns: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
    wire.post(path, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}})
    reply = wire.put(f"{path}/l", {"metadata": {"name": "l"}, "spec": {"holderIdentity": "b"}})
    assert (reply.code, reply.causes[0][1]) == (422, "metadata.resourceVersion")


def test_a_service_is_created_by_an_update(wire: Wire, ns: str) -> None:
    reply = wire.put(f"{core(ns, 'services')}/s", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
    assert reply.code == 201


def test_the_answer_to_a_deletion(wire: Wire, ns: str) -> None:
    wire.post(core(ns, "serviceaccounts"), {"metadata": {"name": "a"}})
    wire.post(core(ns, "configmaps"), {"metadata": {"name": "a"}})
    account = wire.delete(f"{core(ns, 'serviceaccounts')}/a")
    assert account["kind"] == "ServiceAccount"
    assert "deletionTimestamp" not in account["metadata"]
    assert wire.delete(f"{core(ns, 'configmaps')}/a")["status"] == "Success"


def test_lists_that_are_null_where_they_are_missing(wire: Wire, ns: str) -> None:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles"
    role = wire.post(rbac, {"metadata": {"name": "r"}})
    assert (role["rules"], "managedFields" in role["metadata"]) == (None, False)
    spec = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}, "maxReplicas": 2}
    scaler = wire.post(f"/apis/autoscaling/v2/namespaces/{ns}/horizontalpodautoscalers",
                       {"metadata": {"name": "h"}, "spec": spec}, dryRun="All")  # fmt: skip
    assert scaler["status"]["currentMetrics"] is None


def test_what_admits_is_replaced_only_by_who_read_it(wire: Wire, ns: str) -> None:
    for plural in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"):
        path = f"/apis/admissionregistration.k8s.io/v1/{plural}"
        made = wire.post(path, {"metadata": {"name": ns}})
        unread = wire.put(f"{path}/{ns}", {"metadata": {"name": ns}})
        read = wire.put(f"{path}/{ns}", made.body)
        wire.delete(f"{path}/{ns}")
        assert (unread.code, unread.causes[0][1], read.code) == (422, "metadata.resourceVersion", 200)


def test_a_list_said_to_be_empty_counts_as_a_change_where_go_tells_it_from_none(wire: Wire, ns: str) -> None:
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    wire.post(path, {"metadata": {"name": ns}})
    said = wire.patch(f"{path}/{ns}", {"webhooks": []})
    unsaid = wire.patch(f"{path}/{ns}", {"webhooks": None})
    wire.delete(f"{path}/{ns}")
    assert [reply["metadata"]["generation"] for reply in (said, unsaid)] == [2, 2]
    policies = f"/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"
    wire.post(policies, {"metadata": {"name": "a"}, "spec": {"podSelector": {}}})
    said = wire.patch(f"{policies}/a", {"spec": {"ingress": [{"from": []}]}})
    again = wire.patch(f"{policies}/a", {"spec": {"ingress": [{"from": []}]}})
    unsaid = wire.patch(f"{policies}/a", {"spec": {"ingress": [{}]}})
    assert [reply["metadata"]["generation"] for reply in (said, again, unsaid)] == [2, 3, 3]


def test_what_is_there_is_in_some_phase(wire: Wire, ns: str) -> None:
    space = {"metadata": {"name": ns}}
    assert wire.put(f"/api/v1/namespaces/{ns}/status", space)["status"] == {"phase": "Active"}
    refused = wire.patch(f"/api/v1/namespaces/{ns}/status", {"status": {"phase": "Odd"}})
    assert (refused.code, refused.causes[0][1]) == (422, "status.Phase")
    volume = {
        "metadata": {"name": ns},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "nfs": {"server": "s", "path": "/v"},
        },
    }
    made = wire.post("/api/v1/persistentvolumes", volume)
    patched = wire.patch(f"/api/v1/persistentvolumes/{ns}/status", {"status": {"phase": ""}})
    wire.delete(f"/api/v1/persistentvolumes/{ns}")
    assert (patched.code, bool(patched["status"]["phase"]), made.code) == (200, True, 201)


def test_who_creates_by_way_of_the_status_owns_it_alone(wire: Wire, ns: str) -> None:
    path, condition = core(ns, "services"), {"type": "Other", "status": "True"}
    body = {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 443}]}, "status": {"conditions": [condition]}}
    made = wire.put(f"{path}/a/status", body)
    assert (made.code, made["spec"].get("clusterIP"), made["spec"]["ports"][0]["port"]) == (201, None, 443)
    (entry,) = made["metadata"]["managedFields"]
    assert (entry["subresource"], set(entry["fieldsV1"])) == ("status", {"f:status"})
    typed = {"apiVersion": "v1", "kind": "Service"}
    applied = wire.apply(f"{path}/b/status", {**typed, **body, "metadata": {"name": "b"}}, "m")
    assert (applied.code, applied["spec"]["ports"][0]["port"]) == (201, 443)
    (entry,) = applied["metadata"]["managedFields"]
    assert (entry["subresource"], set(entry["fieldsV1"])) == ("status", {"f:status"})


def test_what_was_observed_of_a_pod_stays_said(wire: Wire, ns: str) -> None:
    pods = f"/api/v1/namespaces/{ns}/pods"
    pod = {"metadata": {"name": "p"}, "spec": {"schedulerName": "none", "containers": [{"name": "c", "image": "x"}]}}
    assert wire.post(pods, pod).code == 201
    rows = [{"type": "example.com/A", "status": "True", "observedGeneration": 3}]
    wire.patch(f"{pods}/p/status", {"status": {"observedGeneration": 1, "conditions": rows}}, STRATEGIC)
    bare = [{"type": "example.com/A", "status": "False"}]
    status = wire.patch(f"{pods}/p/status", {"status": {"observedGeneration": None, "conditions": bare}})["status"]
    assert status["observedGeneration"] == 1
    assert [row["observedGeneration"] for row in status["conditions"] if row["type"] == "example.com/A"] == [3]
