"""Connections of one process to one server: few, kept, handed out last used first.

A connection that is known to be broken is never handed out, and one comes back only clean: what a cancelled or failed
statement has left behind is mended, or the connection replaced, before anybody else sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from sampan.model.data import DatabaseError, DeadlineExceeded, Pool, PoolTimeout, Unavailable
from sampan.service.tasks import end
from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.database")

_CONNECT_SECONDS: Final = 5.0
_REPAIR_SECONDS: Final = 5.0

# columns, rows, rows changed (-1: not known), last key made (0: none)
Result = tuple[tuple[str, ...], Sequence[tuple[Any, ...]], int, int]


class Slot:
    """A connection of the pool. `dirty`: something was cut off on it; `record` belongs to SQLAlchemy."""

    __slots__ = ("dirty", "opened", "prepared", "raw", "record", "used", "work")

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.opened = self.used = time.monotonic()
        self.dirty = False
        self.prepared: dict[str, Any] = {}
        self.record: Any = None
        self.work: asyncio.Future[Result] | None = None  # a statement that its caller may not wait for any longer


class Driver(Protocol):
    """What differs between engines. Nothing here retries, measures or knows of pools."""

    engine: str
    system: str  # db.system.name of OpenTelemetry
    database: str
    host: str
    port: int

    async def connect(self) -> Any: ...

    async def fetch(self, slot: Slot, sql: str, arguments: tuple[Any, ...]) -> Result: ...

    async def many(self, slot: Slot, sql: str, rows: Sequence[tuple[Any, ...]]) -> int: ...

    def stream(
        self, slot: Slot, sql: str, arguments: tuple[Any, ...]
    ) -> AsyncIterator[tuple[tuple[str, ...], Sequence[tuple[Any, ...]]]]: ...

    async def begin(self, slot: Slot, isolation: str, read_only: bool) -> None: ...

    async def commit(self, slot: Slot) -> None: ...

    async def rollback(self, slot: Slot) -> None: ...

    def alive(self, slot: Slot) -> bool:
        """What can be known without asking the server."""
        ...

    def clean(self, slot: Slot) -> bool:
        """Whether it may be handed to somebody else as it is: alive and in no transaction."""
        ...

    async def repair(self, slot: Slot) -> bool:
        """Make it clean, and have the server stop what was cut off; False when it must be replaced."""
        ...

    async def close(self, raw: Any) -> None: ...

    def translate(self, error: BaseException) -> DatabaseError | None:
        """Our error for the driver's; None for what is not its."""
        ...


