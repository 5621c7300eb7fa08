"""uvicorn, started and stopped by the lifecycle instead of by signals, speaking the protocol of `protocol.py`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import Generator
from typing import Any

from sampan.imports import without

with without("watchfiles"):  # uvicorn looks for it to reload what is edited, which is not done here
    import uvicorn

from sampan.service.http import proxies
from sampan.service.http.burst import Burst
from sampan.service.http.limits import Limits
from sampan.service.http.protocol import Protocol
from sampan.service.http.tls import ServerTls
from sampan.service.telemetry.metrics import Registry

IN_FLIGHT_SECONDS = 18  # of the 30 s that a pod has to end; see lifecycle.KEPT_SECONDS


def _websockets(*arguments: Any, **named: Any) -> Any:
    """uvicorn's choice of a protocol, imported when the first connection asks for it."""
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

    assert AutoWebSocketsProtocol is not None
    return AutoWebSocketsProtocol(*arguments, **named)


def _websockets_known() -> bool:
    return any(importlib.util.find_spec(name) for name in ("websockets", "wsproto"))


class Server(uvicorn.Server):
    """`start()` returns when the socket accepts; `stop()` when every request in flight has its answer."""

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        limits: Limits | None = None,
        tls: ServerTls | None = None,
        registry: Registry | None = None,
    ) -> None:
        """BindingError when FORWARDED_ALLOW_IPS is not understood."""
        self.tls = tls
        refused = None
        if registry is not None:
            refused = registry.counter("http_refused_total", "Requests the protocol refused, by status.", ("reason",))
        limits = limits or Limits()
        known = {
            "limits": limits,
            "proxies": proxies.from_environment(),
            "refused": refused,
            "tls": staticmethod(tls.extension) if tls else None,
            "burst": Burst(),
        }
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=type("Protocol", (Protocol,), known),
                ws=_websockets if _websockets_known() else "none",  # type: ignore[arg-type]  # it is only called
                lifespan="auto",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # the protocol does
                server_header=False,
                timeout_keep_alive=75,  # longer than the proxies in front keep theirs, so that they close first
                timeout_graceful_shutdown=IN_FLIGHT_SECONDS,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def start(self) -> None:
        """Raises OSError when the address is taken, RuntimeError when the application's lifespan fails."""
        self.config.load()
        if self.tls is not None:
            self.config.ssl = self.tls.context
        self._task = asyncio.create_task(self._serving(), name="http")
        while not self.started:
            if self._task.done():
                failed, self._task = self._task, None  # nothing is left to stop
                await failed
                raise RuntimeError("the HTTP server ended while starting")
            await asyncio.sleep(0.001)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.tick()
            if self.tls is not None:
                self.tls.poll()
        return await super().on_tick(counter)

    async def _serving(self) -> None:
        try:
            await self._serve()
        except SystemExit as end:
            refused = end.__context__
            if isinstance(refused, OSError):
                why = os.strerror(refused.errno).lower() if refused.errno else refused
                raise OSError(f"cannot listen on {self.config.host}:{self.config.port}: {why}") from end
            raise RuntimeError("the application's lifespan failed; see the log") from end

    def ended(self) -> asyncio.Task[None]:
        """Done when the server has ended, asked to or not."""
        assert self._task is not None, "not started"
        return self._task

    async def stop(self) -> None:
        self.should_exit = True
        if self._task is not None:
            await self._task
