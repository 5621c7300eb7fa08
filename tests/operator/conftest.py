"""A server of a few lines behind the client's transport: versions, watches, and faults a real one seldom shows."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from typing import Any

import pytest

from sampan.kube import errors, kinds
from sampan.kube.client import Client
from sampan.kube.objects import Object, WatchEvent
from sampan.kube.transport import Request


def within(path: str, collection: str) -> bool:
    """Whether an object's path lies in a collection, of one namespace or of all."""
    parent = path.rpartition("/")[0]
    return collection in (parent, re.sub("/namespaces/[^/]+(?=/)", "", parent))


class Server:
    """Objects by path. `drop()` ends every watch, `compact()` makes earlier versions Gone, `mute` swallows events."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.version = 0
        self.oldest = 0
        self.mute = False
        self.down = False
        self.requests: list[Request] = []
        self._log: list[tuple[int, str, WatchEvent]] = []
        self._watches: list[tuple[str, asyncio.Queue[WatchEvent | None]]] = []
        self._uids = itertools.count(1)

    # What other clients do

    def put(self, path: str, obj: Object) -> Object:
        self.version += 1
        old = self.objects.get(path)
        resource = kinds.find(obj["apiVersion"], obj["kind"])
        assert resource is not None
        metadata = {"uid": old["metadata"]["uid"] if old else f"u{next(self._uids)}", **obj["metadata"]}
        new = {**deepcopy(obj), "metadata": {**metadata, "resourceVersion": str(self.version)}}
        self.objects[path] = new
        self._emit(path, "MODIFIED" if old else "ADDED", new)
        return new

    def remove(self, path: str) -> Object:
        self.version += 1
        old = self.objects.pop(path)
        gone = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.version)}}
        self._emit(path, "DELETED", gone)
        return gone

    def drop(self) -> None:
        for _, queue in self._watches:
            queue.put_nowait(None)

    def compact(self) -> None:
        self._log.clear()
        self.oldest = self.version

    def _emit(self, path: str, kind: Any, obj: Object) -> None:
        event: WatchEvent = {"type": kind, "object": obj}
        self._log.append((self.version, path, event))
        for prefix, queue in self._watches:
            if within(path, prefix) and not self.mute:
                queue.put_nowait(event)

    def emit_raw(self, collection: str, event: Any) -> None:
        for prefix, queue in self._watches:
            if within(f"{collection}/x", prefix):
                queue.put_nowait(event)

    # Transport

    async def send(self, request: Request) -> Object:
        await asyncio.sleep(0)
        self.requests.append(request)
        if self.down:
            raise ConnectionError("down")
        path, body = request.path, request.body
        name = path.removesuffix("/status").rpartition("/")[2]
        path = path.removesuffix("/status")
        if request.method == "GET":
            if path in self.objects:
                return self.objects[path]
            items: list[Object] = [o for p, o in sorted(self.objects.items()) if within(p, path)]
            plurals = {resource.plural for resource in kinds.BUILTIN}
            if not items and name not in plurals:
                raise errors.not_found("things", name)
            return {"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items}
        if request.method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise errors.already_exists("things", path)
            return self.put(path, body)
        if path not in self.objects:
            raise errors.not_found("things", name)
        old = self.objects[path]
        if request.method == "DELETE":
            wanted = (body.get("preconditions") or {}).get("uid")
            if wanted and wanted != old["metadata"]["uid"]:
                raise errors.conflict("things", name, "uid differs")
            return {"kind": "Status", "status": "Success", "details": {"uid": self.remove(path)["metadata"]["uid"]}}
        metadata = body.get("metadata") or {}
        if metadata.get("resourceVersion") not in (None, old["metadata"]["resourceVersion"]):
            raise errors.conflict("things", name, "the object has been modified")
        if request.method == "PATCH":
            body = {**old, **body, "metadata": {**old["metadata"], **metadata}}
        return self.put(path, body)

    async def watch(self, request: Request) -> AsyncIterator[WatchEvent]:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            raise errors.expired("too old")
        queue: asyncio.Queue[WatchEvent | None] = asyncio.Queue()
        for version, path, event in self._log:
            if version > since and within(path, request.path):
                queue.put_nowait(event)
        entry = (request.path, queue)
        self._watches.append(entry)
        try:
            while (next_event := await queue.get()) is not None:
                yield next_event
        finally:
            self._watches.remove(entry)

    async def close(self) -> None: ...


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server)


def _config_map(name: str, **data: str) -> Object:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@pytest.fixture
def config_map() -> Callable[..., Object]:
    return _config_map
