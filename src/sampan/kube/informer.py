"""A cache of one kind that follows the server: list once, watch from there, for ever.

Guarantees:
- The cache equals some state the server had, moving forward only. After a gap (410 Gone) it lists again and compares,
  so an object deleted meanwhile is noticed: handlers get a delete with its last known state.
- It reads your writes: `observe(answer of a write)` and `observe_gone` fold the result in at once, and never move an
  object backwards or bring a deleted one back. The watch's own report of the same version is then dropped.
- Handlers run synchronously, in order, one event at a time; they must only take note (put a key in a queue).
- It does not go deaf: a watch that says nothing for `silence` seconds is opened again from the last version seen.

Caveat: objects are shared. Never mutate what `get`, `list` or a handler gives you.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing

from sampan.kube.client import PAGE, Client
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, WatchEvent, key_of, uid_of

log = logging.getLogger(__name__)

Index = Callable[[Object], Iterable[str]]


Handler = Callable[[Object | None, Object | None], None]
"""Called with (old, new): an object appeared (`old` is None), changed, or is gone (`new` is None)."""

Objects = list[Object]


class Informer:
    """The cache of `resource`, in one namespace or in all, of what the selectors match.

    `indexes` maps a name to a function giving the values an object is found under. `trim` may drop fields before an
    object is kept (it must return a new object, and may be given its own answer). Times are in seconds.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        indexes: Mapping[str, Index] | None = None,
        trim: Callable[[Object], Object] | None = None,
        silence: float = 330.0,
        page: int = PAGE,
    ) -> None:
        self.client = client
        self.resource = resource
        self.namespace = namespace
        self.labels = labels
        self.fields = fields
        self.silence = silence
        self.page = page
        self.lists = 0
        """How many times it has listed; more than once means gaps."""
        self._trim = trim
        self._objects: dict[str, Object] = {}
        self._indexes: dict[str, Index] = {}
        self._indexed: dict[str, dict[str, set[str]]] = {}
        self._handlers: list[Handler] = []
        self._gone: dict[str, None] = {}  # uids deleted by us whose DELETED event is still on its way
        self._version = ""
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        for name, index in (indexes or {}).items():
            self.add_index(name, index)

    # Reading

    def get(self, key: str) -> Object | None:
        """The object under `namespace/name` (or `name`), or None."""
        return self._objects.get(key)

    def list(self, namespace: str | None = None) -> Objects:
        if namespace is None:
            return list(self._objects.values())
        return [obj for obj in self._objects.values() if obj["metadata"].get("namespace") == namespace]

    def by_index(self, index: str, value: str) -> Objects:
        """Objects whose index function gave `value`, in key order. KeyError for an index never added."""
        return [self._objects[key] for key in sorted(self._indexed[index].get(value, ()))]

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    @property
    def resource_version(self) -> str:
        """The version up to which the stream has been seen."""
        return self._version

    # Setting up

    def add_index(self, name: str, index: Index) -> None:
        """Adding the same name twice is allowed when the function is the same."""
        if name in self._indexes:
            if self._indexes[name] is not index:
                raise ValueError(f"index {name!r} of {self.resource.plural} already means something else")
            return
        self._indexes[name] = index
        self._indexed[name] = {}
        for key, obj in self._objects.items():
            for value in index(obj):
                self._indexed[name].setdefault(value, set()).add(key)

    def add_handler(self, handler: Handler) -> None:
        """From now on; what is already in the cache is reported to it first, as new."""
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            handler(None, obj)

    # Running

    def start(self) -> None:
        """Follow the server until `stop`. Starting twice is one start."""
        if self._task is None:
            self._task = asyncio.create_task(self.run(), name=f"informer {self.resource.plural}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def wait_synced(self, timeout: float | None = None) -> None:
        """Until the first list is in. Raises TimeoutError."""
        if not self._synced.is_set():
            async with asyncio.timeout(timeout):
                await self._synced.wait()

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                if not self._version:
                    await self._list()
                if await self._follow():
                    failures = 0
                else:
                    await asyncio.sleep(0.05)  # a server that ends every watch at once must not be hammered
            except ApiError as error:
                if error.code == 410:
                    log.info("%s: version %s is gone, listing again", self.resource.plural, self._version)
                    self._version = ""
                    await asyncio.sleep(0.01)
                    continue
                failures = await self._back_off(failures, error)
            except (OSError, TimeoutError) as error:
                failures = await self._back_off(failures, error)
            except Exception as error:  # something malformed: begin anew rather than go deaf
                log.exception("%s: listing again", self.resource.plural)
                self._version = ""
                failures = await self._back_off(failures, error)

    async def _back_off(self, failures: int, error: Exception) -> int:
        if failures == 0 or failures % 10 == 0:
            log.warning("%s: cannot follow: %s", self.resource.plural, error)
        await asyncio.sleep(min(0.05 * 2**failures, 20.0) * random.uniform(0.8, 1.2))
        return min(failures + 1, 10)

    async def _list(self) -> None:
        items: Objects = []
        version = ""
        pages = self.client.pages(
            self.resource, self.namespace, labels=self.labels, fields=self.fields, limit=self.page
        )
        async for page in pages:
            items += map(self._trim, page.items) if self._trim else page.items
            version = page.resource_version
        self.lists += 1
        self._version = version
        self._gone.clear()
        present = {key_of(obj) for obj in items}
        for key in [key for key in self._objects if key not in present]:
            if _version(self._objects[key]) <= _number(self._version):  # else it is our write, newer than the list
                self._remove(key)
        for obj in items:
            self._fold(obj)
        self._synced.set()

    async def _follow(self) -> bool:
        """Watch once, until the server ends it or falls silent. False when it ended without having said anything."""
        said = False
        stream = self.client.watch(
            self.resource, self.namespace, resource_version=self._version, labels=self.labels, fields=self.fields
        )
        async with aclosing(stream) as events:  # type: ignore[type-var]
            while True:
                try:
                    async with asyncio.timeout(self.silence):
                        event = await anext(events)
                except StopAsyncIteration:
                    return said
                except TimeoutError:
                    log.info("%s: watch silent for %.0f s, opening another", self.resource.plural, self.silence)
                    return True
                said = True
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        obj = event["object"]
        self._version = obj["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            self._gone.pop(uid_of(obj), None)
            known = self._objects.get(key_of(obj))
            if known is not None and _version(known) <= _version(obj):
                self._remove(key_of(obj), obj)
            return
        if uid_of(obj) not in self._gone:
            self._fold(obj)

    # Read your writes

    def observe(self, obj: Object) -> None:
        """Fold in the answer to a write. Dropped when the stream has already been past it, so a deleted object does
        not come back; ignored before the first list."""
        newer = self._synced.is_set() and self._version and _version(obj) > _number(self._version)
        if newer and uid_of(obj) not in self._gone:
            self._fold(obj)

    def observe_gone(self, obj: Object) -> None:
        """Fold in that this very object (by uid) no longer exists, as the server said."""
        known = self._objects.get(key_of(obj))
        if known is not None and uid_of(known) == uid_of(obj):
            self._gone[uid_of(obj)] = None
            self._remove(key_of(obj))

    # The cache

    def _fold(self, obj: Object) -> None:
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None and _version(old) >= _version(obj):
            return
        new = self._trim(obj) if self._trim else obj
        if old is not None and uid_of(old) != uid_of(new):
            self._remove(key)  # deleted and created again in between: two objects, two events
            old = None
        self._objects[key] = new
        for name, index in self._indexes.items():
            before, after = set(index(old)) if old else set(), set(index(new))
            self._unindex(name, before - after, key)
            for value in after - before:
                self._indexed[name].setdefault(value, set()).add(key)
        self._tell(old, new)

    def _remove(self, key: str, last: Object | None = None) -> None:
        old = self._objects.pop(key)
        for name, index in self._indexes.items():
            self._unindex(name, set(index(old)), key)
        same = last is not None and uid_of(last) == uid_of(old)
        self._tell(last if same else old, None)

    def _unindex(self, name: str, values: set[str], key: str) -> None:
        table = self._indexed[name]
        for value in values:
            keys = table.get(value)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del table[value]

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            try:
                handler(old, new)
            except Exception:
                log.exception("handler for %s failed", self.resource.plural)


def _version(obj: Object) -> int:
    return _number(obj["metadata"].get("resourceVersion") or "")


def _number(version: str) -> int:
    """Resource versions are compared as integers, as the API has guaranteed since Kubernetes 1.35."""
    return int(version) if version.isdigit() else 0
