"""uvicorn, started and stopped by the lifecycle instead of by signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Generator
from typing import Any

import uvicorn

IN_FLIGHT_SECONDS = 18  # of the 30 s that a pod has to end; see lifecycle.KEPT_SECONDS


class Server(uvicorn.Server):
    """`start()` returns when the socket accepts; `stop()` when every request in flight has its answer."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="httptools",
                ws="auto",
                lifespan="auto",
                log_config=None,
                access_log=False,
                proxy_headers=True,
                forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", "*"),  # a pod is reached through proxies
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
        self._task = asyncio.create_task(self._serving(), name="http")
        while not self.started:
            if self._task.done():
                await self._task
                raise RuntimeError("the HTTP server ended while starting")
            await asyncio.sleep(0.001)

    async def _serving(self) -> None:
        try:
            await self._serve()
        except SystemExit as end:
            raise RuntimeError("the application's lifespan or the listening socket failed; see the log") from end

    def ended(self) -> asyncio.Task[None]:
        """Done when the server has ended, asked to or not."""
        assert self._task is not None, "not started"
        return self._task

    async def stop(self) -> None:
        self.should_exit = True
        if self._task is not None:
            await self._task