def cores() -> float:
    """The processor's share this process may use: the limit of its control group, or the cores there are."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return int(quota) / int(period)
    except (OSError, ValueError):
        pass
    return float(len(os.sched_getaffinity(0)))


def broke(error: BaseException) -> bool:
    """Whether it is one of the errors that asyncmy and uvloop raise, by mistake, when a connection ends under them."""
    return type(error).__module__ == "builtins" and isinstance(error, RuntimeError | AttributeError | IndexError)


def size_of(declared: Pool | None) -> int:
    """SAMPAN_POOL_SIZE, the declared size, or ten for a core: a Python process keeps no more than one core busy."""
    text = os.environ.get("SAMPAN_POOL_SIZE", "")
    if text.isdigit() and int(text) > 0:
        return int(text)
    if declared is not None and declared.size:
        return declared.size
    return max(4, min(10, math.ceil(10 * cores())))


class ConnectionPool:
    def __init__(self, driver: Driver, declared: Pool | None, name: str, registry: Registry) -> None:
        self.driver, self.name = driver, name
        settings = declared or Pool()
        self.size, self.waiting, self.recycle = size_of(declared), settings.waiting, settings.recycle
        self.idle: list[Slot] = []
        self.total = 0  # connections there are, or are being opened
        self._waiters: deque[asyncio.Future[Slot | None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._gauge = registry.gauge("db_pool_connections", "Connections, by state.", ("database", "state"))
        self._wait = registry.histogram("db_pool_wait_seconds", "Waiting for a connection.", ("database",))
        self._connects = registry.counter("db_pool_connects_total", "Connections opened.", ("database",))
        self._errors = registry.counter("db_pool_errors_total", "What went wrong, by kind.", ("database", "kind"))
        registry.before.append(self.show)

    def show(self) -> None:
        """Bring the gauges up to date."""
        idle = len(self.idle)
        self._gauge.set(self.total - idle, self.name, "used")
        self._gauge.set(idle, self.name, "idle")
        self._gauge.set(len(self._waiters), self.name, "waiting")

    def take_now(self) -> Slot | None:
        """A connection that is there and sound, or None."""
        while self.idle:
            slot = self.idle.pop()
            if self.driver.alive(slot) and slot.used - slot.opened < self.recycle:
                return slot
            self.discard(slot)
        return None

    async def take(self) -> Slot:
        """A connection; opens one, or waits for one as long as the pool and the caller's deadline allow.

        Raises PoolTimeout, DeadlineExceeded, Unavailable.
        """
        slot = self.take_now()
        if slot is not None:
            return slot
        if self._closed:
            raise Unavailable(f"database {self.name!r} has been closed")
        if self.total < self.size:
            return await self._open()
        return await self._wait_for_one()

    async def _wait_for_one(self) -> Slot:
        context = CURRENT.get()
        remaining = None if context is None else context.remaining()
        limit = self.waiting if remaining is None else min(self.waiting, remaining)
        waiter: asyncio.Future[Slot | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(limit):
                slot = await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # handed over at the very moment of giving up
                given = waiter.result()
                if given is None:
                    self._free_place()
                else:
                    self.give(given)
            else:
                with contextlib.suppress(ValueError):  # somebody who had a place to give has passed over it already
                    self._waiters.remove(waiter)
            if not isinstance(error, TimeoutError):
                raise
            self._errors.add(self.name, "pool_timeout")
            if remaining is not None and remaining <= self.waiting:
                raise DeadlineExceeded(f"no connection to database {self.name!r} before the deadline") from None
            raise PoolTimeout(
                f"no connection to database {self.name!r} became free within {limit:g} s: all {self.size} are in use"
            ) from None
        finally:
            self._wait.observe(time.perf_counter() - started, self.name)
        return await self._open(counted=True) if slot is None else slot

    async def _open(self, counted: bool = False) -> Slot:
        if not counted:
            self.total += 1
        context = CURRENT.get()
        remaining = None if context is None else context.remaining()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS if remaining is None else min(_CONNECT_SECONDS, remaining)):
                raw = await self.driver.connect()
        except BaseException as error:
            self.total -= 1
            self._free_place(counted=False)
            if isinstance(error, TimeoutError):
                self._errors.add(self.name, "connect_timeout")
                raise Unavailable(f"database {self.name!r} did not take a connection in time") from None
            ours = self.driver.translate(error)
            if ours is None and broke(error):
                ours = Unavailable("the connection broke while it was being made")
            if ours is None:
                raise
            self._errors.add(self.name, "connect")
            raise Unavailable(f"database {self.name!r} cannot be reached: {ours}", ours.code) from None
        self._connects.add(self.name)
        return Slot(raw)

    def give(self, slot: Slot) -> None:
        """Take `slot` back. What is not clean is mended in the background first."""
        if not slot.dirty and not self.driver.alive(slot):
            self._errors.add(self.name, "replaced")
            self.discard(slot)
        elif slot.dirty or not self.driver.clean(slot):
            self._spawn(self._repair(slot))
        else:
            self._put(slot)

    def _put(self, slot: Slot) -> None:
        slot.used = time.monotonic()
        if self._closed:
            self.discard(slot)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self.idle.append(slot)

    def doubt(self) -> None:
        """One connection was found broken: those that lie idle are likely to be so too."""
        while self.idle:
            self.discard(self.idle.pop())

    def discard(self, slot: Slot) -> None:
        """Close a connection that nobody may use again."""
        self._spawn(self._close(slot))
        self.total -= 1
        self._free_place(counted=False)

    def _free_place(self, counted: bool = True) -> None:
        """Let a waiter open a connection in the place of one that is gone."""
        if counted:
            self.total -= 1
        while self._waiters and self.total < self.size:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.total += 1
                waiter.set_result(None)
                return

    async def _repair(self, slot: Slot) -> None:
        try:
            async with asyncio.timeout(_REPAIR_SECONDS):
                if slot.work is not None:
                    await end(slot.work)
                    slot.work = None
                sound = await self.driver.repair(slot)
        except Exception as error:
            log.debug("a connection of %s was not mended: %s", self.name, error)
            sound = False
        if sound and self.driver.clean(slot):
            slot.dirty = False
            self._put(slot)
        else:
            self._errors.add(self.name, "replaced")
            self.discard(slot)

    async def _close(self, slot: Slot) -> None:
        try:
            async with asyncio.timeout(_REPAIR_SECONDS):
                await self.driver.close(slot.raw)
        except Exception as error:
            log.debug("closing a connection of %s: %s", self.name, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self._closed = True
        while self.idle:
            self.discard(self.idle.pop())
        while self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=2 * _REPAIR_SECONDS)  # each has a limit of its own
            await end(*late)
        self._closed = False  # a handle that is used again opens anew, as SQLAlchemy's engines do
