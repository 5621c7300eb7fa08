"""Server-side apply on the wire: ownership, conflicts, removal, list maps, subresources, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import APPLY, STRATEGIC, Reply, Wire

Object = dict[str, Any]


def maps(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def config(**data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}


def deployment(**spec: Any) -> Object:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}


def whole(image: str = "x:1", replicas: int = 3) -> Object:
    container = {"name": "c", "image": image, "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
    return deployment(paused=True, replicas=replicas, selector={"matchLabels": {"a": "b"}}, template=template)


def containers(*rows: Object) -> Object:
    return deployment(template={"spec": {"containers": list(rows)}})


def owned(reply: Any) -> dict[tuple[str, str, str], Object]:
    """(manager, operation, subresource) -> fieldsV1, of the test's managers."""
    rows = reply["metadata"].get("managedFields") or []
    found = {(row["manager"], row["operation"], row.get("subresource", "")): row["fieldsV1"] for row in rows}
    return {key: fields for key, fields in found.items() if key[0] not in {"sampan", "kube-controller-manager"}}


def test_ownership_conflicts_and_force(wire: Wire, ns: str) -> None:
    path = maps(ns, "a")
    made = wire.apply(path, config(k="1", l="1"), "m1")
    assert (made.code, owned(made)) == (201, {("m1", "Apply", ""): {"f:data": {"f:k": {}, "f:l": {}}}})
    assert wire.apply(path, config(k="1"), "m2").code == 200, "the same value may be shared"
    refused = wire.apply(path, config(k="2", l="2", m="2"), "m2")
    assert (refused.code, refused.reason) == (409, "Conflict")
    assert refused["message"] == 'Apply failed with 2 conflicts: conflicts with "m1":\n- .data.k\n- .data.l'
    assert refused["details"] == {
        "causes": [
            {"reason": "FieldManagerConflict", "message": 'conflict with "m1"', "field": ".data.k"},
            {"reason": "FieldManagerConflict", "message": 'conflict with "m1"', "field": ".data.l"},
        ]
    }
    forced = wire.apply(path, config(k="2", m="2"), "m2", force="true")
    assert forced["data"] == {"k": "2", "l": "1", "m": "2"}
    assert owned(forced) == {
        ("m1", "Apply", ""): {"f:data": {"f:l": {}}},
        ("m2", "Apply", ""): {"f:data": {"f:k": {}, "f:m": {}}},
    }
    assert wire.apply(path, config(m="2"), "m2")["data"] == {"l": "1", "m": "2"}, "what is dropped goes"
    wire.patch(path, {"data": {"l": "9"}}, fieldManager="other")
    late = wire.apply(path, config(l="1"), "m1")
    assert late.code == 409
    assert late["message"] == 'Apply failed with 1 conflict: conflict with "other" using v1: .data.l'


def test_what_two_own_stays_until_both_let_go(wire: Wire, ns: str) -> None:
    path = maps(ns, "a")
    wire.apply(path, config(k="1", l="1"), "m1")
    wire.apply(path, config(k="1"), "m2")
    assert wire.apply(path, config(l="1"), "m1")["data"] == {"k": "1", "l": "1"}
    assert wire.apply(path, config(), "m2")["data"] == {"l": "1"}


def test_nothing_new_changes_nothing(wire: Wire, ns: str) -> None:
    made = wire.apply(maps(ns, "a"), config(k="1"), "m1")
    same = wire.apply(maps(ns, "a"), config(k="1"), "m1")
    assert same.body == made.body


