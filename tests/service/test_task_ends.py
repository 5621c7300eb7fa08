"""What stops although the library under it swallows the cancellation of its task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from sampan.service import tasks
from sampan.service.configuration.live import LiveConfig
from sampan.service.data import pool
from sampan.service.discovery.balancer import Balancer
from sampan.service.discovery.binding import Follower
from sampan.service.resilience.hedge import first_good
from sampan.service.security.keys import Keys
from sampan.service.telemetry.metrics import Registry


class Library:
    """A client of every kind, deaf to the first cancellation of whoever waits for it."""

    place = "here"

    def __init__(self) -> None:
        self.busy = asyncio.Event()
        self.cancelled = 0

    async def answer(self, *_: object) -> None:
        self.busy.set()
        while self.cancelled < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
        raise asyncio.CancelledError

    async def watch(self, *_: object) -> AsyncIterator[Any]:
        await self.answer()
        yield

    async def close(self, *_: object) -> None: ...


async def follower(library: Library) -> Callable[[], Awaitable[None]]:
    following = Follower(library, Balancer("users"))  # type: ignore[arg-type]
    starting = asyncio.create_task(following.start())
    await library.busy.wait()
    await tasks.end(starting)
    return following.stop


async def settings(library: Library) -> Callable[[], Awaitable[None]]:
    live = LiveConfig("shop", msgspec.Struct, {}, library, Registry())  # type: ignore[arg-type]
    await live.start()
    return live.stop


async def keys(library: Library) -> Callable[[], Awaitable[None]]:
    found = Keys("https://issuer", "https://issuer/keys", library, lambda: None)  # type: ignore[arg-type]
    found.refresh = library.answer  # type: ignore[method-assign]
    found._begin(0.0)
    return found.close


async def connections(library: Library) -> Callable[[], Awaitable[None]]:
    library.close = library.answer  # type: ignore[method-assign]
    made = pool.ConnectionPool(library, None, "shop", Registry())  # type: ignore[arg-type]
    made.discard(pool.Slot(None))
    return made.close


async def hedged(library: Library) -> Callable[[], Awaitable[None]]:
    async def start(number: int) -> int | None:
        if not number:
            await library.answer()
        return number

    async def work() -> None:
        assert await first_good(start, 0.01, 1, lambda _: True, lambda _: None) == 1

    return work


@pytest.mark.parametrize("made", [follower, settings, keys, connections, hedged])
async def test_it_stops(
    made: Callable[[Library], Awaitable[Callable[[], Awaitable[None]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(pool, "_REPAIR_SECONDS", 0.05)
    library = Library()
    stop = await made(library)
    stopping = asyncio.ensure_future(stop())
    await library.busy.wait()
    done, _ = await asyncio.wait({stopping}, timeout=30)
    assert done and library.cancelled == 2
    await stopping
