"""Calls through a network that fails: what the caller sees, what is sent again, and how much reaches the callee."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

import pytest

from sampan.model import Breaker, Policy
from sampan.service.http.client import HttpClient
from sampan.service.http.reply import CallError, CircuitOpen, DeadlineExceeded, TooManyCalls
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, Context, new_span_id, new_trace_id
from tests.faults import FaultProxy
from tests.service.resilience.conftest import Callee, headers_of

Clients = Callable[..., HttpClient]


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_reset_in_the_body_is_tried_again_where_that_is_safe(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    async def large(scope: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b"x" * 500_000

    callee.answer = large
    client = client_of(proxy.url)
    proxy.reset_after(100_000)
    assert len((await client.get("/large")).body) == 500_000
    assert client.retries.value("users", "broken") == 1 and len(callee.calls) == 2
    proxy.reset_after(100_000)
    with pytest.raises(CallError, match="the connection broke"):
        await client.post("/large")
    assert len(callee.calls) == 3
    proxy.reset_after(100_000)
    assert (await client.post("/large", idempotency_key="k")).status == 200
    assert [headers_of(scope).get("idempotency-key") for scope in callee.calls[3:]] == ["k", "k"]


async def test_a_connection_that_died_while_idle_costs_nothing_but_a_retry(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    client = client_of(proxy.url)
    for _ in range(3):
        assert (await client.get("/")).status == 200
        proxy.reset_all()
    assert len(callee.calls) == 3


async def test_latency_and_a_slow_body_end_at_the_deadline(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    client = client_of(proxy.url)
    await client.get("/warm")
    proxy.latency = 2.0
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await client.get("/", timeout=0.2)
    proxy.latency = 0

    async def large(scope: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b"x" * 200_000

    callee.answer = large
    proxy.bandwidth = 20_000
    with pytest.raises(DeadlineExceeded):
        await client.get("/large", timeout=0.3)
    assert time.monotonic() - started < 2


async def test_a_half_open_connection_is_left_for_another_attempt(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    client = client_of(proxy.url, attempt_timeout=0.2, timeout=10)
    await client.get("/warm")
    proxy.blackhole = True
    call = asyncio.create_task(client.get("/"))
    await until(lambda: client.retries.value("users", "timeout") >= 1)
    proxy.blackhole = False
    assert (await call).status == 200
    assert int(headers_of(callee.calls[-1])["x-request-timeout-ms"]) <= 9800


async def test_refused_connections_are_tried_again_for_every_method(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    client = client_of(proxy.url, retries=50, backoff=0.01, backoff_most=0.02, retry_minimum=1000)
    proxy.refuse = True
    call = asyncio.create_task(client.post("/order", json={"id": 1}))
    await until(lambda: client.retries.value("users", "connect") >= 2)
    proxy.refuse = False
    assert (await call).status == 200 and len(callee.calls) == 1  # sent once, whatever was tried


async def test_a_callee_that_restarts(callee: Callee, serving: Any, client_of: Clients) -> None:
    async with serving(callee) as served:
        with FaultProxy(("127.0.0.1", served.port)) as proxy:
            client = client_of(proxy.url, retries=200, backoff=0.01, backoff_most=0.02, retry_minimum=1000)
            assert (await client.get("/")).status == 200
            proxy.target = ("127.0.0.1", 1)
            proxy.reset_all()
            call = asyncio.create_task(client.get("/"))
            await until(lambda: client.retries.value("users", "broken") >= 1)
            async with serving(callee) as again:
                proxy.target = ("127.0.0.1", again.port)
                assert (await call).status == 200
    assert len(callee.calls) == 2


@pytest.mark.parametrize("fault", ["shedding", "reset", "error"])
async def test_an_outage_is_not_multiplied(callee: Callee, proxy: FaultProxy, client_of: Clients, fault: str) -> None:
    """500 calls into an outage: at most the budget, what was saved up, and the minimum a second come on top."""

    async def failing(scope: Any) -> tuple[int, dict[str, str], bytes]:
        if fault == "reset":
            proxy.reset_all()
        return 503, {"x-envoy-overloaded": "true"} if fault == "shedding" else {}, b""

    callee.answer = failing
    client = client_of(proxy.url, backoff=0.001, retry_minimum=0.0)
    for _ in range(500):
        try:
            await client.get("/")
        except CallError:
            assert fault == "reset"
    assert 500 <= len(callee.calls) <= (500 if fault == "shedding" else 500 * 1.2 + 10)
    assert fault == "shedding" or len(callee.calls) > 550  # as much as it may
    assert client.exhausted.value("users") > 0 or fault == "shedding"


async def test_retry_after_is_kept_and_what_lies_beyond_the_deadline_is_not_waited_for(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    after = "1"

    async def shedding(scope: Any) -> tuple[int, dict[str, str], bytes]:
        return 503, {"retry-after": after, "x-envoy-overloaded": "true"}, b""

    callee.answer = shedding
    client = client_of(proxy.url, retries=1)
    started = time.monotonic()
    assert (await client.get("/")).status == 503
    assert time.monotonic() - started >= 1 and len(callee.calls) == 2
    after, started = "60", time.monotonic()
    assert (await client.get("/")).status == 503
    assert time.monotonic() - started < 5 and len(callee.calls) == 3


async def test_the_breaker_opens_probes_and_closes(callee: Callee, proxy: FaultProxy, client_of: Clients) -> None:
    client = client_of(proxy.url, retries=0, breaker=Breaker(failures=3, pause=0.2))
    proxy.refuse = True
    for _ in range(3):
        with pytest.raises(CallError, match="no connection"):
            await client.get("/")
    with pytest.raises(CircuitOpen):
        await client.get("/")
    assert client.state.value("users") == 2 and client.requests.value("users", "GET", "open") == 1
    await asyncio.sleep(0.25)
    with pytest.raises(CallError, match="no connection"):  # the probe fails
        await client.get("/")
    with pytest.raises(CircuitOpen):
        await client.get("/")
    proxy.refuse = False
    await asyncio.sleep(0.5)
    assert (await client.get("/")).status == 200
    assert client.state.value("users") == 0 and client.opened.value("users") == 2 and len(callee.calls) == 1


async def test_a_callee_that_sheds_keeps_its_breaker_closed(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    async def shedding(scope: Any) -> tuple[int, dict[str, str], bytes]:
        return 503, {"x-envoy-overloaded": "true"}, b""

    callee.answer = shedding
    client = client_of(proxy.url, breaker=Breaker(failures=3, volume=5))
    assert {(await client.get("/")).status for _ in range(20)} == {503}
    assert client.state.value("users") == 0 and len(callee.calls) == 20


async def test_the_bulkhead_holds_calls_back_and_refuses_more(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    gate = asyncio.Event()

    async def waiting(scope: Any) -> tuple[int, dict[str, str], bytes]:
        await gate.wait()
        return 200, {}, b""

    callee.answer = waiting
    client = client_of(proxy.url, concurrency=2, waiting=1)
    calls = [asyncio.create_task(client.get("/")) for _ in range(3)]
    await until(lambda: len(callee.calls) == 2)
    with pytest.raises(TooManyCalls, match="2 calls are in flight and 1 wait"):
        await client.get("/")
    calls[2].cancel()
    await asyncio.wait({calls[2]})
    with pytest.raises(DeadlineExceeded, match="no place"):
        await client.get("/", timeout=0.05)
    assert client.rejected.value("users", "full") == client.rejected.value("users", "timeout") == 1
    gate.set()
    assert [reply.status for reply in await asyncio.gather(*calls[:2])] == [200, 200]
    assert client.bulkhead.active == 0 and (await client.get("/")).status == 200


async def test_hedging_answers_before_the_slow_one_and_cancels_it(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    async def slow_once(scope: Any) -> tuple[int, dict[str, str], bytes]:
        if len(callee.calls) == 1:
            await asyncio.sleep(30)
        return 200, {}, b""

    callee.answer = slow_once
    client = client_of(proxy.url, hedge=0.05)
    context = Context(new_trace_id(), new_span_id())
    token = CURRENT.set(context)
    assert (await client.get("/")).status == 200
    CURRENT.reset(token)
    assert client.hedges.value("users", "won") == 1 and len(callee.calls) == 2
    await until(lambda: callee.cancelled == 1)  # the loser's work ends at the callee too
    spans = [
        span for span in tracing.RECORDED if span.context is not None and span.context.trace_id == context.trace_id
    ]
    assert len(spans) == 2 and {span.attributes.get("http.request.resend_count") for span in spans} == {None, 1}
    await client.post("/")
    assert len(callee.calls) == 3  # never hedged


async def test_spans_of_every_attempt_say_what_semantic_conventions_ask(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    answers = [503, 200]

    async def second_time(scope: Any) -> tuple[int, dict[str, str], bytes]:
        return answers.pop(0), {}, b""

    callee.answer = second_time
    client = client_of(proxy.url)
    context = Context(new_trace_id(), new_span_id(), baggage="tenant=7", request_id="r1")
    token = CURRENT.set(context)
    await client.get("/users/42?token=hidden")
    CURRENT.reset(token)
    first, second = [s for s in tracing.RECORDED if s.context is not None and s.context.trace_id == context.trace_id]
    assert (first.name, first.kind, first.error) == ("GET", tracing.CLIENT, "503")
    assert second.attributes == {
        "http.request.method": "GET",
        "http.request.resend_count": 1,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": proxy.port,
        "service.peer.name": "users",
        "url.full": f"{proxy.url}/users/42",
    }
    sent = [headers_of(scope) for scope in callee.calls]
    assert {headers["baggage"] for headers in sent} == {"tenant=7"} and {h["x-request-id"] for h in sent} == {"r1"}
    assert [h["traceparent"].split("-")[2] for h in sent] == [s.context.span_id for s in (first, second) if s.context]


async def test_streamed_bodies_come_in_parts_and_breaks_are_said(
    callee: Callee, proxy: FaultProxy, client_of: Clients
) -> None:
    async def large(scope: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"x-kind": "export"}, b"x" * 300_000

    callee.answer = large
    client = client_of(proxy.url)
    async with client.stream("GET", "/export") as reply:
        assert (reply.status, reply.headers["x-kind"]) == (200, "export")
        parts = [len(part) async for part in reply]
    assert sum(parts) == 300_000 and len(parts) > 1 and client.bulkhead.active == 0
    with pytest.raises(CallError, match="the connection broke"):
        proxy.reset_after(100_000)
        async with client.stream("GET", "/export") as reply:
            await reply.read()
    with pytest.raises(FileNotFoundError):  # what is not ours stays what it is
        async with client.stream("GET", "/export") as reply:
            raise FileNotFoundError
    assert client.bulkhead.active == 0


async def test_retries_go_to_another_instance(callee: Callee, proxy: FaultProxy, pool: Any) -> None:
    from sampan.service.telemetry.metrics import Registry

    class Two:
        reports: list[tuple[str, bool | None]] = []  # noqa: RUF012
        urls = ["http://127.0.0.1:1", proxy.url]  # noqa: RUF012

        def pick(self, tried: Collection[str] = ()) -> str:
            return next(url for url in self.urls if url not in tried)

        def report(self, url: str, ok: bool | None) -> None:
            self.reports.append((url, ok))

    endpoints = Two()
    client = HttpClient("users", "http://unused", pool, Registry(), endpoints=endpoints)
    assert (await client.get("/")).status == 200
    assert endpoints.reports == [("http://127.0.0.1:1", False), (proxy.url, True)]

    with socket.socket() as silent:  # it takes connections, and answers nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoints.urls = [f"http://127.0.0.1:{silent.getsockname()[1]}", proxy.url]
        hedging = HttpClient("users", "http://unused", pool, Registry(), Policy(hedge=0.05), endpoints=endpoints)
        assert (await hedging.get("/")).status == 200
        assert hedging.hedges.value("users", "won") == 1


async def test_the_token_in_hand_is_passed_on_only_where_the_policy_says_so(
    callee: Callee, proxy: FaultProxy, pool: Any
) -> None:
    from sampan.service.telemetry.metrics import Registry

    for forward in (False, True):
        client = HttpClient(
            "users", proxy.url, pool, Registry(), Policy(forward_token=forward), token=lambda: "Bearer abc"
        )
        await client.get("/")
        assert ("authorization" in headers_of(callee.calls[-1])) is forward
