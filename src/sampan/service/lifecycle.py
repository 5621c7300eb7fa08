"""What a process starts and stops, in stages: the one place that knows the order.

Start: resources, background, servers, consumers. Stop: servers (no new work, requests in flight finish), consumers
(the work in hand finishes), background (outboxes are emptied, registrations end), resources (pools close).
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Final, Protocol

log = logging.getLogger("sampan")


class Stage(Enum):
    RESOURCES = "resources"
    BACKGROUND = "background"
    SERVERS = "servers"
    CONSUMERS = "consumers"


START: Final = (Stage.RESOURCES, Stage.BACKGROUND, Stage.SERVERS, Stage.CONSUMERS)
STOP: Final = (Stage.SERVERS, Stage.CONSUMERS, Stage.BACKGROUND, Stage.RESOURCES)
_STOP_SECONDS: Final = {Stage.SERVERS: 22.0, Stage.CONSUMERS: 16.0, Stage.BACKGROUND: 6.0, Stage.RESOURCES: 3.0}


class Component(Protocol):
    """`start` returns when the component works, or has begun to try in the background; `stop` when it has let go."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Lifecycle:
    def __init__(self) -> None:
        self._added: dict[Stage, list[tuple[str, Component]]] = {stage: [] for stage in Stage}
        self._started: dict[Stage, list[tuple[str, Component]]] = {stage: [] for stage in Stage}

    def add(self, stage: Stage, name: str, component: Component) -> None:
        self._added[stage].append((name, component))

    async def start(self, *stages: Stage) -> None:
        """Start what was added to `stages` (all), in their order. Raises what a component raises; stop() then."""
        for stage in START:
            if stages and stage not in stages:
                continue
            for name, component in self._added[stage]:
                if (name, component) not in self._started[stage]:
                    self._started[stage].append((name, component))
                    await component.start()

    async def stop(self) -> None:
        """Stop what was started: a stage at a time, within it all at once, save resources, last opened first."""
        for stage in STOP:
            started, self._started[stage] = self._started[stage], []
            if stage is Stage.RESOURCES:
                for name, component in reversed(started):
                    await self._stop(stage, name, component)
            else:
                await asyncio.gather(*(self._stop(stage, name, component) for name, component in started))

    async def _stop(self, stage: Stage, name: str, component: Component) -> None:
        try:
            async with asyncio.timeout(_STOP_SECONDS[stage]):
                await component.stop()
        except TimeoutError:
            log.warning("stopping %s took more than %g s", name, _STOP_SECONDS[stage])
        except Exception as error:
            log.warning("stopping %s: %s", name, error, exc_info=error)
