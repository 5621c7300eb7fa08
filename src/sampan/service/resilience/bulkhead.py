"""What keeps one bad callee from taking all of a caller: calls in flight are limited, and so are those that wait."""

from __future__ import annotations

import asyncio
from collections import deque


class BulkheadFull(Exception):
    """As many calls wait already as may."""


class Bulkhead:
    """`limit` places, at most `waiting` who wait for one, served in the order they came.

    What `enter` or `wait` gave must be given back with `leave`.
    """

    def __init__(self, limit: int, waiting: int) -> None:
        self.limit, self.waiting = limit, waiting
        self.active = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def enter(self) -> bool:
        """Take a place if one is free."""
        if self.active >= self.limit:
            return False
        self.active += 1
        return True

    async def wait(self, seconds: float) -> None:
        """Take a place when one is free. BulkheadFull; TimeoutError after `seconds`."""
        if len(self._queue) >= self.waiting:
            raise BulkheadFull
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException:
            if place.done() and not place.cancelled():  # it came as we gave up: to the next
                self.leave()
            else:
                self._queue.remove(place)
            raise

    def leave(self) -> None:
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.active -= 1
