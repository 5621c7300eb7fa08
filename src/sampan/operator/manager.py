"""Runs controllers over one shared cache, in order: informers, first lists, workers; and the other way round to
stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sampan.kube.client import Client
from sampan.kube.objects import Object
from sampan.operator.cache import Cache
from sampan.operator.controller import Controller
from sampan.operator.events import Recorder


class Manager:
    """Add controllers, then `start`. No controller reconciles before every informer holds its first list.
    Each records its events under its `component`. `trim` is the cache's."""

    def __init__(self, client: Client, trim: Callable[[Object], Object] | None = None) -> None:
        self.cache = Cache(client, trim)
        self.controllers: list[Controller] = []
        self._recorders: list[Recorder] = []
        self._started = False

    def add(self, controller: Controller) -> Self:
        """Raises RuntimeError once started: a late controller would miss the order of starting."""
        if self._started:
            raise RuntimeError(f"add {controller.name} before the manager starts")
        recorder = Recorder(self.cache.client, controller.component or f"{controller.name}-controller")
        self._recorders.append(recorder)
        controller.bind(self.cache, recorder)
        self.controllers.append(controller)
        return self

    async def start(self, timeout: float | None = 60.0) -> None:
        """Raises TimeoutError when a first list does not arrive; what was started is stopped again."""
        try:
            await self.cache.start(timeout)
        except BaseException:
            await self.cache.stop()
            raise
        for controller in self.controllers:
            controller.start()
        self._started = True

    async def stop(self, grace: float = 5.0) -> None:
        """Workers finish what they hold, then events are written, then informers end."""
        self._started = False
        await asyncio.gather(*(controller.stop(grace) for controller in self.controllers))
        await asyncio.gather(*(recorder.flush() for recorder in self._recorders))
        await self.cache.stop()

    async def settle(self, timeout: float = 10.0, quiet: float = 0.02) -> None:
        """Wait until no controller has had anything to do for `quiet` seconds. For tests. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                before = self._work()
                await asyncio.sleep(quiet)
                if self._work() == before and all(c.queue.idle for c in self.controllers):
                    return

    def _work(self) -> int:
        return sum(controller.counters.reconciles for controller in self.controllers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()
