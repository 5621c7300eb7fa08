"""What the suites of the cache port share: replicas, each as one process has it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from sampan.model import Local
from sampan.service.bindings import Binding
from sampan.service.cache.cache import TwoLevelCache
from sampan.service.cache.invalidation import Invalidations
from sampan.service.telemetry.metrics import Registry


class Replica:
    """One process's cache."""

    def __init__(self, uri: str, local: Local | None = None, **values: str) -> None:
        self.registry = Registry()
        binding = Binding("cache-test", uri.partition(":")[0], uri, values)
        self.cache = TwoLevelCache("test", binding, self.registry, local)
        self.news = None if self.cache.local is None else Invalidations(self.cache.level, self.cache.local, "test:")

    async def start(self) -> Replica:
        if self.news is not None:
            await self.news.start()
            await until(lambda: self.cache.local is not None and self.cache.local.open)
        return self

    async def stop(self) -> None:
        if self.news is not None:
            await self.news.stop()
        await self.cache.close()

    def loads(self, outcome: str) -> float:
        return self.cache.loads.value("test", outcome)

    def count(self, level: str, operation: str, outcome: str) -> float:
        return self.cache.requests.value("test", level, operation, outcome)


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def replicas(number: int, uri: str, local: Local | None = None) -> AsyncIterator[list[Replica]]:
    started = [await Replica(uri, local).start() for _ in range(number)]
    try:
        yield started
    finally:
        for replica in started:
            await replica.stop()
