"""What a service runs beside its requests: functions for its whole life, periodic ones, and operators.

    Service("orders", background=["shop.orders:sweeper", Every(60, "shop.orders:expire"), "shop.operator:manager"])

They start when the servers listen and stop with the consumers. Nothing here ends the process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from abc import ABC, abstractmethod
from typing import Any, Final

from sampan.model import Every
from sampan.service.http.readiness import Check, Degraded
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, StartError, completed, load_string
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, from_headers

log = logging.getLogger("sampan.background")

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
_STEADY_SECONDS: Final = 120.0  # one that ran this long before it raised starts with the first wait again


def bind_background(process: Process, declared: list[str | Every]) -> None:
    """Import what is declared and have it run. StartError when it is none of the three kinds."""
    for one in declared:
        text = one.run if isinstance(one, Every) else one
        found = load_string(text, f"background of service {process.workload.name!r},")
        if isinstance(one, Every):
            if not callable(found):
                raise StartError(f"background {text!r}: not a function")
            task: Task = Periodic(text, found, one, process)
        elif inspect.iscoroutinefunction(found):
            task = Endless(text, found, process)
        elif all(inspect.iscoroutinefunction(getattr(found, name, None)) for name in ("start", "stop")):
            process.add(Stage.CONSUMERS, f"background {text}", found)
            continue
        else:
            raise StartError(
                f"background {text!r}: neither an async function nor an object with async start() and stop(); "
                f'a plain function can run periodically: Every(60, "{text}")'
            )
        process.add(Stage.CONSUMERS, task.name, task)
        process.checks.append(Check(task.name, task.check, lambda: False))


class Task(ABC):
    """One function as a component. While its latest run failed, readiness says so as degraded."""

    def __init__(self, text: str, function: Any, process: Process) -> None:
        self.name, self.text, self.function = f"background {text}", text, function
        self.runs = process.registry.counter(
            "background_runs_total", "Ended runs of background functions.", ("function", "outcome")
        )
        self.seconds = process.registry.histogram(
            "background_run_duration_seconds", "Time of runs of background functions.", ("function",)
        )
        self.failure = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._live(), name=self.name)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def check(self) -> None:
        if self.failure:
            raise Degraded(self.failure)

    @abstractmethod
    async def _live(self) -> None:
        """Run, and run again, as the kind asks."""

    async def _once(self) -> bool:
        """Run to the end, as the root of a trace. Whether that went well."""
        CURRENT.set(from_headers({}))
        begun, outcome = time.perf_counter(), "cancelled"
        try:
            with tracing.span(f"run {self.text}", tracing.INTERNAL, {"code.function.name": self.text}):
                await completed(self.function)
            outcome, self.failure = "ok", ""
        except Exception as error:
            outcome = "failed"
            self.failure = f"{type(error).__name__}: {error}"
            log.error("%s failed: %s", self.name, error, exc_info=error)
        finally:
            self.runs.add(self.text, outcome)
            self.seconds.observe(time.perf_counter() - begun, self.text)
        return outcome == "ok"


class Endless(Task):
    """Runs for the life of the process: again, after growing waits, when it raised; never again when it returned."""

    async def _live(self) -> None:
        failures = 0
        while True:
            begun = time.monotonic()
            if await self._once():
                log.info("%s returned", self.name)
                return
            failures = 0 if time.monotonic() - begun > _STEADY_SECONDS else failures + 1
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)
            self.failure += f"; runs again within {wait:.0f} s" if wait >= 1 else ""
            await asyncio.sleep(wait)


class Periodic(Task):
    """Runs at its times, never twice at once: times that pass during a run are left out."""

    def __init__(self, text: str, function: Any, every: Every, process: Process) -> None:
        super().__init__(text, function, process)
        self.every = every

    async def _live(self) -> None:
        loop, spread = asyncio.get_running_loop(), self.every.jitter * self.every.seconds
        due = loop.time()
        while True:
            await asyncio.sleep(max(0.0, due + random.uniform(0.0, spread) - loop.time()))
            await self._once()
            missed = max(0.0, (loop.time() - due) // self.every.seconds)
            due += (missed + 1) * self.every.seconds
