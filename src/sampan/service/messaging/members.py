"""Which lanes a member of a group has, where the broker does not share them out.

The members tell one another over a fanout exchange that they are there, once a second, and that they go. Each works
out by itself which lanes are its own; all who know the same members come to the same answer. While they do not, a
lane's single active consumer sees to it that no two have it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import aio_pika

from sampan.service.tasks import end

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage

    from sampan.service.messaging.rabbitmq import RabbitBroker

log = logging.getLogger("sampan.messaging")

_BEAT_SECONDS: Final = 1.0
_GONE_SECONDS: Final = 4.0  # without a word
_LISTEN_SECONDS: Final = 0.25  # a newcomer hears who is there before it takes anything


def shares(lanes: Sequence[str], members: Iterable[str]) -> dict[str, list[str]]:
    """The lanes of each member: none has two more than another, and few change hands when one comes or goes."""
    shared: dict[str, list[str]] = {member: [] for member in sorted(members)}
    least, extra = divmod(len(lanes), len(shared))
    for lane in lanes:
        ranked = sorted(shared, key=lambda member: zlib.crc32(f"{lane}/{member}".encode()), reverse=True)
        for member in ranked:
            has = len(shared[member])
            if has < least or (has == least and extra):
                extra -= has == least
                shared[member].append(lane)
                break
    return shared


class Members:
    """Those of one group; `changed` is called when there are others than before."""

    def __init__(self, broker: RabbitBroker, exchange: str, changed: Callable[[], None]) -> None:
        self.broker, self.exchange, self.changed = broker, exchange, changed
        self.me = os.urandom(6).hex()
        self.listened = asyncio.Event()
        self._heard: dict[str, float] = {}
        self._speaking: AbstractExchange | None = None
        self._channel: AbstractChannel | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"members-{self.exchange}")

    @property
    def present(self) -> set[str]:
        return {self.me, *self._heard}

    async def _run(self) -> None:
        while True:
            closed = asyncio.Event()
            try:
                await self.broker.ready()
                async with asyncio.timeout(10):
                    await self._join(closed)
                await self._beat(closed)
            except self.broker.errors as error:
                log.debug("members of %s: %s", self.exchange, error)
                await asyncio.sleep(0.2)
            self._speaking = None

    async def _join(self, closed: asyncio.Event) -> None:
        channel = self._channel = await self.broker.connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(lambda *_: closed.set())
        speaking = await channel.declare_exchange(self.exchange, aio_pika.ExchangeType.FANOUT, auto_delete=True)
        queue = await channel.declare_queue("", exclusive=True, auto_delete=True)
        await queue.bind(speaking)
        await queue.consume(self._hear, no_ack=True)
        self._heard.clear()  # who is there says so again
        self._speaking = speaking

    async def _beat(self, closed: asyncio.Event) -> None:
        wait = _LISTEN_SECONDS
        while not closed.is_set():
            await self._say("+")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await closed.wait()
            wait = _BEAT_SECONDS
            late = time.monotonic() - _GONE_SECONDS
            for member in [member for member, heard in self._heard.items() if heard < late]:
                self._forget(member)
            if not self.listened.is_set():
                self.listened.set()
                self.changed()

    async def _say(self, word: str) -> None:
        if self._speaking is not None:
            await self._speaking.publish(aio_pika.Message(f"{word}{self.me}".encode()), "", mandatory=False)

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        text = message.body.decode("ascii", "replace")
        word, member = text[:1], text[1:]
        if member == self.me:
            return
        if word == "-":
            self._forget(member)
            return
        new = member not in self._heard
        self._heard[member] = time.monotonic()
        if new:
            self.changed()
            with contextlib.suppress(*self.broker.errors):
                await self._say("+")

    def _forget(self, member: str) -> None:
        if self._heard.pop(member, None) is not None:
            self.changed()

    async def leave(self) -> None:
        """Say so, so that the others need not wait for silence."""
        if self._task is not None:
            await end(self._task)
        with contextlib.suppress(*self.broker.errors):
            async with asyncio.timeout(1):
                await self._say("-")
                if self._channel is not None and not self._channel.is_closed:
                    await self._channel.close()
