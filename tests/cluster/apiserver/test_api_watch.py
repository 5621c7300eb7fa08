"""Watches: selector transitions, bookmarks, initial events, versions too old and too new."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from sampan.cluster.apiserver.server import ApiServer
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.transport import MERGE_PATCH, Request


def config_map(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


async def frames(client: Client, count: int, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    request = Request("GET", kinds.CONFIG_MAP.path("default"), query)
    async with asyncio.timeout(5), aclosing(client.transport.watch(request)) as events:  # type: ignore[type-var]
        async for event in events:
            found.append(dict(event))
            if len(found) == count:
                break
    return found


async def test_object_that_stops_matching_is_deleted_for_the_watcher(client: Client, api: ApiServer) -> None:
    since = str(api.store.revision)
    await client.create(kinds.CONFIG_MAP, config_map("a", app="x"))
    await client.patch(
        kinds.CONFIG_MAP, "a", "default", {"metadata": {"labels": {"app": "y"}}}, content_type=MERGE_PATCH
    )
    await client.patch(
        kinds.CONFIG_MAP, "a", "default", {"metadata": {"labels": {"app": "x"}}}, content_type=MERGE_PATCH
    )
    await client.patch(kinds.CONFIG_MAP, "a", "default", {"data": {"k": "v"}}, content_type=MERGE_PATCH)
    await client.delete(kinds.CONFIG_MAP, "a", "default")
    seen = await frames(client, 5, labelSelector="app=x", resourceVersion=since)
    assert [frame["type"] for frame in seen] == ["ADDED", "DELETED", "ADDED", "MODIFIED", "DELETED"]
    versions = [int(frame["object"]["metadata"]["resourceVersion"]) for frame in seen]
    assert versions == sorted(set(versions))


async def test_initial_events_end_with_a_bookmark(client: Client) -> None:
    await client.create(kinds.CONFIG_MAP, config_map("a"))
    seen = await frames(
        client, 2, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true"
    )
    assert [frame["type"] for frame in seen] == ["ADDED", "BOOKMARK"]
    assert seen[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_initial_events_need_not_older_than(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        await frames(client, 1, sendInitialEvents="true")
    assert refused.value.code == 422


async def test_version_zero_and_none_begin_with_the_state(client: Client) -> None:
    await client.create(kinds.CONFIG_MAP, config_map("a"))
    for query in ({}, {"resourceVersion": "0"}):
        assert [frame["type"] for frame in await frames(client, 1, **query)] == ["ADDED"]


async def test_compacted_version_is_gone_and_future_one_too_large(client: Client, api: ApiServer) -> None:
    await client.create(kinds.CONFIG_MAP, config_map("a"))
    old = api.store.revision - 1
    api.store.compact(api.store.revision)
    (gone,) = await frames(client, 1, resourceVersion=str(old))
    assert (gone["type"], gone["object"]["code"]) == ("ERROR", 410), "a watch is told so within its stream"
    with pytest.raises(ApiError) as future:
        await frames(client, 1, resourceVersion=str(api.store.revision + 100))
    assert future.value.code == 504
    assert "Too large resource version" in future.value.message


async def test_a_bookmark_comes_before_the_end_of_a_watch(client: Client, api: ApiServer) -> None:
    seen = await frames(
        client, 5, timeoutSeconds="3", allowWatchBookmarks="true", resourceVersion=str(api.store.revision)
    )
    assert [frame["type"] for frame in seen] == ["BOOKMARK"]


async def test_watcher_sees_every_change_in_order_under_load(client: Client, api: ApiServer) -> None:
    since = str(api.store.revision)
    watching = asyncio.ensure_future(frames(client, 300, resourceVersion=since))
    await asyncio.gather(*(client.create(kinds.CONFIG_MAP, config_map(f"m{index}")) for index in range(300)))
    versions = [int(frame["object"]["metadata"]["resourceVersion"]) for frame in await watching]
    assert versions == sorted(set(versions))


async def test_unknown_field_selector_is_refused(client: Client) -> None:
    with pytest.raises(ApiError, match="is not a known field selector"):
        await frames(client, 1, fieldSelector="spec.nope=1")
