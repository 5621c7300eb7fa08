"""`sampan serve NAME`: the life of one service process.

Start: bind, load the application, connect in the background, listen, then consume. Stop, on SIGTERM or SIGINT:
not ready; go on accepting for SAMPAN_DRAIN_SECONDS (0.5) while the news travels, asking clients to close; stop
accepting; finish requests in flight; finish the events in hand; empty the outbox; close; exit 0. At most 30 s. A
second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import Any, Final

from sampan.model import Application, Service
from sampan.service.bindings import BindingError
from sampan.service.http import endpoints
from sampan.service.http.middleware import Middleware
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, StartError, load_application, load_string, named

log = logging.getLogger("sampan")

_BUDGET_SECONDS: Final = 28.0  # the rest of the 30 s is for the interpreter to end
_USAGE = 2


def serve(name: str) -> int:
    """Run the service `name` of SAMPAN_APP until told to stop. 0 after a graceful stop, 2 when it cannot start."""
    started = time.perf_counter()
    try:
        application = load_application()
        service: Service = named(application.services, name, "service")
        process = Process(service)
        process.bind(application.services)
        runner = Runner(process, service, application)
    except (StartError, BindingError) as error:
        print(f"sampan serve {name}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return _USAGE
    return run(runner.main(started))


def run(main: Any) -> int:
    """Run a coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return int(asyncio.run(main))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(main))


def drain_seconds() -> float:
    try:
        return max(0.0, float(os.environ.get("SAMPAN_DRAIN_SECONDS", "0.5")))
    except ValueError:
        return 0.5


class Runner:
    def __init__(self, process: Process, service: Service, application: Application) -> None:
        from sampan.service.http.server import Server

        self.process, self.service = process, service
        app: Any = load_string(service.asgi, f"asgi of service {service.name!r},") if service.asgi else None
        if service.asgi and not callable(app):
            raise StartError(f"asgi of service {service.name!r}: {service.asgi} is not an ASGI application")
        if any(grant.access == "subscribe" for grant in service.grants):
            load_string("sampan.service.messaging.binding:bind_consumers", "binder")(process)
        self.readiness = endpoints.Readiness(process.checks)
        self.middleware = Middleware(app or endpoints.nothing, process.registry, process.output, process.identity)
        ours = endpoints.endpoints(self.readiness, process.registry, self.middleware.exposed, process.redactor.clean)
        self.middleware.endpoints = {
            path: handler for path, handler in ours.items() if app is None or not endpoints.answered_by(app, path)
        }
        self.port = int(os.environ.get("PORT") or service.port)
        self.server = Server(self.middleware, os.environ.get("SAMPAN_POD_IP") or "0.0.0.0", self.port)  # noqa: S104  # a pod's address is its own
        process.add(Stage.SERVERS, "http", self.server)

    async def main(self, started: float) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, stop)
        process = self.process
        try:
            await process.start(Stage.RESOURCES, Stage.BACKGROUND, Stage.SERVERS)
            await process.start(Stage.CONSUMERS)
        except (RuntimeError, OSError) as error:
            log.critical("cannot start: %s", error)
            await process.stop()
            return 1
        self.readiness.started = True
        log.info(
            "serving",
            extra={"port": self.port, "start_seconds": round(time.perf_counter() - started, 3), "pid": os.getpid()},
        )
        # the heap as it is now stays; collections look at what requests leave behind, and less often
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        await self._until(stop)
        asked = stop.is_set()
        if not asked:
            log.critical("the HTTP server ended by itself")
        await self._stop()
        return 0 if asked else 1

    async def _until(self, stop: asyncio.Event) -> None:
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait({waiting, self.server.ended()}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    def _signalled(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            log.warning("second signal: ending at once")
            os._exit(1)
        stop.set()

    async def _stop(self) -> None:
        begun = time.monotonic()
        # a stop that takes longer than its budget ends here, whatever hangs
        guard = threading.Timer(_BUDGET_SECONDS, _overdue)
        guard.daemon = True
        guard.start()
        log.info("stopping", extra={"in_flight": self.middleware.in_flight})
        self.readiness.draining = self.middleware.draining = True
        await asyncio.sleep(drain_seconds())
        await self.process.stop()
        self.middleware.flush()
        guard.cancel()
        log.info("stopped", extra={"seconds": round(time.monotonic() - begun, 3)})


def _overdue() -> None:
    log.critical("not stopped within %g s: ending", _BUDGET_SECONDS)
    os._exit(1)
