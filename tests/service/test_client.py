"""Calls to another service: what is repeated, what is not, deadline, breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from msgspec import Struct

from sampan.model import Breaker, Policy
from sampan.service.http.client import HttpClient
from sampan.service.http.pool import Pool
from sampan.service.http.reply import CallError, CircuitOpen, DeadlineExceeded
from sampan.service.telemetry.context import CURRENT, from_headers
from sampan.service.telemetry.metrics import Registry


class User(Struct):
    id: int


class Callee:
    """A service that answers with the statuses it is told to, one after the other, then 200."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.seen: list[Request] = []
        self.bodies: list[bytes] = []
        self.app = FastAPI()
        self.app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])(self.answer)

    async def answer(self, request: Request) -> Response:
        self.seen.append(request)
        self.bodies.append(await request.body())
        if "slow" in request.url.path:
            await asyncio.sleep(1)
        return Response(b'{"id":42}', self.statuses.pop(0) if self.statuses else 200)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    await pool.close()


async def test_reply_and_context(serving: Any, pool: Pool) -> None:
    callee = Callee()
    async with serving(callee.app) as served:
        client = HttpClient("users", served.url, pool, Registry())
        context = from_headers({"x-request-id": "r9", "x-request-timeout-ms": "3000"})
        context.fresh = False  # a span bears it, as in a request being served
        token = CURRENT.set(context)
        reply = await client.post("/users", json=User(1), params={"a": 1}, headers={"x-mine": "1"})
        CURRENT.reset(token)
        assert (reply.status, reply.json(), reply.decode(User)) == (200, {"id": 42}, User(42))
        sent = callee.seen[0].headers
        assert callee.bodies == [b'{"id":1}'] and sent["content-type"] == "application/json"
        assert sent["traceparent"].split("-")[1] == context.trace_id and sent["x-request-id"] == "r9"
        assert sent["traceparent"].split("-")[2] != context.span_id
        assert 2000 < int(sent["x-request-timeout-ms"]) <= 3000 and sent["x-mine"] == "1"


@pytest.mark.parametrize(
    ("method", "options", "statuses", "answer", "calls"),
    [
        ("GET", {}, [503, 502], 200, 3),
        ("PUT", {}, [504], 200, 2),
        ("GET", {}, [500], 500, 1),
        ("GET", {}, [404], 404, 1),
        ("GET", {}, [503] * 9, 503, 4),
        ("POST", {}, [503], 503, 1),
        ("POST", {"idempotency_key": "k1"}, [503], 200, 2),
        ("PATCH", {}, [502], 502, 1),
    ],
)
async def test_only_what_is_safe_is_repeated(
    serving: Any, pool: Pool, method: str, options: dict[str, Any], statuses: list[int], answer: int, calls: int
) -> None:
    callee = Callee()
    callee.statuses = statuses
    async with serving(callee.app) as served:
        client = HttpClient("users", served.url, pool, Registry())
        reply = await client.request(method, "/x", **options)
        assert (reply.status, len(callee.seen)) == (answer, calls)
        assert {request.headers.get("idempotency-key") for request in callee.seen} == {options.get("idempotency_key")}


async def test_deadlines(serving: Any, pool: Pool) -> None:
    callee = Callee()
    async with serving(callee.app) as served:
        client = HttpClient("users", served.url, pool, Registry())
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.get("/slow", timeout=0.1)
        token = CURRENT.set(from_headers({"x-request-timeout-ms": "100"}))
        with pytest.raises(TimeoutError):
            await client.get("/slow", timeout=20)
        await asyncio.sleep(0.05)
        with pytest.raises(DeadlineExceeded, match="no time left"):
            await client.get("/quick")
        CURRENT.reset(token)
        assert time.monotonic() - begun < 1.8  # two answers waited for would take longer
        assert len(callee.seen) == 2


async def test_no_connection_is_tried_again_then_said(pool: Pool) -> None:
    registry = Registry()
    client = HttpClient(
        "users", "http://127.0.0.1:1", pool, registry, Policy(breaker=Breaker(failures=100, volume=100))
    )
    with pytest.raises(CallError, match="'users' failed: no connection"):
        await client.post("/x")  # nothing was sent, so this may be repeated
    assert client.retries.value("users", "connect") == 3


async def test_the_breaker_opens_and_closes_again(serving: Any, pool: Pool) -> None:
    callee = Callee()
    callee.statuses = [503] * 3
    async with serving(callee.app) as served:
        client = HttpClient("users", served.url, pool, Registry(), Policy(breaker=Breaker(failures=3, pause=0.1)))
        for _ in range(3):
            assert (await client.post("/x")).status == 503
        with pytest.raises(CircuitOpen):
            await client.post("/x")
        assert len(callee.seen) == 3 and client.state.value("users") == 2
        await asyncio.sleep(0.15)
        assert (await client.post("/x")).status == 200
        assert client.state.value("users") == 0
