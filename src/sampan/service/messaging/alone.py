"""Work that goes on together, and now and then a piece of it that must be the only one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Alone:
    """Whoever asks to be alone is let in when the others have left; until it leaves nobody else is let in."""

    def __init__(self) -> None:
        self._inside = self._asking = 0
        self._free, self._empty = asyncio.Event(), asyncio.Event()
        self._turn = asyncio.Lock()

    async def enter(self) -> None:
        """Be inside with others; `leave` once for each."""
        while self._asking:
            await self._free.wait()
        self._inside += 1

    def leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        self._asking += 1
        self._free.clear()
        try:
            async with self._turn:
                while self._inside:
                    self._empty.clear()
                    await self._empty.wait()
                yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._free.set()
