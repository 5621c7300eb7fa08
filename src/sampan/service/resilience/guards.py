"""What a service takes on from its callers: guards of the middleware that refuse in time what could not be served.

`Shedder`: requests whose deadline has passed (504), and what exceeds the limit in force (503, after a short wait for a
place). `RateLimiter`: what exceeds a caller's rate (429). Health, readiness and metrics never come this far.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import os
import random
import time
from collections.abc import Awaitable
from typing import Final

from sampan.model import Limits, Service
from sampan.service.http.middleware import Guard, leave_nothing
from sampan.service.http.refusal import Refusal, Scope
from sampan.service.resilience.adaptive import Gradient, Lag
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.metrics import Counter, Registry

_DEFAULT_URGENCY: Final = 3
_DEV: Final = 4  # a laptop runs the whole system: that its loops are late says less about each
_MANY: Final = 16  # requests since the last tick of the lag
_MOST_CALLERS: Final = 10_000
_OVERLOADED: Final = b'{"error":"overloaded, try again later"}'
_TOO_MANY: Final = b'{"error":"too many requests"}'
_TOO_LATE: Final = Refusal(504, b'{"error":"deadline exceeded"}')
_QUEUED: Final = "sampan.queued"  # in the scope: seconds that the request waited for its place
_FREE: Final = "sampan.free"  # in the scope: it was not counted


def guards(service: Service, registry: Registry) -> tuple[Guard, ...]:
    """The guards that `limits` of `service` ask for, in their order."""
    shed = registry.counter("server_shed_total", "Requests refused unserved.", ("reason",))
    limits = service.limits
    probes = {probe.path for probe in (service.readiness, service.liveness, service.startup)}
    made: list[Guard] = [] if limits.rate is None else [RateLimiter(limits.rate, limits.burst, shed, probes)]
    return (*made, Shedder(limits, registry, shed, probes))


class Shedder:
    """Holds the requests being served to the limit in force. `active` are served, `waiting` wait for a place."""

    def __init__(self, limits: Limits, registry: Registry, shed: Counter, probes: set[str] | None = None) -> None:
        self.limits, self.shed = limits, shed
        self.gradient = Gradient(limits.least, limits.concurrency, limits.latency) if limits.adaptive else None
        self.limit = float(limits.concurrency) if self.gradient is None else self.gradient.limit
        self.lag = Lag(limits.lag * (_DEV if os.environ.get("SAMPAN_ENVIRONMENT") == "dev" else 1))
        self.active = 0
        self._queue: list[tuple[int, int, asyncio.Future[bool]]] = []  # a heap: urgency, number, place
        self._number = self._asleep = self._left = 0
        self._probes = frozenset(probes or ())
        self._exempt = tuple(limits.exempt)
        self._urgencies = sorted(limits.priority.items(), key=lambda item: -len(item[0]))  # the longest prefix first
        limit = registry.gauge("server_concurrency_limit", "Requests that may be served at once.")
        waiting = registry.gauge("server_queue_length", "Requests that wait for a place.")
        share = registry.gauge("server_shed_share", "Share of requests refused because the event loop is late.")
        limit.set(self.limit)

        def exposed() -> None:
            limit.set(round(self.limit, 1))
            waiting.set(self._asleep)
            share.set(round(self.lag.share, 3))

        registry.before.append(exposed)

    def enter(self, scope: Scope, context: Context) -> Refusal | Awaitable[Refusal | None] | None:
        if context.deadline is not None and context.deadline <= time.monotonic():
            self.shed.add("deadline")
            return _TOO_LATE
        path = scope["path"]
        # a WebSocket lives for hours: it is no measure of load
        if path in self._probes or (self._exempt and path.startswith(self._exempt)) or scope["type"] == "websocket":
            scope[_FREE] = True
            return None
        lag = self.lag
        lag.touched += 1
        if not lag.ticking:
            lag.begin()
        if lag.share and random.random() < lag.share * (self._urgency(path) + 1) / (_DEFAULT_URGENCY + 1):
            return self._refuse("lag")
        if self.active < self.limit:
            self.active += 1
            return None
        return self._queued(scope, context)

    def leave(self, scope: Scope, context: Context, status: int, seconds: float) -> None:
        if _FREE in scope:
            return
        active = self.active
        if self._queue:
            self._release()
        else:
            self.active = active - 1
        gradient = self.gradient
        if gradient is None:
            return
        # with much room left one request in eight tells the same as all, where there are many
        self._left += 1
        if self._left & 7 and self.lag.touched > _MANY and active * 2 < gradient.limit:
            return
        if status < 499:  # failures and those who left say nothing about latency
            route = scope.get("route")
            name = scope["method"] if route is None else getattr(route, "path", "")
            gradient.sample(name, seconds - scope[_QUEUED] if _QUEUED in scope else seconds, active)
            self.limit = gradient.limit

    def _urgency(self, path: str) -> int:
        for prefix, urgency in self._urgencies:
            if path.startswith(prefix):
                return urgency
        return _DEFAULT_URGENCY

    def _queued(self, scope: Scope, context: Context) -> Refusal | Awaitable[Refusal | None]:
        """A place in the queue, perhaps that of somebody less urgent, or a refusal."""
        room = self.limits.queue if self.limits.queue is not None else max(1, int(self.limit / 2))
        urgency = self._urgency(scope["path"])
        if self._asleep >= room:
            last = max((item for item in self._queue if not item[2].done()), default=None)
            if last is None or last[0] <= urgency:
                return self._refuse("full")
            last[2].set_result(False)
        return self._wait(scope, context, urgency)

    async def _wait(self, scope: Scope, context: Context, urgency: int) -> Refusal | None:
        limits, left = self.limits, context.remaining()
        seconds = limits.queue_seconds if left is None else min(limits.queue_seconds, left * limits.queue_share)
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._number += 1
        if len(self._queue) > 2 * self._asleep + 16:  # who gave up leaves the heap when served, or here
            self._queue = [item for item in self._queue if not item[2].done()]
            heapq.heapify(self._queue)
        heapq.heappush(self._queue, (urgency, self._number, place))
        self._asleep += 1
        started = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                served = await place
        except TimeoutError:
            if not place.done() or place.cancelled() or not place.result():
                return self._refuse("timeout")
            served = True  # the place came in the same moment
        except BaseException:
            if place.done() and not place.cancelled() and place.result():
                self._release()
            raise
        finally:
            self._asleep -= 1
        if not served:
            return self._refuse("displaced")
        scope[_QUEUED] = time.monotonic() - started
        return None

    def _release(self) -> None:
        """A place is free: it goes to the most urgent who waits, unless the limit has fallen below."""
        self.active -= 1
        while self._queue and self.active < self.limit:
            place = heapq.heappop(self._queue)[2]
            if not place.done():
                self.active += 1
                place.set_result(True)

    def _refuse(self, reason: str) -> Refusal:
        self.shed.add(reason)
        after = str(random.randint(1, 3)).encode()  # so that those refused do not come back together
        return Refusal(503, _OVERLOADED, ((b"retry-after", after), (b"x-envoy-overloaded", b"true")))


class RateLimiter:
    """A token bucket for each caller, kept as the time at which it is full again (GCRA): one number a caller, and the
    callers seen longest ago are forgotten. https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/"""

    def __init__(self, rate: float, burst: int | None, shed: Counter, probes: set[str] | None = None) -> None:
        self.shed = shed
        self.interval = 1 / rate
        quota = burst or max(1, math.ceil(rate))
        self.tolerance = (quota - 1) * self.interval
        self._policy = f'"caller";q={quota};w={max(1, math.ceil(quota / rate))}'.encode()
        self._full: dict[str, float] = {}
        self._probes = frozenset(probes or ())

    def enter(self, scope: Scope, context: Context) -> Refusal | None:
        if scope["path"] in self._probes:
            return None
        caller = getattr(scope.get("sampan.caller"), "subject", None)
        if caller is None:
            client = scope.get("client")
            caller = client[0] if client else ""
        now, full = time.monotonic(), self._full
        at = full.pop(caller, 0.0)
        ahead = at - now if at > now else 0.0
        refused = ahead > self.tolerance
        full[caller] = at if refused else now + ahead + self.interval
        if len(full) > _MOST_CALLERS:
            del full[next(iter(full))]
        return self._refuse(ahead - self.tolerance) if refused else None

    leave = leave_nothing

    def _refuse(self, wait: float) -> Refusal:
        self.shed.add("rate")
        seconds = str(max(1, math.ceil(wait))).encode()
        return Refusal(
            429,
            _TOO_MANY,
            (
                (b"retry-after", seconds),
                (b"ratelimit-policy", self._policy),
                (b"ratelimit", b'"caller";r=0;t=' + seconds),
            ),
        )