def test_list_maps_of_one_key(wire: Wire, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments/d"
    assert wire.apply(path, whole(), "m1").code == 201
    refused = wire.apply(path, containers({"name": "c", "image": "x:2"}), "m2")
    assert refused["message"] == (
        'Apply failed with 1 conflict: conflict with "m1": .spec.template.spec.containers[name="c"].image'
    )
    more = wire.apply(path, containers({"name": "side", "image": "s"}), "m2")
    assert [row["name"] for row in more["spec"]["template"]["spec"]["containers"]] == ["c", "side"]
    fields = owned(more)["m2", "Apply", ""]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert fields == {'k:{"name":"side"}': {".": {}, "f:image": {}, "f:name": {}}}
    fewer = wire.apply(path, containers({"name": "c", "env": [{"name": "B", "value": "2"}]}), "m2")
    (left,) = fewer["spec"]["template"]["spec"]["containers"]
    assert [row["name"] for row in left["env"]] == ["A", "B"]
    ports: dict[str, Any] = {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}}
    mine = owned(fewer)["m1", "Apply", ""]["f:spec"]["f:template"]["f:spec"]["f:containers"]['k:{"name":"c"}']
    assert mine["f:ports"] == ports, "a key that has a default is part of the key"


def test_list_maps_of_several_keys(wire: Wire, ns: str) -> None:
    path = f"/api/v1/namespaces/{ns}/services/s"

    def service(*ports: Object) -> Object:
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": list(ports)}}

    udp, tcp = {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dnst", "port": 53, "protocol": "TCP"}
    assert wire.apply(path, service(udp, tcp), "m1").code == 201
    other = wire.apply(path, service({**tcp, "targetPort": 5353}), "m2", force="true")
    assert [(row["protocol"], row["targetPort"]) for row in other["spec"]["ports"]] == [("UDP", 53), ("TCP", 5353)]
    left = wire.apply(path, service(udp), "m1")
    assert [row["name"] for row in left["spec"]["ports"]] == ["dns", "dnst"], "m2 still has it"
    assert [row["name"] for row in wire.apply(path, service(), "m2")["spec"]["ports"]] == ["dns"]


def test_sets(wire: Wire, ns: str) -> None:
    path = maps(ns, "a")

    def held(*finalizers: str) -> Object:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": list(finalizers)}}

    wire.apply(path, held("example.com/a", "example.com/b"), "m1")
    both = wire.apply(path, held("example.com/b", "example.com/c"), "m2")
    assert both["metadata"]["finalizers"] == ["example.com/a", "example.com/b", "example.com/c"]
    left = wire.apply(path, held("example.com/c"), "m2")
    assert left["metadata"]["finalizers"] == ["example.com/a", "example.com/b", "example.com/c"], "b is m1's too"
    assert wire.apply(path, held(), "m1")["metadata"]["finalizers"] == ["example.com/c"]
    wire.patch(path, {"metadata": {"finalizers": None}})


def test_atomic_lists_have_one_owner(wire: Wire, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments/d"
    wire.apply(path, whole(), "m1")
    wire.apply(path, containers({"name": "c", "args": ["a", "b"]}), "m2")
    refused = wire.apply(path, containers({"name": "c", "args": ["a"]}), "m3")
    assert refused.causes == [
        ("FieldManagerConflict", '.spec.template.spec.containers[name="c"].args', 'conflict with "m2"')
    ]
    taken = wire.apply(path, containers({"name": "c", "args": ["a"]}), "m3", force="true")
    assert taken["spec"]["template"]["spec"]["containers"][0]["args"] == ["a"]
    assert ("m2", "Apply", "") not in owned(taken) or "f:args" not in str(owned(taken)["m2", "Apply", ""])


def test_managers_of_subresources_are_apart(wire: Wire, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments/d"
    wire.apply(path, whole(), "m1")
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 5}}
    refused = wire.apply(f"{path}/scale", scale, "m2")
    assert refused["message"] == 'Apply failed with 1 conflict: conflict with "m1": .spec.replicas'
    forced = wire.apply(f"{path}/scale", scale, "m2", force="true")
    assert (forced.code, forced["kind"], forced["spec"]) == (200, "Scale", {"replicas": 5})
    present = wire.get(path).body
    assert owned(present)["m2", "Apply", "scale"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in owned(present)["m1", "Apply", ""]["f:spec"]
    status = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    condition = {"type": "Mine", "status": "True"}
    applied = wire.apply(f"{path}/status", {**status, "status": {"conditions": [condition]}}, "m1")
    assert set(owned(applied)) >= {("m1", "Apply", ""), ("m1", "Apply", "status"), ("m2", "Apply", "scale")}
    assert {row["type"] for row in applied["status"]["conditions"]} >= {"Mine"}
    merged = wire.apply(path, {**whole("x:2"), "status": {"replicas": 77}}, "m1", force="true")
    assert merged["status"].get("replicas") != 77, "the object's own path leaves the status alone"


def test_from_client_side_to_server_side(wire: Wire, ns: str) -> None:
    last = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    body = {"metadata": {"name": "a", "annotations": last}, "data": {"k": "1", "l": "1"}}
    wire.post(maps(ns), body, fieldManager="kubectl-client-side-apply")
    applied = wire.apply(maps(ns, "a"), config(k="2"), "kubectl", force="true")
    assert applied["data"] == {"k": "2", "l": "1"}
    reset = wire.patch(maps(ns, "a"), {"metadata": {"managedFields": [{}]}})
    assert "managedFields" not in reset["metadata"]
    refused = wire.apply(maps(ns, "a"), config(k="3"), "m1")
    assert 'conflict with "before-first-apply" using v1: .data.k' in refused["message"]
    after = wire.apply(maps(ns, "a"), config(k="3"), "m1", force="true")
    assert after["data"]["k"] == "3"
    assert ("before-first-apply", "Update", "") in owned(after)


def test_dry_run_and_yaml(wire: Wire, ns: str) -> None:
    dry = wire.apply(maps(ns, "a"), config(k="1"), "m1", dryRun="All")
    assert dry.code == 201 and wire.get(maps(ns, "a")).code == 404
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n"
    assert wire.patch(maps(ns, "a"), text, APPLY, fieldManager="m1")["data"] == {"k": "v"}


@pytest.mark.parametrize(
    ("body", "query", "code", "message"),
    [
        ({}, {"fieldManager": ""}, 422, "fieldManager: Required value: is required for apply patch"),
        ({}, {"fieldManager": "x" * 129}, 422, "fieldManager: Too long: may not be more than 128 bytes"),
        ({}, {"fieldManager": "a\x01"}, 422, 'fieldManager: Invalid value: "a\\x01": invalid character U+0001 (at'),
        ({"kind": "Secret"}, {}, 400, "invalid object type: /v1, Kind=Secret"),
        ({"apiVersion": ""}, {}, 400, "invalid object type: /, Kind=ConfigMap"),
        ({"metadata": {"name": "b"}}, {}, 400, "the name of the object (b) does not match the name on the URL (a)"),
        (
            {"metadata": {"name": "a", "managedFields": [{"manager": "x"}]}},
            {},
            400,
            "metadata.managedFields must be nil",
        ),
        ({}, {"dryRun": "Some"}, 422, 'dryRun: Unsupported value: ["Some"]: supported values: "All"'),
        ({}, {"fieldValidation": "x"}, 422, 'fieldValidation: Unsupported value: "x": supported values: "", "Ignore"'),
    ],
)
def test_what_cannot_be_applied(wire: Wire, ns: str, body: Object, query: Object, code: int, message: str) -> None:
    reply = wire.patch(maps(ns, "a"), {**config(k="1"), **body}, APPLY, **{"fieldManager": "m", **query})
    assert reply.code == code and message in reply["message"], reply


def test_force_is_for_applies(wire: Wire, ns: str) -> None:
    wire.apply(maps(ns, "a"), config(k="1"), "m1")
    reply = wire.patch(maps(ns, "a"), {"data": {"k": "2"}}, force="true")
    assert reply.causes == [("FieldValueForbidden", "force", "Forbidden: may not be specified for non-apply patch")]


def test_owners_of_the_number_of_a_scale(wire: Wire, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments/d"
    unsaid = whole()
    unsaid["spec"].pop("replicas", None)
    assert wire.apply(path, unsaid, "m1").code == 201

    def scale(replicas: int | None) -> dict[str, Any]:
        spec = {} if replicas is None else {"replicas": replicas}
        return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": spec}

    refused = wire.apply(f"{path}/scale", scale(3), "m2")
    before = 'conflict with "before-first-apply" with subresource "scale" using autoscaling/v1: .spec.replicas'
    assert refused["message"] == f"Apply failed with 1 conflict: {before}", "a default is nobody's"
    number: Object = {"f:spec": {"f:replicas": {}}}
    assert wire.apply(f"{path}/scale", scale(3), "m2", force="true").code == 200
    assert owned(wire.get(path))["m2", "Apply", "scale"] == number
    assert wire.put(f"{path}/scale", scale(2)).code == 200
    own = owned(wire.get(path))
    assert (own["conformance", "Update", "scale"], ("m2", "Apply", "scale") in own) == (number, False)
    assert wire.put(f"{path}/scale", scale(0)).code == 200
    assert set(owned(wire.get(path))) == {("m1", "Apply", "")}, "a Scale leaves its zero out"


def test_an_element_goes_with_who_put_it_there_whoever_changed_it(wire: Wire, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments/d"

    def applied(*rows: Object) -> Object:
        made = whole()
        made["spec"]["template"]["spec"]["containers"] = list(rows)
        return made

    both = [{"name": "B", "value": "1"}, {"name": "C", "value": "1"}]
    assert wire.apply(path, applied({"name": "c", "image": "x", "env": both}), "m1").code == 201
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "C", "value": "2"}]}]}}}}
    assert wire.patch(path, patch, STRATEGIC).code == 200
    left = wire.apply(path, applied({"name": "c", "image": "x", "env": both[:1]}), "m1", force="true")
    assert left["spec"]["template"]["spec"]["containers"][0]["env"] == both[:1]
    image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "y"}]}}}}
    assert wire.patch(path, image, STRATEGIC).code == 200
    other = wire.apply(path, applied({"name": "d", "image": "x"}), "m1", force="true")
    assert [row["name"] for row in other["spec"]["template"]["spec"]["containers"]] == ["d"]


