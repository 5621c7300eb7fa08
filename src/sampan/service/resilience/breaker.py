"""A circuit breaker: after failures calls are refused for a while, then a few probes decide.

It opens after failures in a row (a callee that is gone) or when the error rate of a window passes a share (a callee
that is half gone), see `sampan.model.Breaker`. Every caller's pause is jittered, so that probes do not come at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from sampan.model import Breaker

CLOSED, HALF_OPEN, OPEN = 0, 1, 2
_SLOTS: Final = 10  # of the window
_LONGEST: Final = 8  # times the pause
_JITTER: Final = 0.2


class CircuitBreaker:
    """A call that `allow` let through must be followed by one of `succeeded`, `failed` and `abandoned`."""

    def __init__(
        self,
        rules: Breaker | None = None,
        changed: Callable[[int], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules, self.clock = rules or Breaker(), clock
        self.state = CLOSED
        self._changed = changed
        self._run = 0  # failures one after the other
        self._until = 0.0  # open until
        self._pauses = 0  # since it was last closed
        self._permits = self._passed = 0  # probes still to be let out; probes that succeeded
        self._slot = self.rules.window / _SLOTS
        self._counts: list[list[int]] = []  # [slot number, calls, failures], the oldest first

    def allow(self) -> bool:
        """Whether a call may go out now."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN:
            if self.clock() < self._until:
                return False
            self._permits, self._passed = self.rules.probes, 0
            self._enter(HALF_OPEN)
        if self._permits <= 0:
            return False
        self._permits -= 1
        return True

    def settle(self, good: bool | None) -> None:
        """An allowed call is over: well, badly, or (None) without a verdict on the callee."""
        if good:
            self.succeeded()
        elif good is None:
            self.abandoned()
        else:
            self.failed()

    def succeeded(self) -> None:
        if self.state == CLOSED:
            self._run = 0
            self._count(0)
        elif self.state == HALF_OPEN:
            self._passed += 1
            if self._passed >= self.rules.probes:
                self._run = self._pauses = 0
                self._counts.clear()
                self._enter(CLOSED)

    def failed(self) -> None:
        if self.state == HALF_OPEN:
            self._open()
        elif self.state == CLOSED:
            self._run += 1
            self._count(1)
            if self._run >= self.rules.failures or self._rate() >= self.rules.rate:
                self._open()

    def abandoned(self) -> None:
        """The caller gave up: no verdict on the callee. A probe's place is free again."""
        if self.state == HALF_OPEN:
            self._permits += 1

    def _open(self) -> None:
        pause = self.rules.pause * min(_LONGEST, 2**self._pauses)
        self._pauses += 1
        self._until = self.clock() + pause * (1 + _JITTER * random.random())
        self._enter(OPEN)

    def _enter(self, state: int) -> None:
        self.state = state
        self._changed(state)

    def _count(self, failure: int) -> None:
        number = int(self.clock() / self._slot)
        counts = self._counts
        if not counts or counts[-1][0] != number:
            counts.append([number, 0, 0])
            while counts[0][0] <= number - _SLOTS:
                del counts[0]
        slot = counts[-1]
        slot[1] += 1
        slot[2] += failure

    def _rate(self) -> float:
        calls = sum(slot[1] for slot in self._counts)
        return sum(slot[2] for slot in self._counts) / calls if calls >= self.rules.volume else -1.0
