"""Server-side apply and field ownership."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import schema
from sampan.kube.errors import ApiError
from sampan.kube.patch import fields, managed_fields
from sampan.kube.patch.apply import apply
from sampan.kube.patch.managed_fields import track_update

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
DEPLOYMENT = schema.load().definition("io.k8s.api.apps.v1.Deployment")
SERVICE = schema.load().definition("io.k8s.api.core.v1.Service")


def deployment(replicas: int | None = 3, *containers: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"template": {"spec": {"containers": list(containers) or [{"name": "web", "image": "a"}]}}}
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", **metadata}, "spec": spec}


def owners(obj: dict[str, Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in obj["metadata"].get("managedFields", ()):
        key = "/".join(filter(None, (entry["manager"], entry["operation"], entry.get("subresource"))))
        found[key] = {fields.text_of(path) for path in fields.paths_of(entry["fieldsV1"])}
    return found


def applied(live: Any, obj: Any, manager: str = "me", **options: Any) -> Any:
    before = copy.deepcopy((live, obj))
    result = apply(
        live, obj, options.pop("schema", DEPLOYMENT), manager=manager, now=options.pop("now", NOW), **options
    )
    assert (live, obj) == before, "inputs must not be changed"
    return result


def test_first_apply_owns_what_it_sets() -> None:
    result = applied(None, deployment(labels={"a": "b"}))
    assert owners(result) == {
        "me/Apply": {
            ".metadata.labels.a",
            ".spec.replicas",
            '.spec.template.spec.containers[name="web"]',
            '.spec.template.spec.containers[name="web"].name',
            '.spec.template.spec.containers[name="web"].image',
        }
    }
    entry = result["metadata"]["managedFields"][0]
    assert entry["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"] == {
        'k:{"name":"web"}': {".": {}, "f:name": {}, "f:image": {}}
    }
    assert (entry["time"], entry["apiVersion"], entry["fieldsType"]) == (NOW, "apps/v1", "FieldsV1")


def test_the_same_apply_again_changes_nothing() -> None:
    first = applied(None, deployment())
    assert applied(first, deployment(), now=LATER) is first


def test_a_conflict_names_manager_and_field() -> None:
    live = track_update(None, deployment(), DEPLOYMENT, manager="kubectl", now=NOW)
    with pytest.raises(ApiError) as caught:
        applied(live, deployment(5))
    error = caught.value
    assert error.code == 409
    assert error.message == 'Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas'
    assert error.details["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl" using apps/v1',
            "field": ".spec.replicas",
        }
    ]


def test_several_conflicts_are_listed_by_manager() -> None:
    live = applied(None, deployment(1, labels={"x": "1"}), "first")
    with pytest.raises(ApiError) as caught:
        applied(live, deployment(2, labels={"x": "2"}), "second")
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "first":\n- .metadata.labels.x\n- .spec.replicas'
    )


def test_force_takes_the_field_over() -> None:
    live = applied(None, deployment(1), "first")
    result = applied(live, deployment(2), "second", force=True)
    assert result["spec"]["replicas"] == 2
    assert ".spec.replicas" not in owners(result)["first/Apply"]
    assert ".spec.replicas" in owners(result)["second/Apply"]


def test_equal_values_are_shared_without_conflict() -> None:
    live = applied(None, deployment(1), "first")
    both = applied(live, deployment(1), "second")
    assert ".spec.replicas" in owners(both)["first/Apply"] & owners(both)["second/Apply"]
    assert applied(both, deployment(None), "first")["spec"]["replicas"] == 1
    alone = applied(applied(both, deployment(None), "first"), deployment(None), "second")
    assert "replicas" not in alone["spec"]


def test_a_field_left_out_is_removed_but_only_if_nobody_else_owns_it() -> None:
    live = applied(None, deployment(1, labels={"mine": "1", "shared": "2"}))
    live = applied(
        live, {**deployment(None), "metadata": {"name": "web", "labels": {"shared": "2"}}, "spec": {}}, "other"
    )
    result = applied(live, deployment(1))
    assert result["metadata"]["labels"] == {"shared": "2"}
    gone = applied(applied(None, deployment(1, labels={"a": "b"})), deployment(1))
    assert "labels" not in gone["metadata"]


def test_dropping_a_container_takes_its_defaulted_fields_along() -> None:
    live = applied(None, deployment(1, {"name": "a", "image": "x"}, {"name": "b", "image": "y"}))
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always"
    result = applied(live, deployment(1, {"name": "a", "image": "x"}))
    assert [c["name"] for c in result["spec"]["template"]["spec"]["containers"]] == ["a"]


def test_a_sidecar_of_another_manager_stays_and_order_holds() -> None:
    live = applied(None, deployment(1, {"name": "a", "image": "x"}))
    live = applied(live, deployment(None, {"name": "side", "image": "s"}), "injector")
    assert [c["name"] for c in live["spec"]["template"]["spec"]["containers"]] == ["a", "side"]
    result = applied(live, deployment(1, {"name": "b", "image": "x"}))
    assert [c["name"] for c in result["spec"]["template"]["spec"]["containers"]] == ["side", "b"]


def test_an_item_goes_with_its_key_whoever_touched_it() -> None:
    live = applied(None, deployment(1, {"name": "a", "image": "x"}))
    changed = copy.deepcopy(live)
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "y"
    live = track_update(live, changed, DEPLOYMENT, manager="setter", now=LATER)
    result = applied(live, deployment(1, {"name": "b", "image": "x"}))
    assert {c["name"]: c["image"] for c in result["spec"]["template"]["spec"]["containers"]} == {"b": "x"}


def test_list_maps_with_two_keys_and_a_default() -> None:
    def service(*ports: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": list(ports)}}

    live = applied(None, service({"port": 53, "protocol": "UDP"}, {"port": 53}), schema=SERVICE)
    assert '.spec.ports[port=53,protocol="TCP"]' in owners(live)["me/Apply"]
    live["spec"]["ports"][1]["protocol"] = "TCP"  # as defaulting does
    again = applied(live, service({"port": 53, "name": "tcp"}, {"port": 53, "protocol": "UDP"}), schema=SERVICE)
    assert again["spec"]["ports"] == [
        {"port": 53, "protocol": "TCP", "name": "tcp"},
        {"port": 53, "protocol": "UDP"},
    ]
    with pytest.raises(ApiError, match="duplicate entries"):
        applied(None, service({"port": 1}, {"port": 1, "protocol": "TCP"}), schema=SERVICE)
    without = applied(None, service({"name": "x"}), schema=SERVICE)  # validation refuses it, not the merge
    assert '.spec.ports[port=0,protocol="TCP"]' in owners(without)["me/Apply"]


def test_repeated_elements_stay_until_they_are_applied() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B"}]
    live = track_update(None, deployment(1, {"name": "a", "image": "x", "env": env}), DEPLOYMENT, manager="m", now=NOW)

    def wanted(*rows: dict[str, Any]) -> Any:
        result = applied(live, deployment(1, {"name": "a", "image": "x", "env": list(rows)}), force=True)
        return result["spec"]["template"]["spec"]["containers"][0]["env"]

    assert wanted({"name": "C"}) == [*env, {"name": "C"}]
    assert wanted({"name": "A", "value": "3"}) == [{"name": "A", "value": "3"}, {"name": "B"}]


def test_sets_and_atomics() -> None:
    pod = schema.for_kind("v1", "Pod")

    def with_finalizers(*names: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": list(names)}}

    live = applied(None, with_finalizers("a/x", "a/y"), schema=pod)
    live = applied(live, with_finalizers("a/z"), "other", schema=pod)
    assert live["metadata"]["finalizers"] == ["a/x", "a/y", "a/z"]
    live = applied(live, with_finalizers("a/y"), schema=pod)
    assert live["metadata"]["finalizers"] == ["a/y", "a/z"]
    first = deployment()
    first["spec"]["selector"] = {"matchLabels": {"a": "1"}}
    assert ".spec.selector" in owners(applied(None, first))["me/Apply"]
    second = copy.deepcopy(first)
    second["spec"]["selector"] = {"matchLabels": {"b": "2"}}
    assert applied(applied(None, first), second)["spec"]["selector"] == {"matchLabels": {"b": "2"}}


def test_an_object_without_owners_belongs_to_before_first_apply() -> None:
    live = deployment(1)
    result = applied(live, deployment(None))
    assert ".spec.replicas" in owners(result)["before-first-apply/Update"]


def test_updates_move_ownership() -> None:
    live = {**track_update(None, deployment(1), DEPLOYMENT, manager="kubectl", now=NOW), "status": {}}
    status = {**live, "status": {"replicas": 1}}
    live = track_update(live, status, DEPLOYMENT, manager="ctl", subresource="status", now=LATER)
    assert owners(live)["ctl/Update/status"] == {".status.replicas"}
    scaled = copy.deepcopy(live)
    scaled["spec"]["replicas"] = 4
    result = track_update(live, scaled, DEPLOYMENT, manager="hpa", subresource="scale", now=LATER)
    assert owners(result)["hpa/Update/scale"] == {".spec.replicas"}
    assert ".spec.replicas" not in owners(result)["kubectl/Update"]
    removed = copy.deepcopy(result)
    del removed["spec"]["replicas"]
    assert "hpa/Update/scale" not in owners(track_update(result, removed, DEPLOYMENT, manager="x", now=LATER))


def test_an_update_that_changes_nothing_keeps_the_entries() -> None:
    live = track_update(None, deployment(1), DEPLOYMENT, manager="kubectl", now=NOW)
    again = track_update(live, deployment(1), DEPLOYMENT, manager="other", now=LATER)
    assert again["metadata"]["managedFields"] is live["metadata"]["managedFields"]
    assert (
        "managedFields"
        not in track_update(live, deployment(1, managedFields=[{}]), DEPLOYMENT, manager="other", now=LATER)["metadata"]
    )


def test_many_updaters_are_folded() -> None:
    live = track_update(None, deployment(1), DEPLOYMENT, manager="m", now=NOW)
    for number in range(20):
        new = copy.deepcopy(live)
        new["metadata"].setdefault("annotations", {})[f"a{number}"] = "x"
        live = track_update(live, new, DEPLOYMENT, manager=f"m{number:02}", now=f"2026-02-{number + 1:02}T00:00:00Z")
    assert len(live["metadata"]["managedFields"]) <= managed_fields.LIMIT
    assert ".spec.replicas" in owners(live)["ancient-changes/Update"]


NAMES = st.sampled_from("abcd")
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "image": st.sampled_from(["x", "y"])},
        optional={
            "args": st.lists(NAMES, max_size=2),
            "env": st.lists(
                st.fixed_dictionaries({"name": NAMES, "value": NAMES}), min_size=1, unique_by=lambda e: e["name"]
            ),
            "resources": st.fixed_dictionaries({}, optional={"limits": st.dictionaries(NAMES, st.just("1"))}),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda c: c["name"],
)
OBJECTS = st.builds(
    lambda replicas, containers, labels: deployment(replicas, *containers, labels=labels),
    st.none() | st.integers(0, 3),
    CONTAINERS,
    st.dictionaries(NAMES, NAMES, max_size=3),
)


def plain(obj: dict[str, Any]) -> dict[str, Any]:
    return managed_fields.with_entries(obj, [])


@given(OBJECTS, OBJECTS)
def test_apply_is_idempotent_and_a_sole_manager_gets_what_it_asks(first: Any, second: Any) -> None:
    one = applied(None, first)
    assert plain(one) == first
    assert applied(one, first, now=LATER) is one
    two = applied(one, second)
    assert fields.field_set(DEPLOYMENT, managed_fields.unmanaged(plain(two))) == fields.field_set(
        DEPLOYMENT, managed_fields.unmanaged(second)
    )
    again = applied(two, second)  # what became empty is null before it is stored
    assert applied(again, second, now=LATER) is again


@given(OBJECTS, OBJECTS)
def test_a_forced_apply_wins_and_two_managers_who_agree_never_conflict(first: Any, second: Any) -> None:
    live = applied(None, first, "one")
    both = applied(live, second, "two", force=True)
    wanted = managed_fields.unmanaged(second)
    assert managed_fields.unmanaged(applied(both, second, "three")) == managed_fields.unmanaged(both)
    changed, _ = fields.compare(DEPLOYMENT, both, {**both, **wanted})
    mine = fields.field_set(DEPLOYMENT, wanted)
    assert all(not fields.contains(mine, path) for path in fields.paths_of(changed) if path[0] == "f:spec")


@given(st.lists(st.lists(NAMES.map(lambda n: "f:" + n), min_size=1, max_size=3).map(tuple)), st.data())
def test_sets_of_fields_behave_as_sets(paths: list[tuple[str, ...]], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.sampled_from(paths) if paths else st.nothing()))
    left, right = fields.from_paths(paths), fields.from_paths(other)
    assert set(fields.paths_of(left)) == set(paths)
    assert set(fields.paths_of(fields.difference(left, right))) == set(paths) - set(other)
    assert set(fields.paths_of(fields.union(right, left))) == set(paths)
    assert fields.union(fields.difference(left, right), right) == left
