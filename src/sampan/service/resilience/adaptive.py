"""How many requests may be served at once, found by watching latency: a gradient limit, after Netflix's
concurrency-limits (Gradient2) and Envoy's adaptive concurrency filter, and how late the event loop runs.

Latency is looked at relative to what is normal for the same route, so that a mix of quick and slow routes is not taken
for overload. Why a gradient and not AIMD: it needs no latency target from the user, and steps back in proportion. And
why lag as well: a handler that only computes never overlaps with another, so its queue is the event loop itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

_TOLERANCE: Final = 2.0  # times the normal latency that is no sign of overload
_WINDOW: Final = 0.1  # seconds between two adjustments, at least
_SAMPLES: Final = 8  # and this many requests
_FIRST: Final = 100.0
_LEARN: Final = 0.05  # of a new sample, while there is room
_DRIFT: Final = 0.001  # a second: a latency that stays becomes normal in some ten minutes
_MOST_ROUTES: Final = 500
_WORST: Final = 10.0  # one sample counts no more than this


class Gradient:
    """`limit` requests at once, between `least` and `most`. Up to twice `latency` nothing counts as slow."""

    def __init__(
        self, least: int, most: int, latency: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.least, self.most, self.latency, self.clock = float(least), float(most), latency, clock
        self.limit = min(self.most, max(self.least, _FIRST))
        self._normal: dict[str, float] = {}  # seconds, by route
        self._sum = 0.0
        self._count = self._busiest = 0
        self._since = clock()

    def sample(self, route: str, seconds: float, active: int) -> None:
        """A request took `seconds`, with `active` being served at its end, itself among them."""
        normal = self._normal.get(route)
        if normal is None:
            if len(self._normal) >= _MOST_ROUTES:
                return
            normal = self._normal[route] = max(seconds, 1e-6)
        elif active * 2 < self.limit or seconds < normal:
            self._normal[route] = normal + _LEARN * (min(seconds, normal * _WORST) - normal)
        self._busiest = max(self._busiest, active)
        self._sum += min(_WORST, seconds / (normal if normal > self.latency else self.latency))
        self._count += 1
        if self._count >= _SAMPLES and (now := self.clock()) - self._since >= _WINDOW:
            self._adjust(now)

    def _adjust(self, now: float) -> None:
        slower, busy = self._sum / self._count, self._busiest * 2 >= self.limit
        elapsed, self._since = now - self._since, now
        self._sum, self._count, self._busiest = 0.0, 0, 0
        if not busy:  # the limit was no limit: nothing is learnt about it
            return
        # the root is room for a queue, and what the limit grows by while all is well
        wanted = self.limit * max(0.5, min(1.0, _TOLERANCE / slower)) + math.sqrt(self.limit)
        self.limit = min(self.most, max(self.least, (self.limit + wanted) / 2))
        factor = 1 + _DRIFT * min(elapsed, 1.0)
        for route in self._normal:
            self._normal[route] *= factor


class Lag:
    """The share of requests to refuse because the event loop stays more than `target` seconds late.

    A proportional-integral controller as of PIE (RFC 8033), which begins when the loop has been late at several ticks
    in a row and for a second, as in CoDel: one slow import or computation is no overload. Ticks while touched.
    """

    every: Final = 0.05
    most: Final = 0.95
    patience: Final = (4, 1.0)  # ticks, seconds
    several: Final = 3

    def __init__(self, target: float) -> None:
        self.target = target
        self.share = 0.0
        self.ticking = False
        self.touched = 0  # requests since the last tick; who has taken one counts it, and begins where nothing ticks
        self._last = 0.0
        self._late, self._late_seconds = 0, 0.0

    def begin(self) -> None:
        self.ticking = True
        self._next()

    def _next(self) -> None:
        self._due = time.monotonic() + self.every
        asyncio.get_running_loop().call_later(self.every, self._tick)

    def _tick(self) -> None:
        lag = max(0.0, time.monotonic() - self._due)
        touched, self.touched = self.touched, 0
        self.observe(lag if touched >= self.several else 0.0)  # else it is not requests that hold the loop up
        if touched or self.share:
            self._next()
        else:
            self.ticking = False

    def observe(self, lag: float) -> None:
        """The loop was `lag` seconds late."""
        error, change = (lag - self.target) / self.target, (lag - self._last) / self.target
        ticks = min(5.0, 1 + lag / self.every)  # a late tick stands for those it kept away
        step = 0.05 * ticks * (max(-1.0, min(1.0, error)) + max(-1.0, min(1.0, change)))
        if error <= 0:
            self._late, self._late_seconds = 0, 0.0
        elif not self.share:
            self._late, self._late_seconds = self._late + 1, self._late_seconds + self.every + lag
            if self._late < self.patience[0] or self._late_seconds < self.patience[1]:
                step = 0.0
        self._last = lag
        if self.share or error > 0:
            self.share = max(0.0, min(self.most, self.share + step))
