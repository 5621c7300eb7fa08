"""Three services in a row, A -> B -> C, over real connections: nobody works for a caller that is no longer there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from sampan.service.http.client import HttpClient
from sampan.service.http.pool import Pool
from sampan.service.telemetry.metrics import Registry
from tests.service.resilience.test_call_faults import until


class Last:
    """C: works in steps until it is told to stop."""

    def __init__(self) -> None:
        self.steps = self.cancelled = 0
        self.deadlines: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError
        self.deadlines += [value.decode() for name, value in scope["headers"] if name == b"x-request-timeout-ms"]
        try:
            while True:
                self.steps += 1
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Passing:
    """A and B: pass the call on."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError
        reply = await self.client.get("/work")
        await send({"type": "http.response.start", "status": reply.status, "headers": []})
        await send({"type": "http.response.body", "body": reply.body})


class Chain:
    def __init__(self, url: str, last: Last, clients: list[HttpClient], session: aiohttp.ClientSession) -> None:
        self.url, self.last, self.clients, self.session = url, last, clients, session

    async def call(self, milliseconds: int) -> int:
        async with self.session.get(self.url, headers={"x-request-timeout-ms": str(milliseconds)}) as response:
            return response.status


@pytest.fixture
async def chain(serving: Any, pool: Pool) -> AsyncIterator[Chain]:
    last, clients = Last(), list[HttpClient]()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        served = await stack.enter_async_context(serving(last))
        for name in ("c", "b"):
            clients.append(HttpClient(name, served.url, pool, Registry()))
            served = await stack.enter_async_context(serving(Passing(clients[-1])))
        yield Chain(served.url, last, clients, session)


async def test_c_stops_when_the_time_of_as_caller_is_over(chain: Chain) -> None:
    assert await chain.call(400) == 504
    await until(lambda: chain.last.cancelled == 1)
    steps = chain.last.steps
    await asyncio.sleep(0.1)
    assert chain.last.steps == steps and len(chain.last.deadlines) == 1
    assert 0 < int(chain.last.deadlines[0]) <= 400
    assert all(client.bulkhead.active == 0 for client in chain.clients)


async def test_c_stops_when_as_caller_goes_away(chain: Chain) -> None:
    call = asyncio.create_task(chain.call(60_000))
    await until(lambda: chain.last.steps > 2)
    call.cancel()
    await until(lambda: chain.last.cancelled == 1)
    assert all(client.bulkhead.active == 0 for client in chain.clients)
    assert all(client.state.value(client.name) == 0 for client in chain.clients)


async def test_a_caller_that_set_no_deadline_may_leave_and_the_work_goes_on(serving: Any) -> None:
    last = Last()
    async with serving(last) as served, aiohttp.ClientSession() as session:
        call = asyncio.create_task(session.get(served.url))
        await until(lambda: last.steps > 2)
        call.cancel()
        await asyncio.wait({call})
        steps = last.steps
        await until(lambda: last.steps > steps + 5)
        assert last.cancelled == 0
        for task in asyncio.all_tasks():  # the only one that is still at work
            if "run_asgi" in repr(task.get_coro()):
                task.cancel()
        await until(lambda: last.cancelled == 1)
