"""A service under five times the load it can bear, with its guards and without; rates and refusals."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import aiohttp
import pytest

from sampan.model import Limits, Service
from sampan.service.http.middleware import Guard
from sampan.service.http.refusal import Refusal
from sampan.service.resilience.guards import RateLimiter, Shedder, guards
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.metrics import Registry
from tests.service.resilience.test_call_faults import until

PLACES, SERVICE_SECONDS = 4, 0.04
CAPACITY = PLACES / SERVICE_SECONDS  # 100 a second


class Limited:
    """An application with a resource that serves four at a time, as a small pool of connections does."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(PLACES)
        self.entered = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError
        self.entered += 1
        async with self.places:
            await asyncio.sleep(SERVICE_SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Load:
    """Requests at a fixed rate, whatever becomes of them, from a thread of its own."""

    def __init__(self) -> None:
        self.answers: list[tuple[float, int, float]] = []  # when it was sent, status, seconds
        self.started = time.monotonic()

    async def run(self, url: str, rate: float, seconds: float) -> None:
        await asyncio.to_thread(lambda: asyncio.run(self._run(url, rate, seconds)))

    async def _run(self, url: str, rate: float, seconds: float) -> None:
        self.started = time.monotonic()
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as all,
        ):
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, self.started + number / rate - time.monotonic()))
                all.create_task(self._one(session, url))

    async def _one(self, session: aiohttp.ClientSession, url: str) -> None:
        sent = time.monotonic()
        async with session.get(url) as response:
            await response.read()
        self.answers.append((sent - self.started, response.status, time.monotonic() - sent))

    def served(self, after: float) -> list[float]:
        """The latencies of what was sent `after` so many seconds and served."""
        return sorted(seconds for sent, status, seconds in self.answers if status == 200 and sent >= after)


