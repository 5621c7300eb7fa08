"""How a member of a group reads its queues on RabbitMQ: each lane on a channel of its own.

A channel that closes gives all it had and did not acknowledge back at once and in order, which is how a lane changes
hands: begin nothing more of it, finish what was begun, close. The queues of a topic with keys are shared out among the
members (members.py); the one queue of a topic without is read by all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sampan.service.messaging.members import Members, shares
from sampan.service.messaging.port import KEY, Delivery, Sink
from sampan.service.tasks import end

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

    from sampan.service.messaging.rabbitmq import RabbitBroker

log = logging.getLogger("sampan.messaging")

_MOST_PREFETCHED: Final = 2000


def headers_of(message: AbstractIncomingMessage) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in message.headers.items()}


class RabbitDelivery(Delivery):
    __slots__ = ("_message", "_ordered")

    def __init__(self, message: AbstractIncomingMessage, lane: str, ordered: bool) -> None:
        headers = headers_of(message)
        before = int(headers.pop("x-delivery-count", "0"))
        event_id = message.message_id or f"{lane}:{message.delivery_tag}"
        super().__init__(message.body, headers, event_id, key=headers.get(KEY, ""), attempt=before + 1, lane=lane)
        self._message, self._ordered = message, ordered

    async def ack(self) -> None:
        await self._message.ack()

    async def release(self) -> None:
        if not self._ordered:  # singly they would come back in another order: the end of the channel gives them back
            await self._message.nack(requeue=True)


class Lane:
    """One queue. `prefetch` is how many events are under way to us or in hand; `tune` changes it."""

    def __init__(self, broker: RabbitBroker, place: tuple[str, str, str], sink: Sink, prefetch: int) -> None:
        """`place` is topic, group and queue."""
        self.broker, self.sink = broker, sink
        self.topic, self.group, self.name = place
        self.prefetch = self._wanted = max(1, min(prefetch, _MOST_PREFETCHED))
        self.ordered = broker.layout(self.topic).keyed
        self._stir = asyncio.Event()
        self._halted = False
        self._channel: AbstractChannel | None = None
        self._queue: AbstractQueue | None = None
        self._tag = ""
        self._task = asyncio.create_task(self._run(), name=f"lane-{self.name}")

    def tune(self, prefetch: int) -> None:
        """Follow in large steps: a consumer's prefetch is that of its beginning. The queue of an ordered lane would go
        to another member between two consumers, so there it stays."""
        wanted = max(1, min(prefetch, _MOST_PREFETCHED))
        if not self.ordered and not self.prefetch / 4 < wanted <= self.prefetch * 2:
            self._wanted = wanted
            self._stir.set()

    async def _run(self) -> None:
        wait = 0.05
        while True:
            try:
                await self.broker.ready()
                await self.broker.ensure(self.topic)
                async with asyncio.timeout(10):
                    channel = await self._open()
                wait = 0.05
                while not channel.is_closed:
                    await self._stir.wait()
                    self._stir.clear()
                    if not channel.is_closed and self._wanted != self.prefetch:
                        await self._consume(channel)
            except self.broker.errors as error:
                self.broker.trouble(self.topic, self.group, error)
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
            await self.sink.revoke({self.name})  # a channel that is lost has given all it had to others
            await self._close()

    async def _open(self) -> AbstractChannel:
        channel = self._channel = await self.broker.connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(lambda *_: self._stir.set())
        self._queue = await self.broker.queue(channel, self.broker.layout(self.topic), self.group, self.name)
        self._tag = ""
        await self._consume(channel)
        return channel

    async def _consume(self, channel: AbstractChannel) -> None:
        assert self._queue is not None
        if self._tag:
            await self._queue.cancel(self._tag)
        self.prefetch = self._wanted
        await channel.set_qos(self.prefetch)
        self._tag = await self._queue.consume(self._take)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        if not self._halted:
            self.sink.deliver(RabbitDelivery(message, self.name, self.ordered))

    async def halt(self) -> None:
        """Deliver no more. An ordered lane keeps what comes until it closes: nobody is to overtake what is in hand."""
        self._halted = True
        await end(self._task)
        if not self.ordered and self._queue is not None and self._tag:
            with contextlib.suppress(*self.broker.errors):
                await self._queue.cancel(self._tag)

    async def hand_over(self) -> None:
        await self.halt()
        await self.sink.revoke({self.name})
        await self._close()

    async def _close(self) -> None:
        with contextlib.suppress(*self.broker.errors):
            if self._channel is not None and not self._channel.is_closed:
                await self._channel.close()

    async def close(self) -> None:
        await self._close()


class RabbitSubscription:
    """The lanes of one member. A window is the prefetch of each."""

    def __init__(self, broker: RabbitBroker, topic: str, group: str, sink: Sink, window: int) -> None:
        layout = broker.layout(topic)
        self._window = window
        self._names = [name for name, _ in broker.queue_names(layout, group)]
        self._lanes: dict[str, Lane] = {}
        self._open: Callable[[str], Lane] = lambda name: Lane(broker, (topic, group, name), sink, self._window)
        self._stir = asyncio.Event()
        self.members = Members(broker, f"{topic}.{group}.members", self._stir.set) if layout.keyed else None
        self._task: asyncio.Task[None] | None = None

    @property
    def window(self) -> int:
        return self._window

    @window.setter
    def window(self, amount: int) -> None:
        self._window = amount
        for lane in self._lanes.values():
            lane.tune(amount)

    @property
    def lanes(self) -> list[str]:
        """Those this member has now."""
        return sorted(self._lanes)

    def open(self) -> None:
        if self.members is None:
            self._lanes = {name: self._open(name) for name in self._names}
            return
        self.members.start()
        self._task = asyncio.create_task(self._follow(self.members), name="lanes")

    async def _follow(self, members: Members) -> None:
        """Have the lanes that are ours by the members there are."""
        await members.listened.wait()
        while True:
            self._stir.clear()
            mine = shares(self._names, members.present)[members.me]
            leaving = [self._lanes.pop(name) for name in self.lanes if name not in mine]
            for name in mine:
                if name not in self._lanes:
                    self._lanes[name] = self._open(name)
            await asyncio.gather(*(lane.hand_over() for lane in leaving))
            await self._stir.wait()

    async def halt(self) -> None:
        if self._task is not None:
            await end(self._task)
        await asyncio.gather(*(lane.halt() for lane in self._lanes.values()))

    async def close(self) -> None:
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
        if self.members is not None:
            await self.members.leave()
