"""kubernetes_asyncio: typed and dynamic calls, watches, leader election, exec over its WebSocket client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from kubernetes_asyncio import config, watch
from kubernetes_asyncio.client import (
    ApiClient,
    ApiException,
    Configuration,
    CoordinationV1Api,
    CoreV1Api,
    CustomObjectsApi,
)
from kubernetes_asyncio.dynamic import DynamicClient
from kubernetes_asyncio.leaderelection.electionconfig import Config
from kubernetes_asyncio.leaderelection.leaderelection import LeaderElection
from kubernetes_asyncio.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes_asyncio.stream import WsApiClient

from tests.clients.conftest import GROUP, Harbour, eventually


@pytest.fixture
async def client(harbour: Harbour) -> AsyncIterator[ApiClient]:
    made = await config.new_client_from_config(str(harbour.kubeconfig))
    async with made:
        yield made


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"seen": "yes"}},
        "data": data,
    }


async def test_objects_patches_and_pages(client: ApiClient, ns: str) -> None:
    api = CoreV1Api(client)
    await asyncio.gather(*(api.create_namespaced_config_map(ns, config_map(f"m{n}", a="1")) for n in range(20)))
    names, token = [], ""
    while True:
        page = await api.list_namespaced_config_map(ns, limit=8, _continue=token, label_selector="seen=yes")
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert sorted(names) == sorted(f"m{n}" for n in range(20))
    patched = await api.patch_namespaced_config_map("m0", ns, [{"op": "add", "path": "/data/b", "value": "2"}])
    assert patched.data == {"a": "1", "b": "2"}
    merged = await api.patch_namespaced_config_map(
        "m0", ns, {"data": {"a": None}}, _content_type="application/merge-patch+json"
    )
    assert merged.data == {"b": "2"}
    with pytest.raises(ApiException) as caught:
        await api.read_namespaced_config_map("missing", ns)
    assert caught.value.status == 404


async def test_apply_with_conflict(client: ApiClient, ns: str) -> None:
    dynamic = await DynamicClient(client)
    maps = await dynamic.resources.get(api_version="v1", kind="ConfigMap")

    async def apply(manager: str, **options: Any) -> Any:
        body = config_map("shared", owner=manager)
        return await maps.server_side_apply(body=body, name="shared", namespace=ns, field_manager=manager, **options)

    await apply("one")
    refused = await apply("two")  # this client's dynamic half gives refusals back instead of raising them
    assert (refused.kind, refused.code, refused.reason) == ("Status", 409, "Conflict")
    assert (await apply("two", force_conflicts=True)).data.owner == "two"


@pytest.mark.timeout(240)
async def test_watch_survives_restart_and_410(harbour: Harbour, client: ApiClient, ns: str) -> None:
    """List and watch as an application writes it: resume from the last version, list again when that is too old."""
    api, seen, lists = CoreV1Api(client), dict[str, str](), 0

    async def follow() -> None:
        nonlocal lists
        version = ""
        while True:
            try:
                if not version:
                    listed = await api.list_namespaced_config_map(ns, label_selector="seen=yes")
                    lists += 1
                    seen.clear()
                    seen.update({item.metadata.name: item.data["a"] for item in listed.items})
                    version = listed.metadata.resource_version
                stream = watch.Watch().stream(
                    api.list_namespaced_config_map, ns, label_selector="seen=yes",
                    resource_version=version, timeout_seconds=30, allow_watch_bookmarks=True,
                )  # fmt: skip
                async for event in stream:
                    found = event["object"]
                    if event["type"] == "BOOKMARK":
                        version = event["raw_object"]["metadata"]["resourceVersion"]
                        continue
                    version = found.metadata.resource_version
                    if event["type"] == "DELETED":
                        seen.pop(found.metadata.name, None)
                    else:
                        seen[found.metadata.name] = found.data["a"]
            except ApiException as error:
                if error.status == 410:
                    version = ""
                await asyncio.sleep(0.05)
            except (TimeoutError, OSError, aiohttp.ClientError):
                await asyncio.sleep(0.05)

    following = asyncio.create_task(follow())
    try:
        await api.create_namespaced_config_map(ns, config_map("first", a="1"))
        await eventually(lambda: seen == {"first": "1"}, "the first is seen")
        await asyncio.to_thread(harbour.restart)
        await api.create_namespaced_config_map(ns, config_map("second", a="1"))
        await eventually(lambda: seen == {"first": "1", "second": "1"}, "the second is seen, after a restart")
        await asyncio.to_thread(lambda: harbour.restart(compact=True))
        await api.delete_namespaced_config_map("first", ns)
        await api.patch_namespaced_config_map("second", ns, [{"op": "replace", "path": "/data/a", "value": "2"}])
        await eventually(lambda: seen == {"second": "2"}, "what changed around the 410 is seen")
        assert lists > 1, "it had to list again"
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@pytest.mark.timeout(120)
async def test_leader_election(client: ApiClient, ns: str) -> None:
    leading: list[str] = []
    leases = CoordinationV1Api(client)

    async def candidate(name: str) -> None:
        async def lead() -> None:
            leading.append(name)
            await asyncio.Event().wait()

        async def stop() -> None:
            return None

        lock = LeaseLock("boats", ns, name, client)
        while True:  # a candidate that loses a race over creating the lease stands again
            with contextlib.suppress(ApiException):
                await LeaderElection(
                    Config(
                        lock,
                        lease_duration=3,
                        renew_deadline=2,
                        retry_period=1,
                        onstarted_leading=lead,
                        onstopped_leading=stop,
                    )
                ).run()
            await asyncio.sleep(0.1)

    tasks = {name: asyncio.create_task(candidate(name)) for name in ("left", "right")}
    try:
        await eventually(lambda: leading, "one leads")
        await asyncio.sleep(1.5)
        assert len(leading) == 1, "and only one"
        tasks[leading[0]].cancel()
        await eventually(lambda: len(leading) == 2, "the other leads once the first is gone")
        assert (await leases.read_namespaced_lease("boats", ns)).spec.holder_identity == leading[1] != leading[0]
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def test_exec_and_logs(harbour: Harbour, client: ApiClient, pod: str) -> None:
    configuration = Configuration()
    await config.load_kube_config(str(harbour.kubeconfig), client_configuration=configuration)
    async with WsApiClient(configuration) as sockets:
        ask = CoreV1Api(sockets).connect_get_namespaced_pod_exec
        command = ["sh", "-c", "echo out; echo err >&2; exit 5"]
        arguments: dict[str, Any] = {"container": "talker", "command": command, "stdout": True, "stderr": True}
        said = await ask(pod, "default", **arguments)
        assert sorted(said.split()) == ["err", "out"]
        session = await ask(pod, "default", _preload_content=False, **arguments)
        parts: dict[int, str] = {}
        async with session as socket:
            async for message in socket:
                parts[message.data[0]] = parts.get(message.data[0], "") + message.data[1:].decode()
        assert (parts[1], parts[2]) == ("out\n", "err\n")
        assert WsApiClient.parse_error_data(parts[3]) == 5
    api = CoreV1Api(client)
    first = await api.read_namespaced_pod_log(pod, "default", container="talker", limit_bytes=6)
    assert first in ("out-1\n", "err-1\n"), "the two streams have no order between them"
    response = await api.read_namespaced_pod_log(
        pod, "default", container="talker", follow=True, tail_lines=1, _preload_content=False
    )
    lines = [(await response.content.readline()).decode().split()[0] for _ in range(3)]
    response.close()
    assert lines == ["tick"] * 3


async def test_custom_objects_and_finalizers(client: ApiClient, boats: None, ns: str) -> None:
    custom = CustomObjectsApi(client)
    where = (GROUP, "v1", ns, "boats")
    boat = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Boat",
        "metadata": {"name": "ida", "finalizers": [f"{GROUP}/x"]},
        "spec": {},
    }
    made = await custom.create_namespaced_custom_object(*where, boat)
    assert made["spec"]["size"] == 1
    await custom.patch_namespaced_custom_object_status(
        *where, "ida", {"status": {"ready": 3}}, _content_type="application/merge-patch+json"
    )
    await custom.delete_namespaced_custom_object(*where, "ida")
    found = await custom.get_namespaced_custom_object(*where, "ida")
    assert found["status"] == {"ready": 3} and found["metadata"]["deletionTimestamp"]
    await custom.patch_namespaced_custom_object(
        *where, "ida", {"metadata": {"finalizers": None}}, _content_type="application/merge-patch+json"
    )
    with pytest.raises(ApiException) as caught:
        await custom.get_namespaced_custom_object(*where, "ida")
    assert caught.value.status == 404