async def test_five_times_the_capacity_is_served_at_near_capacity_with_bounded_latency(serving: Any) -> None:
    unguarded, guarded, registry = Load(), Load(), Registry()
    async with serving(Limited()) as served:
        await unguarded.run(f"{served.url}/work", 5 * CAPACITY, 1.0)
    async with serving(Limited()) as served:
        served.middleware.guards = guards(Service("x", "a:b", limits=Limits(least=4)), registry)
        await guarded.run(f"{served.url}/work", 5 * CAPACITY, 6.0)
    late, latencies = unguarded.served(after=0.5), guarded.served(after=3.0)
    assert late[len(late) // 2] > 2.0  # after one second of it, and growing by four seconds a second
    assert len(latencies) / 3.0 > 0.5 * CAPACITY
    assert latencies[int(len(latencies) * 0.95)] < late[len(late) // 2] / 2  # a quarter of a second, and a short queue
    statuses = Counter(status for _, status, _ in guarded.answers)
    assert set(statuses) == {200, 503} and statuses[503] > statuses[200]


async def test_what_computes_is_shed_by_the_lateness_of_the_loop(serving: Any) -> None:
    """Handlers that never wait do not overlap: their queue is the event loop itself."""

    async def computing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError
        time.sleep(0.01)  # noqa: ASYNC251  # holds the loop up as computing does, but not the thread of the load
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    load, registry = Load(), Registry()
    shed = registry.counter("server_shed_total", "Requests refused unserved.", ("reason",))
    async with serving(computing) as served:
        served.middleware.guards = guards(Service("x", "a:b", limits=Limits(lag=0.05)), registry)
        for _ in range(5):  # until it shows, where the machine is busy with other things
            await load.run(f"{served.url}/work", 300, 2.0)  # a hundred a second could be computed
            if shed.value("lag") > 20:
                break
    assert shed.value("lag") > 20
    assert len(load.served(0.0)) > 50


def scope(path: str = "/", **more: object) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "client": ("10.0.0.1", 5), "headers": [], **more}


def shedder(**limits: Any) -> Shedder:
    registry = Registry()
    made = guards(Service("x", "a:b", limits=Limits(**limits)), registry)[-1]
    assert isinstance(made, Shedder)
    return made


CONTEXT = Context("a" * 32, "b" * 16)


async def enter(guard: Guard, of: dict[str, Any], context: Context = CONTEXT) -> Refusal | None:
    answer = guard.enter(of, context)
    return answer if answer is None or isinstance(answer, Refusal) else await answer


async def test_a_deadline_that_has_passed_is_refused_without_running_the_application(serving: Any) -> None:
    app, registry = Limited(), Registry()
    async with serving(app) as served, aiohttp.ClientSession() as session:
        served.middleware.guards = guards(Service("x", "a:b"), registry)
        async with session.get(served.url, headers={"x-request-timeout-ms": "0"}) as response:
            assert response.status == 504
        assert app.entered == 0 and "http_requests_total" in served.registry.render()
    assert 'server_shed_total{reason="deadline"} 1' in registry.render()


async def test_the_queue_is_short_in_time_and_length_and_serves_the_urgent_first() -> None:
    guard = shedder(concurrency=1, adaptive=False, queue=2, queue_seconds=30, priority={"/pay": 0, "/report": 6})
    first = scope()
    assert await enter(guard, first) is None
    order = list[str]()

    async def one(path: str) -> None:
        mine = scope(path)
        if (refusal := await enter(guard, mine)) is None:
            order.append(path)
            await asyncio.sleep(0)
            guard.leave(mine, CONTEXT, 200, 0.01)
        else:
            order.append(f"{refusal.status} {path}")

    async with asyncio.TaskGroup() as all:
        for path in ("/report", "/other", "/pay", "/other/2"):
            all.create_task(one(path))
            await asyncio.sleep(0)
        await until(lambda: len(order) == 2)
        guard.leave(first, CONTEXT, 200, 0.01)
    assert order == ["503 /report", "503 /other/2", "/pay", "/other"]  # displaced by /pay; no room
    assert guard.active == 0
    short = shedder(concurrency=1, adaptive=False, queue_seconds=30)
    assert await enter(short, scope()) is None
    hurried = Context("a" * 32, "b" * 16, deadline=time.monotonic() + 0.5)
    started = time.monotonic()
    refusal = await enter(short, scope(), hurried)
    assert refusal is not None and refusal.status == 503 and time.monotonic() - started < 0.4  # a tenth of 0.5 s
    headers = dict(refusal.headers)
    assert headers[b"retry-after"] in (b"1", b"2", b"3") and headers[b"x-envoy-overloaded"] == b"true"


async def test_a_caller_that_leaves_the_queue_leaves_no_trace() -> None:
    guard = shedder(concurrency=1, adaptive=False, queue=100, queue_seconds=30)
    first = scope()
    assert await enter(guard, first) is None
    waiting = [asyncio.ensure_future(enter(guard, scope())) for _ in range(50)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    guard.leave(first, CONTEXT, 200, 0.01)
    assert guard.active == 0 and await enter(guard, scope()) is None


async def test_probes_exempt_paths_and_sockets_are_never_counted() -> None:
    guard = shedder(concurrency=1, adaptive=False, queue=0, exempt=["/events"])
    assert await enter(guard, scope()) is None
    for free in (scope("/ready"), scope("/health"), scope("/events/1"), scope(type="websocket")):
        assert await enter(guard, free) is None
        guard.leave(free, CONTEXT, 200, 60.0)
    assert guard.active == 1
    refusal = await enter(guard, scope())
    assert refusal is not None and refusal.status == 503


class Caller:
    def __init__(self, subject: str) -> None:
        self.subject = subject


def test_rates_are_per_caller_and_say_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("sampan.service.resilience.guards.time.monotonic", lambda: now)
    shed = Registry().counter("server_shed_total", "", ("reason",))
    limiter = RateLimiter(2.0, 3, shed)
    ada, bob = ({**scope(), "sampan.caller": Caller(name)} for name in ("ada", "bob"))
    assert [limiter.enter(ada, CONTEXT) is None for _ in range(4)] == [True, True, True, False]
    assert limiter.enter(bob, CONTEXT) is None and limiter.enter(scope(), CONTEXT) is None
    refusal = limiter.enter(ada, CONTEXT)
    assert refusal is not None and refusal.status == 429 and shed.value("rate") == 2
    headers = dict(refusal.headers)
    assert headers[b"ratelimit-policy"] == b'"caller";q=3;w=2' and headers[b"ratelimit"] == b'"caller";r=0;t=1'
    assert headers[b"retry-after"] == b"1"
    now += 0.5
    assert [limiter.enter(ada, CONTEXT) is None for _ in range(2)] == [True, False]
    for number in range(10_100):  # memory is bounded: those seen longest ago are forgotten
        limiter.enter(scope(client=(f"10.1.{number // 250}.{number % 250}", 1)), CONTEXT)
    assert len(limiter._full) <= 10_000
