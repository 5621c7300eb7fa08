"""One end of a pipe or terminal of ours, read and written without blocking the loop."""

from __future__ import annotations

import asyncio
import os
from typing import Literal

CHUNK = 65536


class Descriptor:
    """A descriptor of ours, closed once and only once: its number is soon another connection's.

    It is read and written by readiness, not as a pipe transport of the loop: one that is cancelled while it is made
    closes the descriptor twice under uvloop, the second time whosever it is by then."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    async def read(self) -> bytes:
        """The next bytes, b"" at the end of a pipe and when a terminal's last user has gone."""
        while True:
            try:
                return os.read(self.fd, CHUNK)
            except BlockingIOError:
                await self._ready("reader")
            except OSError:
                return b""

    async def write(self, data: bytes) -> None:
        """Raises OSError when nobody reads any more."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self.fd, left) :]
            except BlockingIOError:
                await self._ready("writer")

    async def _ready(self, end: Literal["reader", "writer"]) -> None:
        loop = asyncio.get_running_loop()
        add, remove = {
            "reader": (loop.add_reader, loop.remove_reader),
            "writer": (loop.add_writer, loop.remove_writer),
        }[end]
        ready: asyncio.Future[None] = loop.create_future()
        add(self.fd, _settle, ready)
        try:
            await ready
        finally:
            remove(self.fd)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
