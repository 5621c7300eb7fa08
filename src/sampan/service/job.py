"""`sampan run NAME`: one function, with its handles bound, to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from types import FrameType
from typing import Any, Final

from sampan.imports import uncollected
from sampan.model import Job
from sampan.service.bindings import BindingError
from sampan.service.lifecycle import STOP_SECONDS, StartFailure
from sampan.service.main import run
from sampan.service.process import Process, StartError, cannot_start, completed, load_application, load_string, named
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, from_headers
from sampan.service.watchdog import Watchdog

log = logging.getLogger("sampan.job")

TOLD: Final = 128 + signal.SIGTERM


def run_job(name: str) -> int:
    """0 when the function returned, 1 when it raised, 2 when it could not start, 143 when it was told to stop.

    Told to stop (SIGTERM, SIGINT), the function is cancelled, pools close and telemetry is sent, within 28 s in all.
    """
    try:
        with uncollected():
            application = load_application()
            job: Job = named(application.jobs, name, "job")
            process = Process(job)
            process.bind(application.services)
            function = load_string(job.run, f"run of job {name!r},")
    except (StartError, BindingError) as error:
        return cannot_start(f"run {name}", error)
    return run(_Run(process, job, function).main())


class _Run:
    def __init__(self, process: Process, job: Job, function: Any) -> None:
        self.process, self.name, self.reference, self.function = process, job.name, job.run, function
        self.watchdog = Watchdog(process.registry)
        self.task: asyncio.Task[None] | None = None
        self.signalled = False

    async def main(self) -> int:
        CURRENT.set(from_headers({}))
        started, code = time.perf_counter(), 0
        self.loop = asyncio.get_running_loop()
        self.watchdog.start()
        self.task = asyncio.create_task(self._work(), name=f"job {self.name}")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        try:
            await self.task
            log.info("job done", extra={"job": self.name, "seconds": round(time.perf_counter() - started, 3)})
        except asyncio.CancelledError:
            log.warning("job told to stop", extra={"job": self.name})
            code = TOLD
        except StartFailure as error:
            log.error("job cannot start: %s", error, extra={"job": self.name})
            code = 1
        except Exception as error:
            log.error("job failed: %s", error, exc_info=error, extra={"job": self.name})
            code = 1
        await self.process.stop()
        self.watchdog.leave(code)
        return code

    async def _work(self) -> None:
        await self.process.start()
        with tracing.span(f"job {self.name}", tracing.INTERNAL, {"code.function.name": self.reference}):
            await completed(self.function)

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        if self.signalled:
            os.write(2, b"sampan: second signal: ending at once\n")
            os._exit(1)
        self.signalled = True
        self.watchdog.end_by(time.monotonic() + STOP_SECONDS + 1, TOLD)
        assert self.task is not None
        self.loop.call_soon_threadsafe(self.task.cancel)
