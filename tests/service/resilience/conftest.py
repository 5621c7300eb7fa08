"""A callee that can be told what to answer, and clients of it, directly or through a proxy that makes faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sampan.model import Breaker, Policy
from sampan.service.http.client import HttpClient
from sampan.service.http.pool import Pool
from sampan.service.telemetry.metrics import Registry
from tests.faults import FaultProxy

PATIENT = Breaker(failures=10_000, volume=10_000)  # for tests of something else


class Callee:
    """`answer(scope)` -> (status, headers, body), awaited; replaceable. `calls` are the scopes seen."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cancelled = 0
        self.answer: Callable[[Any], Any] = self.fine

    async def fine(self, scope: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b'{"id":42}'

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError
        self.calls.append(scope)
        while (await receive()).get("more_body"):
            pass
        try:
            status, headers, body = await self.answer(scope)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


def headers_of(scope: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in scope["headers"]}


@pytest.fixture
def callee() -> Callee:
    return Callee()


@pytest.fixture
async def proxy(callee: Callee, serving: Any) -> AsyncIterator[FaultProxy]:
    """In front of the callee."""
    async with serving(callee) as served:
        with FaultProxy(("127.0.0.1", served.port)) as proxy:
            yield proxy


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    await pool.close()


@pytest.fixture
def client_of(pool: Pool) -> Iterator[Callable[..., HttpClient]]:
    """`client_of(url, retries=0, ...)`: a client under the policy of these fields, with a registry of its own."""

    def make(url: str, **fields: Any) -> HttpClient:
        fields.setdefault("breaker", PATIENT)
        return HttpClient("users", url, pool, Registry(), Policy(**fields))

    yield make
