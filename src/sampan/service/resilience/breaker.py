"""A circuit breaker: after consecutive failures calls are refused for a while, then one probe decides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

CLOSED, HALF_OPEN, OPEN = "closed", "half-open", "open"
_VALUES: Final = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}


class Breaker:
    """`failures` in a row open it; after `pause` seconds one call is let through, which closes or reopens it.

    The pause doubles with every failed probe, up to eight times its length.
    """

    def __init__(self, failures: int = 5, pause: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.pause, self.clock = failures, pause, clock
        self.state = CLOSED
        self._failures = 0
        self._probes = 0
        self._since = 0.0

    @property
    def number(self) -> int:
        """0 closed, 1 half-open, 2 open: for the gauge."""
        return _VALUES[self.state]

    def allow(self) -> bool:
        """Whether a call may go out now. A call allowed must be followed by `succeeded`, `failed` or `abandoned`."""
        if self.state == CLOSED:
            return True
        wait = self.pause * min(8, 2 ** max(0, self._probes))
        if self.clock() - self._since < wait:
            return False
        self.state, self._since = HALF_OPEN, self.clock()  # a probe that never reports back frees its place in time
        return True

    def succeeded(self) -> None:
        self.state, self._failures, self._probes = CLOSED, 0, 0

    def failed(self) -> None:
        self._failures += 1
        if self.state == HALF_OPEN:
            self._probes += 1
            self.state, self._since = OPEN, self.clock()
        elif self._failures >= self.limit and self.state == CLOSED:
            self.state, self._since = OPEN, self.clock()

    def abandoned(self) -> None:
        """The caller gave up: no verdict on the callee."""
        if self.state == HALF_OPEN:
            self.state = OPEN