def test_metadata_outlive_who_applied_some_of_them(wire: Wire, ns: str) -> None:
    path, typed = f"/api/v1/namespaces/{ns}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap"}
    wire.apply(f"{path}/a", {**typed, "metadata": {"name": "a", "labels": {"x": "y"}}}, "m1")
    wire.patch(f"{path}/a", {"metadata": {"finalizers": ["x.io/a"], "annotations": {"k": "v"}}})
    left = wire.apply(f"{path}/a", {**typed, "metadata": {"name": "a"}}, "m1")["metadata"]
    wire.patch(f"{path}/a", {"metadata": {"finalizers": None}})
    assert (left["finalizers"], left["annotations"], "labels" in left) == (["x.io/a"], {"k": "v"}, False)


def test_what_is_emptied_is_as_if_never_said(wire: Wire, ns: str) -> None:
    path = f"/api/v1/namespaces/{ns}/replicationcontrollers/r"

    def controller(**spec: Any) -> Object:
        return {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r"}, "spec": spec}

    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    assert wire.apply(path, controller(template=template), "m1").code == 201
    selected = wire.apply(path, controller(selector={"a": "b"}), "m2", force="true")
    assert selected["spec"]["selector"] == {"a": "b"}
    emptied = wire.apply(path, controller(selector={}), "m2")
    assert (emptied.code, emptied["spec"]["selector"]) == (200, {"a": "b"}), "the default, as when nothing is said"
    assert owned(emptied)["m2", "Apply", ""] == {"f:spec": {"f:selector": {}}}
    again = wire.apply(maps(ns, "a"), {**config(), "metadata": {"name": "a", "labels": {"x": "y"}}}, "m1")
    wire.apply(maps(ns, "a"), {**config(), "metadata": {"name": "a", "labels": {}}}, "m2")
    left = wire.apply(maps(ns, "a"), {**config(), "metadata": {"name": "a"}}, "m1")
    assert (again.code, left.code) == (201, 200), "m2 owns the map, but not what was in it"
    assert "labels" not in left["metadata"]


def test_a_status_that_leaves_the_metadata_alone(wire: Wire, ns: str) -> None:
    root = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    name = f"{ns}-p"
    typed = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy"}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["never"]}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}
    made = wire.post(root, {**typed, "metadata": {"name": name, "labels": {"a": "1"}}, "spec": spec}, fieldManager="m1")
    assert made.code == 201
    try:
        status = {"status": {"observedGeneration": 7}, "metadata": {"labels": {"a": "2", "b": "2"}}}
        patched = wire.patch(f"{root}/{name}/status", status, fieldManager="m2")
        assert patched["metadata"]["labels"] == {"a": "1"}
        assert owned(patched)["m2", "Update", "status"] == {"f:status": {"f:observedGeneration": {}}}
        assert "f:labels" in owned(patched)["m1", "Update", ""]["f:metadata"]
        body = {**typed, "metadata": {"name": name, "labels": {"a": "3"}}, "status": {"observedGeneration": 7}}

        def apply() -> Reply | None:
            reply = wire.apply(f"{root}/{name}/status", body, "m3")
            if reply.code == 409 and b"observedGeneration" in reply.raw:  # a controller has come between
                wire.patch(f"{root}/{name}/status", status, fieldManager="m2")
                return None
            return reply

        applied = eventually(apply)
        assert (applied.code, applied["metadata"]["labels"]) == (200, {"a": "1"}), "nor do its labels conflict"
        assert owned(applied)["m3", "Apply", "status"] == {"f:status": {"f:observedGeneration": {}}}
        wire.patch(f"{root}/{name}", {"metadata": {"managedFields": []}})
        first = wire.apply(f"{root}/{name}/status", body, "m3")
        others = [fields for key, fields in owned(first).items() if key[0] != "m3"]  # a controller may be before us
        assert all(set(fields) == {"f:status"} for fields in others), others
    finally:
        wire.delete(f"{root}/{name}")


def test_who_owns_what_is_written_by_way_of_the_object_alone(wire: Wire, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments/d"
    wire.apply(path, whole(), "m1")
    kept = owned(wire.patch(f"{path}/status", {"metadata": {"managedFields": [{}]}}))
    assert ("m1", "Apply", "") in kept
    entry = {"manager": "m9", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1"}
    told = wire.patch(path, {"metadata": {"managedFields": [{**entry, "fieldsV1": {"f:spec": {"f:paused": {}}}}]}})
    assert owned(told) == {("m9", "Update", ""): {"f:spec": {"f:paused": {}}}}
    unread = wire.patch(path, {"metadata": {"managedFields": [{**entry, "fieldsType": "", "fieldsV1": {}}]}})
    assert owned(unread) == owned(told), "what cannot be read as entries changes none"
    assert owned(wire.patch(path, {"metadata": {"managedFields": []}})) == {}


def test_the_order_of_a_list_is_the_appliers(wire: Wire, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments/d"
    wire.apply(path, whole(), "m1")
    rows = [{"name": "c", "image": "x:1"}, {"name": "b", "image": "x"}, {"name": "a", "image": "x"}]
    assert wire.apply(path, containers(*rows), "m2").code == 200
    turned = wire.apply(path, containers(rows[2], rows[0], rows[1]), "m2")
    assert [row["name"] for row in turned["spec"]["template"]["spec"]["containers"]] == ["a", "c", "b"]


def test_an_owner_a_patch_gives_twice_is_one_field(wire: Wire, ns: str) -> None:
    owner: Object = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u1"}

    def held(*owners: Object) -> Object:
        return {**config(k="1"), "metadata": {"name": "a", "ownerReferences": list(owners)}}

    wire.post(maps(ns), held())
    twice = wire.patch(maps(ns, "a"), held(owner, owner), fieldManager="m1")
    assert "duplicate entries after mutating admission happens" in str(twice.warnings)
    assert twice["metadata"]["ownerReferences"] == [owner]
    fields = owned(twice)["m1", "Update", ""]["f:metadata"]["f:ownerReferences"]
    assert fields == {".": {}, 'k:{"uid":"u1"}': {}}, "with nothing in it: which of the two would it be"


def test_lists_with_something_empty_in_them_change_hands(wire: Wire, ns: str) -> None:
    path = f"/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies/n"

    def policy(**spec: Any) -> Object:
        typed = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"}}
        return {**typed, "spec": {"podSelector": {}, **spec}}

    wire.apply(path, policy(ingress=[{}], egress=[{}]), "m1")
    again = wire.patch(path, {"spec": {"ingress": [{"from": []}], "egress": [{}]}}, fieldManager="m2")
    assert owned(again)["m2", "Update", ""] == {"f:spec": {"f:ingress": {}}}
    assert "f:ingress" not in owned(again)["m1", "Apply", ""]["f:spec"]


def test_the_note_of_kubectl_shares_what_it_says(wire: Wire, ns: str) -> None:
    def noted(text: str, **data: str) -> Object:
        annotations = {"kubectl.kubernetes.io/last-applied-configuration": text}
        return {**config(**data), "metadata": {"name": "a", "annotations": annotations}}

    own = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"1"}%s}'
    wire.post(maps(ns), noted(own % "", k="1", l="1"), fieldManager="kubectl-client-side-apply")
    taken = wire.apply(maps(ns, "a"), config(k="2"), "kubectl")
    assert (taken.code, taken["data"]) == (200, {"k": "2", "l": "1"}), "it is kubectl's, by its note"
    refused = wire.apply(maps(ns, "a"), config(k="2", l="2"), "kubectl")
    assert [field for _, field, _ in refused.causes] == [".data.l"]
    wire.put(maps(ns, "a"), noted(own % ',"more":1', k="1", l="1"), fieldManager="kubectl-client-side-apply")
    unread = wire.apply(maps(ns, "a"), config(k="2"), "kubectl")
    assert [field for _, field, _ in unread.causes] == [".data.k"], "a note that cannot be read says nothing"


def test_labels_an_object_has_by_its_template_are_nobodys_by_its_status(wire: Wire, ns: str) -> None:
    path = f"/api/v1/namespaces/{ns}/replicationcontrollers/r"
    typed: Object = {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r"}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    made = wire.post(path.rpartition("/")[0], {**typed, "spec": {"template": template}}, fieldManager="m1")
    assert "f:labels" in owned(made)["m1", "Update", ""]["f:metadata"]
    body = {**typed, "metadata": {"name": "r"}, "spec": {}, "status": {"replicas": 0, "observedGeneration": 7}}
    seen = wire.put(f"{path}/status", body, fieldManager="m2")
    assert seen["metadata"]["labels"] == {"a": "b"}
    assert [key for key, fields in owned(seen).items() if "f:metadata" in fields] == []


@pytest.mark.parametrize(
    ("entries", "left"),
    [
        ([{"manager": "x", "apiVersion": "v9"}], {}),
        ([{"manager": "x", "apiVersion": "v9"}, {"manager": "y"}], {"y": {"f:data": {"f:k": {}}}}),
        ([{"manager": "x"}, {"manager": "x"}], {"x": {"f:data": {"f:k": {}}}}),
        ([{"manager": "x", "fieldsV1": {".": {}}}], {}),
        ([{"manager": "x", "fieldsV1": {"x:y": {}, "f:data": {"y:z": {}}}}], {"x": {"f:data": {}}}),
        ([{"manager": "x", "fieldsV1": {"f:data": {"k:{": {}}}}], {"m": {"f:data": {".": {}, "f:k": {}}}}),
        ([{"manager": "x", "fieldsV1": "x"}], {"m": {"f:data": {".": {}, "f:k": {}}}}),
        ([{"manager": "x", "operation": "Odd"}], {"m": {"f:data": {".": {}, "f:k": {}}}}),
        ([{}, {}], {"m": {"f:data": {".": {}, "f:k": {}}}}),
        ([{}], {}),
        ([], {}),
    ],
)
def test_owners_a_write_tells_of(wire: Wire, ns: str, entries: list[Object], left: Object) -> None:
    wire.post(maps(ns), config(k="1"), fieldManager="m")
    whole = {"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}}
    told = [{**whole, **entry} if entry else entry for entry in entries]
    reply = wire.patch(maps(ns, "a"), {"metadata": {"managedFields": told}})
    assert (reply.code, {key[0]: fields for key, fields in owned(reply).items()}) == (200, left)
