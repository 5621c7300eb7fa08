"""A whole control plane in this process, with a node played by hand: pods run and end as the test says."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster import controllers
from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.runtime import Usage
from sampan.cluster.store import Store
from sampan.kube import kinds
from sampan.kube.client import Client, ObjectList
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, is_deleting, name_of, namespace_of, now
from sampan.operator import Manager
from sampan.operator.conditions import put


class Node:
    """Plays the kubelet. `ready(pod)` says whether a running pod is ready; `linger` holds deleted pods back."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ready: Callable[[Object], bool] = lambda pod: True
        self.linger = False
        self.auto = True
        self.most_at_once = 0
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, old: Object | None, new: Object | None) -> None:
        if new is not None and self.auto:
            task = asyncio.create_task(self.handle(new))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def handle(self, pod: Object) -> None:
        phase = (pod.get("status") or {}).get("phase", "Pending")
        try:
            if is_deleting(pod):
                if not self.linger:
                    await self.client.delete(kinds.POD, name_of(pod), namespace_of(pod), grace_seconds=0)
            elif pod["spec"].get("nodeName") and phase == "Pending":
                await self.set(pod, phase="Running", ready=self.ready(pod))
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def set(self, pod: Object, *, phase: str = "Running", ready: bool = True, **status: Any) -> None:
        present = (await self.client.get(kinds.POD, name_of(pod), namespace_of(pod))).get("status") or {}
        address = present.get("podIP") or f"127.64.1.{next(self._numbers)}"
        conditions = put(present.get("conditions"), "Ready", ready, "Played")
        body = {
            "phase": phase, "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions,
            "startTime": present.get("startTime") or now(), **status,
        }  # fmt: skip
        await self.client.patch(kinds.POD, name_of(pod), namespace_of(pod), {"status": body}, subresource="status")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


Objects = list[Object]


class Cluster:
    """Shorthands over the client; everything happens in namespace `shop` unless said otherwise."""

    def __init__(self, client: Client, manager: Manager, node: Node) -> None:
        self.client, self.manager, self.node = client, manager, node
        self.used: dict[tuple[str, str], dict[str, Usage]] = {}

    def use(self, pod: str, cpu: float) -> None:
        self.used["shop", pod] = {"main": Usage(cpu, 1 << 20, datetime.now(UTC), 0.0)}

    async def create(self, resource: Resource, name: str, spec: Any = None, **fields: Any) -> Object:
        metadata = {
            "name": name,
            **({"namespace": "shop"} if resource.namespaced else {}),
            **fields.pop("metadata", {}),
        }
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **fields}
        return await self.client.create(resource, body if spec is None else {**body, "spec": spec})

    async def get(self, resource: Resource, name: str) -> Object:
        return await self.client.get(resource, name, "shop" if resource.namespaced else None)

    async def exists(self, resource: Resource, name: str) -> bool:
        try:
            await self.get(resource, name)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    async def patch(self, resource: Resource, name: str, patch: Any, subresource: str | None = None) -> Object:
        return await self.client.patch(resource, name, "shop", patch, subresource=subresource)

    async def delete(self, resource: Resource, name: str, propagation: str = "Background") -> None:
        await self.client.delete(resource, name, "shop" if resource.namespaced else None, propagation=propagation)

    async def list(self, resource: Resource, labels: str = "") -> Objects:
        answer: ObjectList = await self.client.list(resource, "shop", labels=labels)
        return answer.items

    async def pods(self) -> Objects:
        return sorted(await self.list(kinds.POD), key=name_of)

    async def until(self, condition: Callable[[], Any], timeout: float = 8.0) -> Any:
        """Wait until an awaitable condition is true; its value."""
        end = time.monotonic() + timeout
        while True:
            if value := await condition():
                return value
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout} s; pods: {[_brief(p) for p in await self.pods()]}")
            await asyncio.sleep(0.005)

    async def settle(self) -> None:
        await self.manager.settle(quiet=0.03)


def _brief(pod: Object) -> tuple[Any, ...]:
    return name_of(pod), (pod.get("status") or {}).get("phase"), is_deleting(pod)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    store = Store.open(tmp_path / "cluster.db")
    pki = Pki(tmp_path / "pki")  # never used: nothing listens
    server = ApiServer(store, pki, {"service_cidr": "127.64.128.0/17", "node_name": "node", "node_ip": "127.64.0.1"})
    await server.start()
    client = Client(server.transport())
    manager = controllers.manager(
        client,
        usage=lambda: made.used,
        volumes=tmp_path / "volumes",
        ca="CA",
        autoscaler_seconds=0.05,
        job_backoff_seconds=0.05,
    )
    node = Node(client)
    made = Cluster(client, manager, node)
    manager.cache.informer(kinds.POD).add_handler(node.heard)
    await manager.start()
    await made.create(kinds.NODE, "node", {}, metadata={"labels": {"kubernetes.io/os": "linux"}})
    await made.create(kinds.NAMESPACE, "shop")
    yield made
    await node.stop()
    await manager.stop()
    await server.stop()
    await store.close()


@pytest.fixture
def template() -> Callable[..., Object]:
    def make(image: str = "web:1", **spec: Any) -> Object:
        container = {"name": "main", "image": image, "resources": {"requests": {"cpu": "100m"}}}
        return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container], **spec}}

    return make
