"""A real Envoy under the proxy; the API is a small in-memory one that lists, watches and patches."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.address import Slice, acquire
from sampan.cluster.proxy.proxy import Proxy
from sampan.kube.client import Client
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, WatchEvent, key_of
from sampan.kube.transport import Request
from sampan.operator.cache import Cache


class Objects:
    """An API server of a few lines: a table of objects, and one queue of changes per watch."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], Object] = {}
        self.version = itertools.count(1)
        self.watches: list[tuple[str, asyncio.Queue[WatchEvent]]] = []

    def put(self, resource: Resource, obj: Object) -> Object:
        collection = resource.path(None, None, None)
        key = (collection, key_of(obj))
        known = self.table.get(key)
        uid = known["metadata"]["uid"] if known else f"uid-{next(self.version)}"
        metadata = {"uid": uid, **obj["metadata"], "resourceVersion": str(next(self.version))}
        stored = {"apiVersion": resource.api_version, "kind": resource.kind, **obj, "metadata": metadata}
        self.table[key] = stored
        self._tell(collection, {"type": "MODIFIED" if known else "ADDED", "object": stored})
        return stored

    def remove(self, resource: Resource, key: str) -> None:
        collection = resource.path(None, None, None)
        gone = self.table.pop((collection, key))
        metadata = {**gone["metadata"], "resourceVersion": str(next(self.version))}
        self._tell(collection, {"type": "DELETED", "object": {**gone, "metadata": metadata}})

    def _tell(self, collection: str, event: WatchEvent) -> None:
        for wanted, queue in self.watches:
            if wanted == collection:
                queue.put_nowait(event)

    def of_kind(self, kind: str) -> list[Object]:
        return [obj for obj in self.table.values() if obj["kind"] == kind]

    async def send(self, request: Request) -> Object:
        head, _, rest = request.path.partition("/namespaces/")
        namespace, _, tail = rest.partition("/")
        collection, _, name = (f"{head}/{tail}" if rest else request.path).partition("/" + tail.partition("/")[0] + "/")
        if request.method == "GET":
            items = [obj for (of, _), obj in self.table.items() if of == request.path]
            if request.query.get("fieldSelector"):
                items = [obj for obj in items if obj.get("type") == "kubernetes.io/tls"]
            return {"metadata": {"resourceVersion": str(next(self.version))}, "items": items}
        plural = tail.partition("/")[0]
        collection = f"{head}/{plural}"
        if request.method == "POST":
            body = dict(request.body)
            metadata = {"name": f"{body['metadata'].get('generateName', '')}{next(self.version)}", **body["metadata"]}
            metadata |= {"uid": f"uid-{next(self.version)}", "resourceVersion": str(next(self.version))}
            self.table[collection, f"{namespace}/{metadata['name']}"] = {**body, "metadata": metadata}
            return self.table[collection, f"{namespace}/{metadata['name']}"]
        name = tail.split("/")[1]
        stored = self.table[collection, f"{namespace}/{name}"]
        metadata = {**stored["metadata"], "resourceVersion": str(next(self.version))}
        patched = {**stored, **request.body, "metadata": metadata}
        self.table[collection, f"{namespace}/{name}"] = patched
        self._tell(collection, {"type": "MODIFIED", "object": patched})
        return patched

    async def watch(self, request: Request) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        entry = (request.path, queue)
        self.watches.append(entry)
        try:
            while True:
                event = await queue.get()
                if not request.query.get("fieldSelector") or event["object"].get("type") == "kubernetes.io/tls":
                    yield event
        finally:
            self.watches.remove(entry)

    async def close(self) -> None: ...


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def addresses(tmp_path: Path) -> Any:
    owned = acquire(tmp_path)
    yield owned
    owned.close()


@pytest.fixture
async def proxy(tmp_path: Path, objects: Objects, addresses: Slice) -> AsyncIterator[Proxy]:
    cache = Cache(Client(objects))
    running = Proxy(cache, addresses, tmp_path / "proxy")
    await running.start()
    await running.envoy.ready()
    await running.settled(20)
    try:
        yield running
    finally:
        await running.stop()
        await cache.stop()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Backend:
    """A tiny HTTP/1.1 server: answers with its name and the request line, `delay` seconds late."""

    def __init__(self, name: str, host: str, delay: float = 0.0) -> None:
        self.name, self.host, self.delay, self.port = name, host, delay, 0
        self.served = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> Backend:
        self._server = await asyncio.start_server(self._serve, self.host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(self.delay)
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                if length:
                    await reader.readexactly(length)
                body = f"{self.name} {head.split(b' HTTP')[0].decode()}".encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
                self.served += 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def stop(self) -> None:
        """As a killed process: connections are cut."""
        assert self._server
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def backends(addresses: Slice) -> AsyncIterator[Callable[..., Awaitable[Backend]]]:
    made: list[Backend] = []

    async def make(name: str, *, port: int = 0, delay: float = 0.0) -> Backend:
        backend = Backend(name, f"127.{addresses.number}.1.{len(made) + 1}", delay)
        made.append(backend)
        return await backend.start(port)

    yield make
    for backend in made:
        await backend.stop()


def slice_of(service: str, backends: list[Backend], *, name: str = "", port: str = "") -> Object:
    """An EndpointSlice of `service` with these backends, all ready; they share a port."""
    return {
        "addressType": "IPv4",
        "metadata": {
            "name": name or f"{service}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [{"name": port, "port": backends[0].port if backends else 1, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [backend.host],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "name": backend.name, "uid": f"pod-{backend.name}"},
            }
            for backend in backends
        ],
    }


def service(name: str, cluster_ip: str, ports: list[dict[str, Any]] | None = None, **spec: Any) -> Object:
    found = ports or [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "ports": found, **spec},
    }


@pytest.fixture
def make() -> Any:
    """The makers of objects: `make.service`, `make.slice_of`."""

    class Makers:
        pass

    makers = Makers()
    makers.service, makers.slice_of = service, slice_of  # type: ignore[attr-defined]
    return makers


async def get(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, str]:
    import aiohttp

    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.request(method, url, headers=headers, ssl=False) as reply,
    ):
        return reply.status, await reply.text()


@pytest.fixture
def fetch() -> Any:
    return get
