"""Objects and their versions: create, read, update, delete; what the server owns of the metadata; preconditions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import JSON_PATCH, MERGE, STRATEGIC, Wire


def config(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def maps(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def test_create_gives_what_the_server_owns(wire: Wire, ns: str) -> None:
    given = config("a", k="v")
    given["metadata"] |= {"uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7, "selfLink": "/x"}
    made = wire.post(maps(ns), given)
    assert made.code == 201, made
    metadata = made["metadata"]
    assert metadata["uid"] != "mine" and metadata["creationTimestamp"][:4] != "2001"
    assert metadata["generation"] == 7, "kinds that do not count generations keep what was given"
    assert "selfLink" not in metadata
    assert metadata["managedFields"][0]["manager"] == "conformance"
    assert metadata["managedFields"][0]["operation"] == "Update"


def test_a_second_create_conflicts(wire: Wire, ns: str) -> None:
    assert wire.post(maps(ns), config("a")).code == 201
    again = wire.post(maps(ns), config("a"))
    assert (again.code, again.reason) == (409, "AlreadyExists")
    assert again["message"] == 'configmaps "a" already exists'
    assert again["details"] == {"name": "a", "kind": "configmaps"}


def test_not_found(wire: Wire, ns: str) -> None:
    for method in ("GET", "DELETE"):
        reply = wire.request(method, maps(ns, "none"))
        assert (reply.code, reply.reason, reply["message"]) == (404, "NotFound", 'configmaps "none" not found')
    assert wire.put(maps(ns, "none"), config("none")).code == 404
    assert wire.patch(maps(ns, "none"), {"data": {}}).code == 404


def test_a_create_with_a_version_is_refused(wire: Wire, ns: str) -> None:
    given = config("a")
    given["metadata"]["resourceVersion"] = "5"
    reply = wire.post(maps(ns), given)
    assert reply.code in (400, 500)  # 500 upstream; docs/conformance.md
    assert reply["message"] == "resourceVersion should not be set on objects to be created"


def test_an_update_from_an_old_version_conflicts(wire: Wire, ns: str) -> None:
    first = wire.post(maps(ns), config("a", k="1")).body
    assert wire.put(maps(ns, "a"), config("a", k="2")).code == 200
    first["data"]["k"] = "3"
    reply = wire.put(maps(ns, "a"), first)
    assert (reply.code, reply.reason) == (409, "Conflict")
    assert reply["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    patch = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"k": "4"}}
    assert wire.patch(maps(ns, "a"), patch).code == 409
    assert wire.get(maps(ns, "a"))["data"] == {"k": "2"}


def test_a_change_of_nothing_keeps_the_version(wire: Wire, ns: str) -> None:
    made = wire.post(maps(ns), config("a", k="1")).body
    same = wire.put(maps(ns, "a"), made).body
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    for content in (MERGE, STRATEGIC):
        reply = wire.patch(maps(ns, "a"), {"data": {"k": "1"}}, content)
        assert reply["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_one_sequence_of_versions_over_all_kinds(wire: Wire, ns: str) -> None:
    one = int(wire.post(maps(ns), config("a"))["metadata"]["resourceVersion"])
    secret = {"metadata": {"name": "s"}}
    two = int(wire.post(f"/api/v1/namespaces/{ns}/secrets", secret)["metadata"]["resourceVersion"])
    three = int(wire.patch(maps(ns, "a"), {"data": {"k": "v"}})["metadata"]["resourceVersion"])
    listed = wire.get(maps(ns)).body
    assert one < two < three <= int(listed["metadata"]["resourceVersion"])
    assert all(
        int(item["metadata"]["resourceVersion"]) <= int(listed["metadata"]["resourceVersion"])
        for item in listed["items"]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "A",
            'ConfigMap "A" is invalid: metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist',
        ),
        ("a_b", 'ConfigMap "a_b" is invalid: metadata.name: Invalid value: "a_b": a lowercase RFC 1123 subdomain must'),
        ("", 'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required'),
        ("x" * 254, "must be no more than 253"),
    ],
)
def test_names(wire: Wire, ns: str, name: str, message: str) -> None:
    reply = wire.post(maps(ns), config(name))
    assert (reply.code, reply.reason) == (422, "Invalid")
    assert message in reply["message"], reply


def test_generated_names(wire: Wire, ns: str) -> None:
    names = {wire.post(maps(ns), {"metadata": {"generateName": "gen-"}})["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5 and all(name.startswith("gen-") and len(name) == 9 for name in names)
    both = wire.post(maps(ns), {"metadata": {"generateName": "gen-", "name": "fixed"}})
    assert both["metadata"]["name"] == "fixed"


def test_name_and_namespace_must_agree_with_the_path(wire: Wire, ns: str) -> None:
    wire.post(maps(ns), config("a"))
    other = wire.put(maps(ns, "a"), config("b"))
    assert (other.code, other["message"]) == (
        400,
        "the name of the object (b) does not match the name on the URL (a)",
    )
    given = config("c")
    given["metadata"]["namespace"] = "default"
    elsewhere = wire.post(maps(ns), given)
    assert (elsewhere.code, elsewhere["message"]) == (
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    )


def test_preconditions_of_a_deletion(wire: Wire, ns: str) -> None:
    made = wire.post(maps(ns), config("a")).body
    wrong = wire.delete(maps(ns, "a"), {"preconditions": {"uid": "no"}})
    assert (wrong.code, wrong.reason) == (409, "Conflict")
    assert wrong["message"] == (
        'Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (no) does not match the UID in '
        f"record ({made['metadata']['uid']}). The object might have been deleted and then recreated"
    )
    stale = wire.delete(maps(ns, "a"), {"preconditions": {"resourceVersion": "1"}})
    assert stale.code == 409
    assert stale["message"] == (
        'Operation cannot be fulfilled on ConfigMap "a": the ResourceVersion in the precondition (1) does not match '
        f"the ResourceVersion in record ({made['metadata']['resourceVersion']}). The object might have been modified"
    )
    right = {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}
    gone = wire.delete(maps(ns, "a"), {"preconditions": right})
    assert gone.code == 200
    assert gone.body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]},
    }


def test_a_recreated_object_is_another(wire: Wire, ns: str) -> None:
    first = wire.post(maps(ns), config("a"))["metadata"]["uid"]
    wire.delete(maps(ns, "a"))
    assert wire.post(maps(ns), config("a"))["metadata"]["uid"] != first
    given = config("a")
    given["metadata"]["uid"] = first
    reply = wire.put(maps(ns, "a"), given)
    assert reply.code == 409
    assert "Precondition failed: UID in precondition" in reply["message"]


def test_finalizers_hold_an_object(wire: Wire, ns: str) -> None:
    given = config("a")
    given["metadata"]["finalizers"] = ["example.com/hold"]
    wire.post(maps(ns), given)
    held = wire.delete(maps(ns, "a"))
    assert held.code == 200 and held["metadata"]["deletionTimestamp"]
    assert held["metadata"]["deletionGracePeriodSeconds"] == 0
    again = wire.delete(maps(ns, "a"))
    assert again["metadata"]["deletionTimestamp"] == held["metadata"]["deletionTimestamp"]
    more = wire.patch(maps(ns, "a"), {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}})
    assert (more.code, more.reason) == (422, "Invalid")
    assert "no new finalizers can be added if the object is being deleted" in more["message"]
    assert wire.patch(maps(ns, "a"), {"metadata": {"finalizers": None}}).code == 200
    assert wire.get(maps(ns, "a")).code == 404


def test_dry_run_changes_nothing(wire: Wire, ns: str) -> None:
    before = wire.get(maps(ns))["metadata"]["resourceVersion"]
    made = wire.post(maps(ns), config("a"), dryRun="All")
    assert made.code == 201 and "resourceVersion" not in made["metadata"] and made["metadata"]["uid"]
    assert wire.get(maps(ns, "a")).code == 404
    wire.post(maps(ns), config("b", k="1"))
    changed = wire.patch(maps(ns, "b"), {"data": {"k": "2"}}, dryRun="All")
    assert changed["data"] == {"k": "2"} and wire.get(maps(ns, "b"))["data"] == {"k": "1"}
    assert wire.delete(maps(ns, "b"), dryRun="All").code == 200
    assert wire.get(maps(ns, "b")).code == 200
    wrong = wire.post(maps(ns), config("c"), dryRun="Some")
    assert wrong.code in (400, 422) and "Unsupported value" in wrong["message"]
    assert int(wire.get(maps(ns))["metadata"]["resourceVersion"]) >= int(before)


def test_json_patch(wire: Wire, ns: str) -> None:
    wire.post(maps(ns), config("a", k="1"))
    changed = wire.patch(maps(ns, "a"), [{"op": "add", "path": "/data/l", "value": "2"}], JSON_PATCH)
    assert changed["data"] == {"k": "1", "l": "2"}
    failed = wire.patch(maps(ns, "a"), [{"op": "test", "path": "/data/k", "value": "9"}], JSON_PATCH)
    assert (failed.code, failed.reason) == (422, "Invalid")
    missing = wire.patch(maps(ns, "a"), [{"op": "remove", "path": "/data/zz"}], JSON_PATCH)
    assert missing.code == 422
    broken = wire.patch(maps(ns, "a"), b"{nonsense", JSON_PATCH)
    assert broken.code == 400


def test_owner_gone_dependents_go(wire: Wire, ns: str) -> None:
    owner = wire.post(maps(ns), config("owner")).body
    dependent = config("dependent")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    dependent["metadata"]["ownerReferences"] = [reference]
    wire.post(maps(ns), dependent)
    wire.delete(maps(ns, "owner"), {"propagationPolicy": "Background"})
    eventually(lambda: wire.get(maps(ns, "dependent")).code == 404)


def test_items_of_a_list_do_not_name_their_kind_but_rows_of_a_table_do(wire: Wire, ns: str) -> None:
    wire.post(maps(ns), config("a"))
    assert not any({"kind", "apiVersion"} & item.keys() for item in wire.get(maps(ns))["items"])
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    rows = wire.request("GET", maps(ns), headers=accept, includeObject="Object")["rows"]
    assert {row["object"]["kind"] for row in rows} == {"ConfigMap"}
    rows = wire.request("GET", maps(ns), headers=accept)["rows"]
    assert {row["object"]["kind"] for row in rows} == {"PartialObjectMetadata"}
