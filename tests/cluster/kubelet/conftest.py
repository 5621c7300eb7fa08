"""A kubelet over a small API in memory: enough of one for a kubelet, so that these tests need no server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.kubelet.kubelet import Kubelet
from sampan.cluster.kubelet.zygote import Zygote
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, WatchEvent, now
from sampan.kube.transport import Request


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = _merge(out.get(key), value)
    return out


class MemoryApi:
    """A `Transport` over a dictionary of paths: create, get, list, merge patch, delete with grace for pods, watch."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.version = 0
        self.log: list[tuple[int, str, WatchEvent]] = []
        self.news = asyncio.Condition()

    async def _commit(self, kind: Any, path: str, obj: Object) -> Object:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            self.objects.pop(path, None)
        else:
            self.objects[path] = obj
        self.log.append((self.version, path, {"type": kind, "object": obj}))
        async with self.news:
            self.news.notify_all()
        return obj

    async def send(self, request: Request) -> Object:
        path = request.path.removesuffix("/status")
        if request.method == "POST":
            obj = deepcopy(request.body)
            name = obj["metadata"].setdefault("name", obj["metadata"].get("generateName", "") + uuid.uuid4().hex[:5])
            if f"{path}/{name}" in self.objects:
                raise ApiError(409, "AlreadyExists", name)
            obj["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            return await self._commit("ADDED", f"{path}/{name}", obj)
        if path not in self.objects and request.method == "GET" and not path.rpartition("/")[2].islower():
            raise ApiError(404, "NotFound", path)
        if request.method == "GET" and path not in self.objects and path.rpartition("/")[2] in PLURALS:
            tail = path.removeprefix("/api/v1")
            items = [o for p, o in self.objects.items() if p.rpartition("/")[0].endswith(tail)]
            return {"items": items, "metadata": {"resourceVersion": str(self.version)}}
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        obj = self.objects[path]
        if request.method == "GET":
            return obj
        if request.method == "PATCH":
            return await self._commit("MODIFIED", path, deepcopy(_merge(obj, request.body)))
        assert request.method == "DELETE"
        grace = request.body.get("gracePeriodSeconds")
        if "/pods/" in path and grace != 0:
            obj = deepcopy(obj)
            obj["metadata"]["deletionTimestamp"] = now()
            obj["metadata"]["deletionGracePeriodSeconds"] = (
                grace if grace is not None else obj["spec"].get("terminationGracePeriodSeconds", 30)
            )
            return await self._commit("MODIFIED", path, obj)
        return await self._commit("DELETED", path, deepcopy(obj))

    async def watch(self, request: Request) -> AsyncIterator[WatchEvent]:
        seen = int(request.query.get("resourceVersion") or 0)
        plural = request.path.rpartition("/")[2]
        while True:
            for version, path, event in list(self.log):
                if version > seen and path.rpartition("/")[0].endswith(f"/{plural}"):
                    seen = version
                    yield event
            async with self.news:
                if not any(v > seen and p.rpartition("/")[0].endswith(f"/{plural}") for v, p, _ in self.log):
                    await self.news.wait()

    async def close(self) -> None: ...


PLURALS = {"pods", "services", "configmaps", "secrets", "nodes", "events"}
_slices = itertools.count(20)


class Node:
    """A kubelet, its API and shorthands for tests."""

    def __init__(self, api: MemoryApi, kubelet: Kubelet, directory: Path, prefix: str) -> None:
        self.api = api
        self.client = Client(api)
        self.kubelet = kubelet
        self.directory = directory
        self.prefix = prefix

    async def add(self, resource: Any, obj: Object) -> Object:
        return await self.client.create(resource, obj)

    async def pod(self, name: str, container: Object | list[Object], **spec: Any) -> Object:
        from sampan.kube import kinds

        containers = container if isinstance(container, list) else [container]
        containers = [{"name": "main", "image": "busybox", **c} for c in containers]
        return await self.client.create(
            kinds.POD,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
                "spec": {"nodeName": "sampan", "restartPolicy": "Always", "containers": containers, **spec},
            },
        )

    def get(self, name: str) -> Object:
        found = self.api.objects.get(f"/api/v1/namespaces/default/pods/{name}")
        return dict(found) if found else {}

    def state(self, name: str, index: int = 0) -> Object:
        statuses: list[Object] = (self.get(name).get("status") or {}).get("containerStatuses") or [{}]
        return statuses[index]

    def ready(self, name: str) -> bool:
        conditions = (self.get(name).get("status") or {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    async def until(self, check: Callable[[], Any], timeout: float = 10) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not check():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pods = {p: o.get("status") for p, o in self.api.objects.items() if "/pods/" in p}
            logs = [f.read_text() for f in self.directory.rglob("*.log")]
            raise AssertionError(f"not reached; pods: {pods}\nlogs: {logs}") from None

    async def text(self, name: str, **options: Any) -> str:
        from sampan.cluster.runtime import LogOptions

        chunks = [chunk async for chunk in self.kubelet.logs("default", name, LogOptions(**options))]
        return b"".join(chunks).decode()

    async def says(self, name: str, words: str, **options: Any) -> None:
        text = ""
        for _ in range(500):
            with contextlib.suppress(ApiError):
                text = await self.text(name, **options)
            if words in text:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{words!r} not in {text!r}")

    def events(self) -> list[str]:
        return [o["reason"] for p, o in self.api.objects.items() if "/events/" in p]


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    warm = Zygote.start(("asyncio", "msgspec"))
    yield warm
    warm.stop()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sampan-kubelet-") as path:
        yield Path(path)


@pytest.fixture
def prefix() -> str:
    """A loopback slice nobody else uses: below those real clusters choose from."""
    while True:
        number = next(_slices)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((f"127.{number}.0.1", 47399))
            return f"127.{number}"


@pytest.fixture
async def node(zygote: Zygote, directory: Path, prefix: str) -> AsyncIterator[Node]:
    api = MemoryApi()
    kubelet = Kubelet(Client(api), directory, prefix, zygote, api_address="127.0.0.1:6443")
    await kubelet.start()
    yield Node(api, kubelet, directory, prefix)
    await kubelet.stop()


StartKubelet = Callable[[], Awaitable[Kubelet]]
PYTHON = sys.executable
