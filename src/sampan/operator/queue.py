"""The work queue between watching and reconciling.

Guarantees:
- A key is in the queue at most once, however often it is added.
- A key is held by at most one worker. Added while held, it comes out once more after `done`.
- `add_after` never delays a key that is due earlier; an immediate `add` overtakes a delayed one.
- Failures of one key back off exponentially (`add_rate_limited`) without holding up others; `forget` ends that.
- Nothing added is lost until `shutdown`; then every waiting `get` raises `QueueClosed`.

Belongs to one event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque


class QueueClosed(Exception):
    """The queue was shut down; there will be no more keys."""


class WorkQueue:
    """Times are in seconds. `base` doubles with every failure of a key, up to `ceiling`."""

    def __init__(self, *, base: float = 0.005, ceiling: float = 60.0) -> None:
        self.base = base
        self.ceiling = ceiling
        self._ready: deque[str] = deque()
        self._dirty: set[str] = set()  # wanted: in `_ready`, or held and to come again
        self._held: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __len__(self) -> int:
        """Keys ready to be taken, not counting those held or delayed."""
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing ready and nothing held; delayed keys do not count."""
        return not self._ready and not self._held

    def add(self, key: str) -> None:
        self._cancel(key)
        if self._closed or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._held:
            self._push(key)

    def add_after(self, key: str, seconds: float) -> None:
        if seconds <= 0:
            self.add(key)
            return
        if self._closed or (key in self._dirty and key not in self._held):
            return  # it comes sooner anyway
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def add_rate_limited(self, key: str) -> float:
        """Add after this key's present back-off, and double it. Returns the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self.base * 2.0 ** min(failures, 40), self.ceiling)
        self.add_after(key, delay)
        return delay

    def forget(self, key: str) -> None:
        """The key succeeded: its next failure starts from `base` again."""
        self._failures.pop(key, None)

    def failures(self, key: str) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> str:
        """The next key, held by the caller until `done`. Raises QueueClosed."""
        while not self._ready:
            if self._closed:
                raise QueueClosed
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # it was our turn: pass it on
                raise
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._held.add(key)
        return key

    def done(self, key: str) -> None:
        self._held.discard(key)
        if key in self._dirty and not self._closed:
            self._push(key)

    def shutdown(self) -> None:
        self._closed = True
        self._ready.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        while self._waiters:
            self._wake()

    def _push(self, key: str) -> None:
        self._ready.append(key)
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _cancel(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
