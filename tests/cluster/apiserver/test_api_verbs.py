"""The verbs in-process: versions, preconditions, generation, status, two-phase deletion, custom kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sampan.cluster.apiserver.server import ApiServer
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.transport import JSON_PATCH, MERGE_PATCH, Request

Make = Callable[..., dict[str, Any]]


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


async def test_one_sequence_of_versions(client: Client) -> None:
    first = await client.create(kinds.CONFIG_MAP, config_map("a"))
    second = await client.create(kinds.SECRET, {**config_map("b"), "kind": "Secret"})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    listed = await client.list(kinds.CONFIG_MAP)
    assert int(listed.resource_version) >= int(second["metadata"]["resourceVersion"])


async def test_write_that_changes_nothing_keeps_the_version(client: Client) -> None:
    made = await client.create(kinds.CONFIG_MAP, config_map("a", k="v"))
    again = await client.update(kinds.CONFIG_MAP, config_map("a", k="v"))
    patched = await client.patch(kinds.CONFIG_MAP, "a", "default", {"data": {"k": "v"}}, content_type=MERGE_PATCH)
    versions = {one["metadata"]["resourceVersion"] for one in (made, again, patched)}
    assert len(versions) == 1


async def test_stale_version_conflicts_on_put_and_patch(client: Client) -> None:
    made = await client.create(kinds.CONFIG_MAP, config_map("a"))
    await client.update(kinds.CONFIG_MAP, config_map("a", k="v"))
    with pytest.raises(ApiError) as put:
        await client.update(kinds.CONFIG_MAP, {**made, "data": {"k": "w"}})
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"k": "w"}}
    with pytest.raises(ApiError) as patch:
        await client.patch(kinds.CONFIG_MAP, "a", "default", stale, content_type=MERGE_PATCH)
    assert [e.value.code for e in (put, patch)] == [409, 409]
    assert put.value.reason == "Conflict"


async def test_generation_counts_spec_only_and_status_is_apart(client: Client, a_deployment: Make) -> None:
    made = await client.create(kinds.DEPLOYMENT, a_deployment())
    assert made["metadata"]["generation"] == 1
    labelled = {**made, "metadata": {**made["metadata"], "labels": {"x": "y"}}, "status": {"replicas": 9}}
    labelled = await client.update(kinds.DEPLOYMENT, labelled)
    assert labelled["metadata"]["generation"] == 1
    assert "replicas" not in labelled.get("status", {})
    with_status = {**labelled, "spec": {**labelled["spec"], "replicas": 7}, "status": {"replicas": 3}}
    with_status = await client.update(kinds.DEPLOYMENT, with_status, subresource="status")
    assert with_status["spec"]["replicas"] == 1
    assert with_status["status"]["replicas"] == 3
    scaled = {**with_status, "spec": {**with_status["spec"], "replicas": 2}}
    assert (await client.update(kinds.DEPLOYMENT, scaled))["metadata"]["generation"] == 2


async def test_dry_run_stores_nothing(client: Client, api: ApiServer) -> None:
    before = api.store.revision
    made = await client.create(kinds.CONFIG_MAP, config_map("a"), dry_run=True)
    assert made["metadata"]["uid"]
    assert api.store.revision == before
    with pytest.raises(ApiError, match="not found"):
        await client.get(kinds.CONFIG_MAP, "a", "default")


async def test_finalizers_hold_and_no_new_ones_come(client: Client) -> None:
    held = config_map("a")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    made = await client.create(kinds.CONFIG_MAP, held)
    await client.delete(kinds.CONFIG_MAP, "a", "default")
    await client.delete(kinds.CONFIG_MAP, "a", "default")
    marked = await client.get(kinds.CONFIG_MAP, "a", "default")
    assert marked["metadata"]["deletionTimestamp"]
    more = {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}
    with pytest.raises(ApiError, match="no new finalizers"):
        await client.patch(kinds.CONFIG_MAP, "a", "default", more, content_type=MERGE_PATCH)
    await client.patch(
        kinds.CONFIG_MAP, "a", "default", [{"op": "remove", "path": "/metadata/finalizers"}], content_type=JSON_PATCH
    )
    with pytest.raises(ApiError, match="not found"):
        await client.get(kinds.CONFIG_MAP, "a", "default")
    again = await client.create(kinds.CONFIG_MAP, config_map("a"))
    assert again["metadata"]["uid"] != made["metadata"]["uid"]


async def test_delete_preconditions_and_policies(client: Client) -> None:
    await client.create(kinds.CONFIG_MAP, config_map("a"))
    with pytest.raises(ApiError) as refused:
        await client.delete(kinds.CONFIG_MAP, "a", "default", uid="another")
    assert refused.value.code == 409
    await client.delete(kinds.CONFIG_MAP, "a", "default", propagation="Foreground")
    marked = await client.get(kinds.CONFIG_MAP, "a", "default")
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]


async def test_grace_only_shortens(client: Client) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
    }
    await client.create(kinds.POD, pod)
    for asked, held in ((30, 30), (60, 30), (5, 5)):
        await client.delete(kinds.POD, "p", "default", grace_seconds=asked)
        assert (await client.get(kinds.POD, "p", "default"))["metadata"]["deletionGracePeriodSeconds"] == held
    await client.delete(kinds.POD, "p", "default", grace_seconds=0)
    with pytest.raises(ApiError, match="not found"):
        await client.get(kinds.POD, "p", "default")


async def test_pages_keep_their_snapshot(client: Client, api: ApiServer) -> None:
    for index in range(10):
        await client.create(kinds.SECRET, {**config_map(f"s{index}"), "kind": "Secret"})
    path = kinds.SECRET.path("default")
    first = await client.transport.send(Request("GET", path, {"limit": "4"}))
    assert first["metadata"]["remainingItemCount"] == 6
    await client.delete(kinds.SECRET, "s7", "default")
    await client.create(kinds.SECRET, {**config_map("s55"), "kind": "Secret"})
    names = [item["metadata"]["name"] for item in first["items"]]
    token = first["metadata"]["continue"]
    while token:
        page = await client.transport.send(Request("GET", path, {"limit": "4", "continue": token}))
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
    assert names == [f"s{index}" for index in range(10)]
    api.store.compact(api.store.revision)
    with pytest.raises(ApiError) as gone:
        await client.transport.send(Request("GET", path, {"continue": first["metadata"]["continue"]}))
    assert gone.value.code == 410


async def test_generate_name_and_names_are_checked(client: Client) -> None:
    obj = config_map("x")
    obj["metadata"] = {"namespace": "default", "generateName": "job-"}
    names = {(await client.create(kinds.CONFIG_MAP, obj))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) == 9 and name.startswith("job-") for name in names)
    with pytest.raises(ApiError) as bad:
        await client.create(kinds.CONFIG_MAP, config_map("Bad_Name"))
    assert bad.value.code == 422


async def test_namespace_must_be_there(client: Client) -> None:
    lost = config_map("a")
    lost["metadata"]["namespace"] = "nowhere"
    with pytest.raises(ApiError) as missing:
        await client.create(kinds.CONFIG_MAP, lost)
    assert missing.value.code == 404
    await client.create(kinds.NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nowhere"}})
    await client.delete(kinds.NAMESPACE, "nowhere")
    with pytest.raises(ApiError, match="being terminated"):
        await client.create(kinds.CONFIG_MAP, lost)


async def test_server_side_apply_conflicts_and_force(client: Client) -> None:
    await client.apply(kinds.CONFIG_MAP, config_map("a", k="1"), field_manager="ann")
    with pytest.raises(ApiError) as conflict:
        await client.apply(kinds.CONFIG_MAP, config_map("a", k="2"), field_manager="bob", force=False)
    assert conflict.value.code == 409
    forced = await client.apply(kinds.CONFIG_MAP, config_map("a", k="2"), field_manager="bob", force=True)
    assert forced["data"] == {"k": "2"}
    same = await client.apply(kinds.CONFIG_MAP, config_map("a", k="2"), field_manager="bob", force=True)
    assert same["metadata"]["resourceVersion"] == forced["metadata"]["resourceVersion"]


async def test_autoscaler_in_both_versions(client: Client) -> None:
    v1 = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50,
        },
    }
    made = await client.create(kinds.HORIZONTAL_POD_AUTOSCALER_V1, v1)
    assert made["apiVersion"] == "autoscaling/v1"
    v2 = await client.get(kinds.HORIZONTAL_POD_AUTOSCALER, "web", "default")
    assert v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 50
    back = await client.get(kinds.HORIZONTAL_POD_AUTOSCALER_V1, "web", "default")
    assert back["spec"]["targetCPUUtilizationPercentage"] == 50
    assert "metrics" not in back["spec"]


async def test_an_object_that_names_an_owner_twice_is_applied_in_its_own_version_only(client: Client) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u1"}
    metadata = {"name": "web", "namespace": "default"}
    v1 = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {**metadata, "ownerReferences": [owner, {**owner, "controller": True}]},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 3,
        },
    }
    await client.create(kinds.HORIZONTAL_POD_AUTOSCALER_V1, v1)
    labelled = {"kind": v1["kind"], "metadata": {**metadata, "labels": {"a": "x"}}}
    with pytest.raises(ApiError, match="duplicate entries for key") as refused:
        await client.apply(
            kinds.HORIZONTAL_POD_AUTOSCALER, {**labelled, "apiVersion": "autoscaling/v2"}, field_manager="m"
        )
    assert refused.value.code == 400
    same = {**labelled, "apiVersion": "autoscaling/v1"}
    made = await client.apply(kinds.HORIZONTAL_POD_AUTOSCALER_V1, same, field_manager="m")
    assert made["metadata"]["labels"] == {"a": "x"}


def cron_tab_definition() -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["cron"],
                "properties": {"cron": {"type": "string"}, "image": {"type": "string", "default": "img"}},
            },
            "status": {"type": "object", "properties": {"runs": {"type": "integer"}}},
        },
    }
    versions: list[dict[str, Any]] = [
        {"name": name, "served": True, "storage": name == "v1", "subresources": {"status": {}},
         "schema": {"openAPIV3Schema": schema}}
        for name in ("v1", "v1beta1")
    ]  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab"},
            "versions": versions,
        },
    }


async def test_custom_kind_lives_and_dies_with_its_definition(client: Client, api: ApiServer) -> None:
    made = await client.create(kinds.CUSTOM_RESOURCE_DEFINITION, cron_tab_definition())
    conditions = {c["type"]: c["status"] for c in made["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    v1, beta = (api.catalog.by_kind(f"example.com/{v}", "CronTab") for v in ("v1", "v1beta1"))
    assert v1 is not None
    assert beta is not None
    one = {
        "apiVersion": "example.com/v1",
        "kind": "CronTab",
        "metadata": {"name": "one", "namespace": "default"},
        "spec": {"cron": "* *", "unknown": 1},
        "status": {"runs": 1},
    }
    stored = await client.create(v1.resource, one)
    assert stored["spec"] == {"cron": "* *", "image": "img"}
    assert "status" not in stored
    assert (await client.get(beta.resource, "one", "default"))["apiVersion"] == "example.com/v1beta1"
    with pytest.raises(ApiError) as invalid:
        await client.create(v1.resource, {**one, "metadata": {"name": "two", "namespace": "default"}, "spec": {}})
    assert invalid.value.code == 422
    await client.delete(kinds.CUSTOM_RESOURCE_DEFINITION, "crontabs.example.com")
    table = api.store.table("apiextensions.k8s.io/customresourcedefinitions")
    while table.entries:
        assert await table.wait(5)
    assert not api.store.table("example.com/crontabs").entries
    for _ in range(10):  # those who wait for changes are told before the one who made this one
        await asyncio.sleep(0)
    with pytest.raises(ApiError) as gone:
        await client.list(v1.resource)
    assert gone.value.code == 404


async def test_removed_version_says_what_replaces_it(client: Client) -> None:
    path = "/apis/autoscaling/v2beta2/namespaces/default/horizontalpodautoscalers"
    with pytest.raises(ApiError, match="autoscaling/v2"):
        await client.transport.send(Request("POST", path, {}, {}))
