"""A controller: which objects matter, and one function that makes the world as they say.

`reconcile(key)` is level-triggered: it is told which object to look at, never what happened. It reads from the cache,
acts through the client, and may be called at any time, any number of times.

    returns None or Result()            done, until something watched changes
    returns Result(requeue_after=s)     done, but look again in s seconds at the latest
    raises ApiError 409                 somebody was faster: again, after the key's back-off, without noise
    raises anything else                reported; again, after the key's back-off (5 ms doubling to a minute)

Guarantees: never two calls for one key at a time; a change during a call leads to another call; a call that lasts
longer than `timeout` is cancelled and counts as failed, so that no worker is lost for ever.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from msgspec import Struct

from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, controller_of, key_of, namespace_of
from sampan.operator.cache import Cache
from sampan.operator.events import Recorder
from sampan.operator.queue import QueueClosed, WorkQueue

log = logging.getLogger(__name__)

SOONEST = 0.001
"""Seconds. A controller that asks for another look at once, for ever, must not spin."""


class Result(Struct, frozen=True):
    """`requeue_after`: seconds until the key is looked at again, unless something changes sooner."""

    requeue_after: float | None = None


class Owns(Struct, frozen=True):
    """A change of an object of `resource` requeues the owner that controls it."""

    resource: Resource


class Maps(Struct, frozen=True):
    """A change of an object of `resource` requeues the keys that `keys` gives, for its old and for its new state."""

    resource: Resource
    keys: Callable[[Object], Iterable[str]]


Watch = Owns | Maps


class Counters(Struct):
    """What a controller has done since it started."""

    reconciles: int = 0
    conflicts: int = 0
    errors: int = 0


class Controller(ABC):
    """Subclass it; set `name` and `resource`; write `reconcile`, and `watches` when more than the resource matters."""

    name: ClassVar[str]
    resource: ClassVar[Resource]
    component: ClassVar[str] = ""
    """Whose events these are; `<name>-controller` when empty."""
    workers: ClassVar[int] = 4
    timeout: ClassVar[float] = 120.0

    cache: Cache
    client: Client
    events: Recorder

    def __init__(self) -> None:
        self.queue = WorkQueue()
        self.counters = Counters()
        self._tasks: list[asyncio.Task[None]] = []

    def watches(self) -> Sequence[Watch]:
        """What else requeues keys. Called once, after `cache` is set."""
        return ()

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        """Whether a change of the primary resource matters; by default any does."""
        return True

    @abstractmethod
    async def reconcile(self, key: str) -> Result | None:
        """Make the world as the object under `key` says; the object may be gone."""

    def bind(self, cache: Cache, events: Recorder) -> None:
        """Called by the manager before informers start."""
        self.cache, self.client, self.events = cache, cache.client, events
        cache.informer(self.resource).add_handler(self._changed)
        for watch in self.watches():
            keys = self._owner_keys if isinstance(watch, Owns) else watch.keys
            cache.informer(watch.resource).add_handler(self._mapper(keys))

    def start(self) -> None:
        for number in range(self.workers):
            self._tasks.append(asyncio.create_task(self._work(), name=f"{self.name} {number}"))

    async def stop(self, grace: float = 5.0) -> None:
        """Take no more keys; let what is being reconciled finish within `grace` seconds, then cancel it."""
        self.queue.shutdown()
        tasks, self._tasks = self._tasks, []
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except QueueClosed:
                return
            try:
                await self._once(key)
            finally:
                self.queue.done(key)
            await asyncio.sleep(0)  # a reconcile that never waits must not keep others from running

    async def _once(self, key: str) -> None:
        self.counters.reconciles += 1
        try:
            async with asyncio.timeout(self.timeout):
                result = await self.reconcile(key)
        except ApiError as error:
            if error.code == 409:
                self.counters.conflicts += 1
                log.debug("%s %s: %s", self.name, key, error)
            else:
                self._failed(key, error)
            self.queue.add_rate_limited(key)
        except Exception as error:
            self._failed(key, error)
            self.queue.add_rate_limited(key)
        else:
            self.queue.forget(key)
            if result is not None and result.requeue_after is not None:
                self.queue.add_after(key, max(result.requeue_after, SOONEST))

    def _failed(self, key: str, error: Exception) -> None:
        self.counters.errors += 1
        first = self.queue.failures(key) == 0
        expected = isinstance(error, ApiError | OSError)
        log.log(
            logging.WARNING if first else logging.DEBUG,
            "%s %s: %s: %s",
            self.name,
            key,
            type(error).__name__,
            error,
            exc_info=None if expected or not first else error,
        )

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if self.concerns(old, new):
            obj = new or old
            assert obj is not None
            self.queue.add(key_of(obj))

    def _mapper(self, keys: Callable[[Object], Iterable[str]]) -> Callable[[Object | None, Object | None], None]:
        def changed(old: Object | None, new: Object | None) -> None:
            for obj in (old, new):
                if obj is not None:
                    for key in keys(obj):
                        self.queue.add(key)

        return changed

    def _owner_keys(self, obj: Object) -> Iterable[str]:
        owner = controller_of(obj)
        if owner is None or owner["kind"] != self.resource.kind:
            return ()
        if owner["apiVersion"].rpartition("/")[0] != self.resource.group:
            return ()
        namespace = namespace_of(obj)
        return (f"{namespace}/{owner['name']}" if namespace and self.resource.namespaced else owner["name"],)
