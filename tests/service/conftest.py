"""A real service or server in this process, on a free port."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from sampan.service.http.endpoints import Check, Readiness, endpoints
from sampan.service.http.middleware import Middleware
from sampan.service.http.server import Server
from sampan.service.telemetry.logs import Output, Redactor
from sampan.service.telemetry.metrics import Registry


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A Process sets up the logging of the interpreter it is in: not for the tests that come after."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


class Served:
    def __init__(self, server: Server, middleware: Middleware, registry: Registry, readiness: Readiness) -> None:
        self.server, self.middleware, self.registry, self.readiness = server, middleware, registry, readiness
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serving() -> Serving:
    """`async with serving(app, checks=[...]) as served`."""

    @contextlib.asynccontextmanager
    async def serve(app: Any, checks: tuple[Check, ...] = (), descriptor: int | None = None) -> AsyncIterator[Served]:
        registry, readiness, redactor = Registry(), Readiness(checks), Redactor()
        readiness.started = True
        null = os.open(os.devnull, os.O_WRONLY)
        middleware = Middleware(app, registry, Output(null if descriptor is None else descriptor, redactor))
        middleware.endpoints = endpoints(readiness, registry, middleware.exposed, redactor.clean)
        server = Server(middleware, "127.0.0.1", 0)
        await server.start()
        try:
            yield Served(server, middleware, registry, readiness)
        finally:
            await server.stop()
            middleware.flush()
            os.close(null)

    return serve
