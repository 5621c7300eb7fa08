"""`sampan serve NAME`: the life of one service process.

Start: bind, load the application, connect in the background, listen, consume, register. Stop, on SIGTERM or SIGINT:
not ready, withdrawn from the registry; go on accepting for SAMPAN_DRAIN_SECONDS (0.5) while the news travels, asking
clients to close; stop accepting; finish requests in flight; finish the events in hand; empty the outbox; close; send
the last telemetry; exit 0. At most 30 s. A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from types import FrameType
from typing import Any, Final

from sampan.imports import uncollected
from sampan.model import Application, Service
from sampan.service.bindings import BindingError
from sampan.service.http import endpoints
from sampan.service.http.fastapi import relieve
from sampan.service.http.middleware import Middleware
from sampan.service.http.order import documentation_last
from sampan.service.lifecycle import STOP_SECONDS, Stage, StartFailure, readiness_check
from sampan.service.process import Process, StartError, cannot_start, load_application, load_string, named
from sampan.service.resilience.guards import guards
from sampan.service.telemetry.binding import attach
from sampan.service.watchdog import Watchdog

log = logging.getLogger("sampan")

_BUDGET_SECONDS: Final = 28.0  # the rest of the 30 s is for the interpreter to end
_MOST_DRAIN: Final = 20.0


def serve(name: str) -> int:
    """Run the service `name` of SAMPAN_APP until told to stop. 0 after a graceful stop, 2 when it cannot start."""
    started = time.perf_counter()
    relieve()
    try:
        with uncollected():
            application = load_application()
            service: Service = named(application.services, name, "service")
            process = Process(service)
            process.bind(application.services)
            runner = Runner(process, service, application)
    except (StartError, BindingError) as error:
        return cannot_start(f"serve {name}", error)
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
        return min(_MOST_DRAIN, max(0.0, float(os.environ.get("SAMPAN_DRAIN_SECONDS", "0.5"))))
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
        if service.background:
            load_string("sampan.service.background:bind_background", "binder")(process, service.background)
        self._declared_checks(service.readiness_checks)
        self.readiness = process.readiness
        self.middleware = Middleware(app or endpoints.nothing, process.registry, process.output, process.identity)
        attach(process, self.middleware)
        self.middleware.guards += guards(service, process.registry)  # security puts itself in front
        ours = endpoints.endpoints(self.readiness, process.registry, self.middleware.exposed, process.redactor.clean)
        self.middleware.endpoints = {
            path: handler for path, handler in ours.items() if app is None or not endpoints.answered_by(app, path)
        }
        self.port = int(os.environ.get("PORT") or service.port)
        secure = load_string("sampan.service.security.binding:secure", "binder")
        secured = secure(process, service, application, self.middleware)
        host = os.environ.get("SAMPAN_POD_IP") or "0.0.0.0"  # noqa: S104  # a pod's address is its own
        self.server = Server(
            secured.app, host, self.port, limits=secured.limits, tls=secured.tls, registry=process.registry
        )
        process.add(Stage.SERVERS, "http", self.server)
        if service.grpc is not None:
            bind = load_string("sampan.service.rpc.binding:bind_server", "binder")
            bind(process, service, application, self.middleware)
        if os.environ.get("SAMPAN_DISCOVERY"):
            register = load_string("sampan.service.discovery.binding:bind_registration", "binder")
            register(process, self.port, "https" if secured.tls else "http")
        self.watchdog = Watchdog(process.registry, os.environ.get("SAMPAN_ENVIRONMENT") == "dev")
        self.stop, self.signalled = asyncio.Event(), False

    def _declared_checks(self, names: list[str]) -> None:
        for name in names:
            function = load_string(name, f"readiness_checks of service {self.service.name!r},")
            if not callable(function):
                raise StartError(f"readiness_checks of service {self.service.name!r}: {name} is not a function")
            readiness_check(name)(function)

    async def main(self, started: float) -> int:
        self._loop = asyncio.get_running_loop()
        # not the loop's own handlers: these are called even when the loop is stuck in a callback
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self.watchdog.start()
        code = await self._start()
        if code is None:
            documentation_last(self.middleware.app)  # its lifespan may have added routes
            self.readiness.started = True
            seconds = round(time.perf_counter() - started, 3)
            log.info("serving", extra={"port": self.port, "start_seconds": seconds, "pid": os.getpid()})
            # the heap as it is now stays; collections look at what requests leave behind, and less often
            gc.freeze()
            gc.set_threshold(10_000, 20, 20)
            code = await self._until()
        await self._stop()
        self.watchdog.leave(code)
        return code

    async def _start(self) -> int | None:
        """The status to end with, when the process does not come to serve."""
        starting = asyncio.ensure_future(self.process.start())
        told = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if starting.done():
            error = starting.exception()
            if error is None:
                return None
            log.critical("cannot start: %s", error, exc_info=None if isinstance(error, StartFailure) else error)
            return 1
        starting.cancel()
        await asyncio.wait({starting}, timeout=1.0)
        log.info("told to stop while starting")
        return 0

    async def _until(self) -> int:
        """Wait for the end. The status to end with."""
        waiting = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({waiting, self.server.ended()}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.stop.is_set():
            return 0
        log.critical("the HTTP server ended by itself")
        return 1

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        if self.signalled:
            os.write(2, b"sampan: second signal: ending at once\n")
            os._exit(1)
        self.signalled = True
        self.watchdog.end_by(time.monotonic() + _BUDGET_SECONDS)
        self._loop.call_soon_threadsafe(self.stop.set)

    async def _stop(self) -> None:
        begun = time.monotonic()
        # a stop that takes longer than its budget ends there, whatever hangs
        self.watchdog.end_by(begun + _BUDGET_SECONDS)
        log.info("stopping", extra={"in_flight": self.middleware.in_flight})
        served = self.readiness.started
        self.readiness.draining = self.middleware.draining = True
        await self.process.lifecycle.stop(Stage.REGISTRATION)
        if served:
            await asyncio.sleep(drain_seconds())
        await self.process.stop(begun + STOP_SECONDS, self.middleware.flush)
        log.info("stopped", extra={"seconds": round(time.monotonic() - begun, 3)})
