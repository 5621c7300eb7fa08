"""What reaches into running pods, over a runtime that answers from memory: logs, metrics, eviction, binding."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.runtime import LogOptions, Usage
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.transport import MERGE_PATCH, Request


class Runtime:
    """Two lines of log, then, followed, one more when told; one container measured."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self.closed = asyncio.Event()

    async def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        if options.previous:
            raise ApiError(400, "BadRequest", "previous terminated container not found")
        try:
            yield b"one\ntwo\n"
            if options.follow:
                await self.more.wait()
                yield b"three\n"
        finally:
            self.closed.set()

    def usage(self) -> dict[tuple[str, str], dict[str, Usage]]:
        return {("default", "p"): {"c": Usage(0.25, 64 * 1024 * 1024, datetime.now(UTC), 15.0)}}


@pytest.fixture
async def runtime(api: ApiServer, client: Client) -> Runtime:
    made = Runtime()
    api.runtime = made  # type: ignore[assignment]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await client.create(kinds.POD, pod)
    return made


async def test_logs_are_plain_text_and_follow(runtime: Runtime, raw: Any) -> None:
    reader, writer = await raw.open()
    writer.write(b"GET /api/v1/namespaces/default/pods/p/log?follow=true HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"Content-Type: text/plain" in head
    await asyncio.wait_for(reader.readuntil(b"two\n"), 5)
    runtime.more.set()
    await asyncio.wait_for(reader.readuntil(b"three\n"), 5)
    await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
    writer.close()
    code, _, answer = await raw.call("GET", "/api/v1/namespaces/default/pods/p/log?previous=true")
    assert code == 400
    assert json.loads(answer)["message"] == "previous terminated container not found"


async def test_follower_that_leaves_ends_the_stream(runtime: Runtime, raw: Any) -> None:
    reader, writer = await raw.open()
    writer.write(b"GET /api/v1/namespaces/default/pods/p/log?follow=true HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"two\n"), 5)
    writer.close()
    await asyncio.wait_for(runtime.closed.wait(), 5)


async def test_metrics_of_pods(runtime: Runtime, client: Client) -> None:
    found = await client.transport.send(Request("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"))
    assert found["items"][0]["containers"] == [{"name": "c", "usage": {"cpu": "250000000n", "memory": "65536Ki"}}]


async def test_binding_sets_the_node_once(runtime: Runtime, client: Client) -> None:
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "namespace": "default"},
               "target": {"kind": "Node", "name": "n"}}  # fmt: skip
    await client.create(kinds.POD, binding, subresource="binding")
    bound = await client.get(kinds.POD, "p", "default")
    assert bound["spec"]["nodeName"] == "n"
    assert {"PodScheduled": "True"}.items() <= {c["type"]: c["status"] for c in bound["status"]["conditions"]}.items()
    with pytest.raises(ApiError) as again:
        await client.create(kinds.POD, binding, subresource="binding")
    assert again.value.code == 409


async def test_eviction_honours_the_budget(runtime: Runtime, client: Client) -> None:
    status = {"status": {"phase": "Running"}}
    await client.patch(kinds.POD, "p", "default", status, content_type=MERGE_PATCH, subresource="status")
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    }
    await client.create(kinds.POD_DISRUPTION_BUDGET, budget)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "default"}}
    with pytest.raises(ApiError) as refused:
        await client.create(kinds.POD, eviction, subresource="eviction")
    assert refused.value.code == 429
    await client.patch(
        kinds.POD_DISRUPTION_BUDGET, "b", "default", {"status": {"disruptionsAllowed": 1, "observedGeneration": 1}},
        content_type=MERGE_PATCH, subresource="status",
    )  # fmt: skip
    await client.create(kinds.POD, eviction, subresource="eviction")
    with pytest.raises(ApiError, match="not found"):
        await client.get(kinds.POD, "p", "default")
    left = await client.get(kinds.POD_DISRUPTION_BUDGET, "b", "default")
    assert left["status"]["disruptionsAllowed"] == 0


async def test_ephemeral_containers_change_nothing_else(runtime: Runtime, client: Client) -> None:
    patch = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "i"}], "nodeName": "x"}}
    changed = await client.patch(
        kinds.POD, "p", "default", patch, content_type="application/strategic-merge-patch+json",
        subresource="ephemeralcontainers",
    )  # fmt: skip
    assert changed["spec"]["ephemeralContainers"][0]["name"] == "debug"
    assert "nodeName" not in changed["spec"]
