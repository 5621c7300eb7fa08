"""Time limits for the hot path of calls, where the coroutines and the timer of `asyncio.timeout` are felt.

    with timers.limit(seconds):
        await work()

TimeoutError when the time is over first; a cancellation from elsewhere stays one. Limits of a second and more share
one timer of the loop for every 1/16 s, and may be that late; shorter ones are exact.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final

_SLOTS: Final = 16  # a second
_EXACT: Final = 1.0  # below, seconds


class Timers:
    """The limits of one owner, on one event loop."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Limit]] = {}

    def limit(self, seconds: float) -> Limit:
        return Limit(self, seconds)

    def enter(self, limit: Limit, seconds: float) -> set[Limit]:
        now = time.monotonic()
        slot = int((now + seconds) * _SLOTS) + 1
        entered = self._slots.get(slot)
        if entered is None:
            entered = self._slots[slot] = set()
            asyncio.get_running_loop().call_later(slot / _SLOTS - now, self._over, slot)
        entered.add(limit)
        return entered

    def _over(self, slot: int) -> None:
        for limit in self._slots.pop(slot):
            limit.expire()


class Limit:
    """Used once, inside a task."""

    __slots__ = ("_cancelling", "_handle", "_slot", "_task", "_timers", "expired", "seconds")

    def __init__(self, timers: Timers, seconds: float) -> None:
        self._timers, self.seconds, self.expired = timers, seconds, False

    def __enter__(self) -> Limit:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is for use inside a task")
        self._task, self._cancelling = task, task.cancelling()
        self._slot: set[Limit] | None = None
        if self.seconds >= _EXACT:
            self._slot = self._timers.enter(self, self.seconds)
        else:
            self._handle = asyncio.get_running_loop().call_later(self.seconds, self.expire)
        return self

    def expire(self) -> None:
        self.expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.expired:
            if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from error
        elif self._slot is not None:
            self._slot.discard(self)
        else:
            self._handle.cancel()
