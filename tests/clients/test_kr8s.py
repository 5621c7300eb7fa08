"""kr8s: objects that fetch and change themselves, its waits, exec and port-forward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import kr8s
import pytest
from kr8s.asyncio.objects import ConfigMap, Deployment, Pod, new_class

from tests.clients.conftest import GROUP, Harbour, eventually, talker

Boat = new_class(kind="Boat", version=f"{GROUP}/v1", namespaced=True, plural="boats")


@pytest.fixture
async def api(harbour: Harbour, ns: str) -> AsyncIterator[Any]:
    kr8s.Api._instances.clear()  # kr8s keeps one for ever, with the event loop of its first use
    yield await kr8s.asyncio.api(kubeconfig=str(harbour.kubeconfig), namespace=ns)
    kr8s.Api._instances.clear()


def config_map(ns: str, name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": ns, "labels": {"seen": "yes"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_objects_patches_and_pages(api: Any, ns: str) -> None:
    for number in range(5):
        await (await ConfigMap(config_map(ns, f"m{number}", a="1"), api=api)).create()
    found = [item.name async for item in api.get("configmaps", namespace=ns, label_selector="seen=yes")]
    assert found == [f"m{number}" for number in range(5)]
    one = await ConfigMap.get("m0", namespace=ns, api=api)
    await one.patch({"data": {"b": "2"}})
    await one.patch([{"op": "remove", "path": "/data/a"}], type="json")
    assert dict(one.data) == {"b": "2"}
    await one.label(sort="x")
    await one.annotate({"note": "y"})
    await one.refresh()
    assert one.labels.sort == "x" and one.annotations.note == "y"
    await one.delete()
    with pytest.raises(kr8s.NotFoundError):
        await ConfigMap.get("m0", namespace=ns, api=api)


async def test_adopted_children_and_waits(api: Any, ns: str) -> None:
    parent = await ConfigMap(config_map(ns, "parent"), api=api)
    await parent.create()
    child = await ConfigMap(config_map(ns, "child"), api=api)
    await child.create()
    await parent.adopt(child)
    await parent.delete()
    await child.wait("delete", timeout=30)
    body = {**talker("x"), "kind": "Deployment", "apiVersion": "apps/v1"}
    container = {"name": "c", "image": "busybox", "command": ["sleep", "1000"]}
    body["metadata"] = {"name": "x", "namespace": ns}
    body["spec"] = {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {
            "metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        },
    }
    deployment = await Deployment(body, api=api)
    await deployment.create()
    await deployment.wait("condition=Available", timeout=40)
    await deployment.scale(2)
    await eventually(lambda: _ready(deployment), "two replicas are ready")
    assert len(await deployment.pods()) == 2
    await deployment.delete()


async def _ready(deployment: Any) -> bool:
    await deployment.refresh()
    return bool(deployment.raw["status"].get("readyReplicas") == 2)


@pytest.mark.timeout(240)
async def test_watch_survives_restart_and_410(harbour: Harbour, api: Any, ns: str) -> None:
    seen: list[tuple[str, str]] = []

    async def follow() -> None:
        while True:
            try:
                async for kind, item in api.watch("configmaps", namespace=ns, label_selector="seen=yes"):
                    seen.append((kind, item.name))
            except (kr8s.ServerError, kr8s.APITimeoutError, kr8s.ConnectionClosedError, httpx.HTTPError, OSError):
                await asyncio.sleep(0.05)

    following = asyncio.create_task(follow())
    try:
        await (await ConfigMap(config_map(ns, "first"), api=api)).create()
        await eventually(lambda: ("ADDED", "first") in seen, "the first is seen")
        await asyncio.to_thread(lambda: harbour.restart(compact=True))
        second = await ConfigMap(config_map(ns, "second"), api=api)
        await second.create()
        await eventually(lambda: ("ADDED", "second") in seen, "the second is seen, after a restart")
        await second.delete()
        await eventually(lambda: ("DELETED", "second") in seen, "and its end")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_exec_and_logs(api: Any, pod: str) -> None:
    found = await Pod.get(pod, namespace="default", api=api)
    done = await found.exec(["sh", "-c", "echo out; echo err >&2; exit 4"], container="talker", check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 4)
    lines: list[str] = []
    async for line in found.logs(container="talker", follow=True, tail_lines=1):
        lines.append(line)
        if len(lines) == 3:
            break
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its pumps end in another task
async def test_port_forward(api: Any, pod: str) -> None:
    found = await Pod.get(pod, namespace="default", api=api)
    async with found.portforward(8080, local_port="auto") as port, httpx.AsyncClient() as client:
        for _ in range(3):
            answer = await client.get(f"http://127.0.0.1:{port}/boat", timeout=20)
            assert answer.text == "hello " + "/boat" * 2000


async def test_custom_objects_and_finalizers(api: Any, boats: None, ns: str) -> None:
    metadata = {"name": "ida", "namespace": ns, "finalizers": [f"{GROUP}/x"]}
    boat = await Boat({"metadata": metadata, "spec": {"size": 3}}, api=api)
    await boat.create()
    await boat.patch({"status": {"ready": 3}}, subresource="status")
    assert boat.status.ready == 3 and boat.spec.image == "busybox"
    await boat.delete()
    await boat.refresh()
    assert boat.metadata.deletionTimestamp
    await boat.patch({"metadata": {"finalizers": []}})
    assert not await boat.exists()
