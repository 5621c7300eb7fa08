"""What a process starts and stops, in stages: the one place that knows the order and the times.

Start: telemetry, resources, background, servers, consumers, registration; everything in a stage at the same time.
Stop: registration (nobody is sent here any more), servers (no new work, requests in flight finish), consumers (the
work in hand finishes), background (outboxes are emptied), resources (pools close), telemetry (what is left is sent).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

log = logging.getLogger("sampan")

F = TypeVar("F", bound=Callable[[], Any])


class Stage(Enum):
    TELEMETRY = "telemetry"
    RESOURCES = "resources"
    BACKGROUND = "background"
    SERVERS = "servers"
    CONSUMERS = "consumers"
    REGISTRATION = "registration"


START: Final = (
    Stage.TELEMETRY,
    Stage.RESOURCES,
    Stage.BACKGROUND,
    Stage.SERVERS,
    Stage.CONSUMERS,
    Stage.REGISTRATION,
)
STOP: Final = (
    Stage.REGISTRATION,
    Stage.SERVERS,
    Stage.CONSUMERS,
    Stage.BACKGROUND,
    Stage.RESOURCES,
    Stage.TELEMETRY,
)
STOP_SECONDS: Final = 27.0  # for all stages; what a pod has is 30
# Each stage may use what those before it left over, less what is kept for those behind it.
KEPT_SECONDS: Final = {
    Stage.REGISTRATION: 1.0,
    Stage.SERVERS: 12.0,
    Stage.CONSUMERS: 3.5,
    Stage.BACKGROUND: 2.0,
    Stage.RESOURCES: 1.0,
    Stage.TELEMETRY: 1.5,
}
START_SECONDS: Final = 60.0  # a component that has not started by then never will
_MOST_SECONDS: Final = {Stage.REGISTRATION: 2.0, Stage.BACKGROUND: 6.0, Stage.RESOURCES: 4.0, Stage.TELEMETRY: 4.0}
_LETTING_GO: Final = 0.2


class Component(Protocol):
    """`start` returns when the component works, or has begun to try in the background; `stop` when it has let go."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class StartFailure(Exception):
    """A component did not start. The message names it and says why."""


class Lifecycle:
    def __init__(self) -> None:
        self._added: dict[Stage, list[tuple[str, Component]]] = {stage: [] for stage in Stage}
        self._started: dict[Stage, list[tuple[str, Component]]] = {stage: [] for stage in Stage}

    def add(self, stage: Stage, name: str, component: Component) -> None:
        self._added[stage].append((name, component))

    async def start(self, *stages: Stage) -> None:
        """Start what was added to `stages` (all), in their order. StartFailure of the first that fails; stop() then."""
        for stage in START:
            if stages and stage not in stages:
                continue
            new = [one for one in self._added[stage] if one not in self._started[stage]]
            self._started[stage] += new
            starting = [asyncio.create_task(_start(name, part), name=f"start {name}") for name, part in new]
            try:
                await asyncio.gather(*starting)
            except BaseException:
                for task in starting:
                    task.cancel()
                await asyncio.wait(starting, timeout=_LETTING_GO)
                raise

    async def stop(self, *stages: Stage, deadline: float | None = None) -> None:
        """Stop what was started in `stages` (all), stage by stage, by `deadline` (of time.monotonic()). Never raises.

        What takes longer than its share is cancelled and left behind, so that the rest has its turn.
        """
        deadline = time.monotonic() + STOP_SECONDS if deadline is None else deadline
        for position, stage in enumerate(STOP):
            if stages and stage not in stages:
                continue
            started, self._started[stage] = self._started[stage], []
            left = deadline - time.monotonic() - sum(KEPT_SECONDS[later] for later in STOP[position + 1 :])
            limit = max(KEPT_SECONDS[stage] / 4, min(left, _MOST_SECONDS.get(stage, STOP_SECONDS)))
            await asyncio.gather(*(_stop(name, component, limit) for name, component in reversed(started)))


async def _start(name: str, component: Component) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            await component.start()
    except TimeoutError as error:
        raise StartFailure(f"{name}: not started within {START_SECONDS:g} s") from error
    except Exception as error:
        raise StartFailure(f"{name}: {error or type(error).__name__}") from error


async def _stop(name: str, component: Component, limit: float) -> None:
    stopping = asyncio.ensure_future(component.stop())
    await asyncio.wait({stopping}, timeout=limit)
    if not stopping.done():
        log.warning("stopping %s took more than %.1f s; it is left behind", name, limit)
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=_LETTING_GO)  # one that will not be cancelled is not waited for
    elif not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.warning("stopping %s: %s", name, error, exc_info=error)


class UserCheck:
    """A readiness check of the user's: a function, asynchronous or not. Failure is an exception or False."""

    def __init__(self, name: str, function: Callable[[], Any], required: bool, timeout: float) -> None:
        self.name, self.function, self.needed, self.timeout = name, function, required, timeout

    def required(self) -> bool:
        return self.needed

    async def probe(self) -> None:
        if asyncio.iscoroutinefunction(self.function):
            result = await self.function()
        else:
            result = await asyncio.to_thread(self.function)
            if isinstance(result, Awaitable):
                result = await result
        if result is False:
            raise RuntimeError("the check says no")


USER_CHECKS: Final[dict[str, UserCheck]] = {}


def readiness_check(name: str, *, required: bool = True, timeout: float = 1.5) -> Callable[[F], F]:
    """Have readiness ask the decorated function, asynchronous or not: it raises, or returns False, when it fails.

    A failing `required` check makes the service not ready, another one degraded. `timeout` is in seconds.
    """

    def register(function: F) -> F:
        USER_CHECKS[name] = UserCheck(name, function, required, timeout)
        return function

    return register
