"""`sampan run NAME`: one function, with its handles bound, to its end."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import sys
import time
from typing import Any

from sampan.model import Job
from sampan.service.bindings import BindingError
from sampan.service.main import run
from sampan.service.process import Process, StartError, load_application, load_string, named
from sampan.service.telemetry.context import CURRENT, from_headers

log = logging.getLogger("sampan.job")


def run_job(name: str) -> int:
    """0 when the function returned, 1 when it raised, 2 when it could not start, 143 when it was told to stop."""
    try:
        application = load_application()
        job: Job = named(application.jobs, name, "job")
        process = Process(job)
        process.bind(application.services)
        function = load_string(job.run, f"run of job {name!r},")
    except (StartError, BindingError) as error:
        print(f"sampan run {name}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 2
    return run(_main(process, name, function))


async def _main(process: Process, name: str, function: Any) -> int:
    CURRENT.set(from_headers({}))
    started, code = time.perf_counter(), 0
    task: asyncio.Future[Any] = asyncio.ensure_future(_call(process, function))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
        log.info("job done", extra={"job": name, "seconds": round(time.perf_counter() - started, 3)})
    except asyncio.CancelledError:
        log.warning("job told to stop", extra={"job": name})
        code = 143
    except Exception as error:
        log.error("job failed: %s", error, exc_info=error, extra={"job": name})
        code = 1
    await process.stop()
    return code


async def _call(process: Process, function: Any) -> None:
    await process.start()
    if inspect.iscoroutinefunction(function):
        await function()
    else:
        result = await asyncio.to_thread(function)
        if inspect.isawaitable(result):
            await result
