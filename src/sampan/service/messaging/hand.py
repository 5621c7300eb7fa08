"""The events a consumer has in hand: which may be handled now, and which wait behind another of their key."""

from __future__ import annotations

import asyncio
from collections import deque

from sampan.service.messaging.port import Delivery


class Hand:
    """Deliveries in the order of their arrival; those of one key one at a time, when `keyed`.

    A key is taken from `take` until `done`: while an event waits to be tried again, later ones of its key wait too.
    """

    def __init__(self, *, keyed: bool) -> None:
        self.keyed = keyed
        self.blocked = 0  # how many wait behind another of their key
        self._ready: deque[Delivery] = deque()
        self._behind: dict[str, deque[Delivery]] = {}
        self._takers: deque[asyncio.Future[None]] = deque()

    def add(self, delivery: Delivery) -> None:
        if self.keyed and delivery.key:
            behind = self._behind.get(delivery.key)
            if behind is not None:
                behind.append(delivery)
                self.blocked += 1
                return
            self._behind[delivery.key] = deque()
        self.again(delivery)

    def again(self, delivery: Delivery) -> None:
        """It has been taken before, and may be taken once more; its key is still its own."""
        self._ready.append(delivery)
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    async def take(self, most: int = 1) -> list[Delivery]:
        """At least one, at most `most`; in a batch several of one key may follow one another."""
        while not self._ready:
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                if taker.done() and not taker.cancelled():
                    self._wake()  # it was meant for somebody: not lost with this one
                raise
        taken = [self._ready.popleft()]
        while len(taken) < most and self._ready:
            taken.append(self._ready.popleft())
        if most > 1 and self.keyed:
            for delivery in list(taken):
                behind = self._behind.get(delivery.key)
                while behind and len(taken) < most:
                    taken.append(behind.popleft())
                    self.blocked -= 1
        return taken

    def _wake(self) -> None:
        while self._ready and self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    def done(self, delivery: Delivery) -> None:
        """Frees its key for the next. Of a batch, once a key."""
        if not self.keyed or not delivery.key:
            return
        behind = self._behind.get(delivery.key)
        if behind:
            self.blocked -= 1
            self.again(behind.popleft())
        else:
            self._behind.pop(delivery.key, None)

    def put_behind(self, later: list[Delivery]) -> None:
        """Those of a batch that must wait, since an earlier one of their key is to be tried again."""
        for delivery in reversed(later):
            self._behind[delivery.key].appendleft(delivery)
            self.blocked += 1

    def clear(self) -> None:
        self._ready.clear()
        self._behind.clear()
        self.blocked = 0
