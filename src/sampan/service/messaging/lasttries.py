"""Events whose handling ends the process itself (a crash in native code, no memory left, kill -9).

No handler hears of such an end, so nothing can be counted there. What is left behind is that the broker delivers again
(`Delivery.attempt`). That count alone convicts nobody: everything a dead process had in hand comes again with it. So
the last try of an event that came again is made with care: first it is written down among the dead letters, then it
is handled while nothing else of this process's events is, then it is struck out again. If the process ends, the letter
is there already, and the next who is given the event lets it be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from sampan.service.messaging.letters import letter
from sampan.service.messaging.port import REPLAYS, Broker, Delivery

log = logging.getLogger("sampan.messaging")


class ProcessEnded(Exception):
    """What a dead letter says of an event whose last try was not heard of again."""


class LastTries:
    """Those of one consumer. Its methods raise the broker's errors."""

    def __init__(self, broker: Broker, topic: str, group: str, attempts: int) -> None:
        self.broker, self.topic, self.group, self.attempts = broker, topic, group, attempts
        self._known: set[tuple[str, str]] = set()
        self._looked, self._looking = 0.0, asyncio.Lock()

    def due(self, delivery: Delivery) -> bool:
        return delivery.attempt > 1 and delivery.attempt + delivery.tries >= self.attempts

    async def set_aside(self, delivery: Delivery, arrived: float) -> bool:
        """Whether it is among the dead letters. `arrived` is monotonic: those that came together are looked up once."""
        async with self._looking:
            if arrived >= self._looked:
                began = time.monotonic()
                letters = await self.broker.dead_letters(self.topic, self.group)
                self._known = {(one.event_id, one.headers.get(REPLAYS, "0")) for one in letters}
                self._looked = began
        return (delivery.id, delivery.headers.get(REPLAYS, "0")) in self._known

    @contextlib.asynccontextmanager
    async def written_down(self, delivery: Delivery) -> AsyncIterator[None]:
        """Around the try. Each has a letter of its own, since brokers drop copies."""
        attempt = delivery.attempt + delivery.tries
        words = f"nothing was heard of its last try (delivery {attempt}): its process ended, or is still at it"
        note = letter(self.topic, self.group, delivery, attempt, ProcessEnded(words))
        note.id += f":try-{attempt}"
        await self.broker.set_aside(note)
        try:
            yield
        finally:
            try:
                await self.broker.drop(note)
            except self.broker.errors as trouble:
                log.warning("dead letter %s stays, though its event was handled: %s", note.id, trouble)
