"""RabbitMQ: a topic is a direct exchange, a group a quorum queue bound to it; with keys, a queue for each partition.

The queues of a partitioned topic have a single active consumer each, so that no two members ever have a partition.
Which member has which is agreed among them (members.py): RabbitMQ would give all of them to the first. Published events
are persistent and confirmed. An exchange keeps nothing itself, so the queues of every group the application declares
are made before the first event is published.

RabbitMQ writes down half a second later which quorum queues there are: one that is killed within that time of a queue's
making comes back without the queue's contents.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import AMQPError, ChannelLockedResource, ChannelNotFoundEntity
from yarl import URL

from sampan.service.bindings import Binding
from sampan.service.messaging.letters import from_headers, to_headers
from sampan.service.messaging.port import (
    KEEP_DEAD_SECONDS,
    KEEP_SECONDS,
    KEY,
    STORE_SECONDS,
    Broker,
    DeadLetter,
    Layout,
    Message,
    Sink,
)
from sampan.service.messaging.rabbitmq_lanes import RabbitSubscription, headers_of
from sampan.service.tasks import end
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.messaging")

_HEARTBEAT_SECONDS: Final = 5


class RabbitBroker(Broker):
    system: ClassVar[str] = "rabbitmq"
    # the client says by a bare RuntimeError that a connection or channel has been closed
    errors: ClassVar[tuple[type[Exception], ...]] = (AMQPError, RuntimeError, OSError, TimeoutError)

    def __init__(self, binding: Binding, registry: Registry, name: str = "sampan") -> None:
        super().__init__(binding, registry, name)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchanges: dict[str, AbstractExchange] = {}
        self._letter_channel: AbstractChannel | None = None
        self._browsing = asyncio.Lock()
        self._lettering = asyncio.Lock()
        for noisy in ("aio_pika", "aiormq"):
            logger = logging.getLogger(noisy)
            if logger.level == logging.NOTSET:  # a line for every attempt; we say it once
                logger.setLevel(logging.CRITICAL)

    async def _connect(self) -> None:
        while True:
            closed = asyncio.Event()
            await self._reach(functools.partial(self._dial, closed))
            self._connected()
            await closed.wait()
            self._exchanges.clear()
            self._disconnected()

    async def _dial(self, closed: asyncio.Event) -> None:
        connection = self._connection = await aio_pika.connect(self._url(), timeout=3)
        connection.close_callbacks.add(lambda *_: closed.set())
        async with asyncio.timeout(3):
            self._channel = await connection.channel(publisher_confirms=True)

    def _why(self, error: Exception) -> str:
        return type(error).__name__  # its words may hold the uri

    def _url(self) -> URL:
        """The uri of the binding, with its user and password where those are keys of their own, and our heartbeat."""
        url = URL(self.uri)
        if "username" in self.values:
            url = url.with_user(self.values["username"]).with_password(self.values.get("password"))
        ours = {"heartbeat": str(_HEARTBEAT_SECONDS), "name": self.name}
        return url.with_query({**ours, **url.query})

    async def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await self._connection.close()

    @property
    def connection(self) -> AbstractConnection:
        if self._connection is None or self._connection.is_closed:
            raise ConnectionError("not connected to the broker")
        return self._connection

    async def _writer(self) -> AbstractChannel:
        """The channel to publish on; a mistake closes a channel, and another one is opened."""
        if self._channel is None or self._channel.is_closed:
            self._exchanges.clear()
            self._channel = await self.connection.channel(publisher_confirms=True)
        return self._channel

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """One for a short piece of work; what it has got and not acknowledged goes back."""
        channel = await self.connection.channel(publisher_confirms=False)
        try:
            async with asyncio.timeout(10):
                yield channel
        finally:
            with contextlib.suppress(*self.errors):
                await channel.close()

    async def _make(self, layout: Layout) -> None:
        async with self.channel() as channel:
            await channel.declare_exchange(layout.name, aio_pika.ExchangeType.DIRECT, durable=True)
            for group in layout.groups:
                for name, _ in self.queue_names(layout, group):
                    await self.queue(channel, layout, group, name)

    async def queue(self, channel: AbstractChannel, layout: Layout, group: str, name: str) -> AbstractQueue:
        """Make one of the queues of `group`, and bind it."""
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-message-ttl": KEEP_SECONDS * 1000}
        if layout.keyed:
            arguments["x-single-active-consumer"] = True
        queue = await channel.declare_queue(name, durable=True, arguments=arguments)
        await queue.bind(layout.name, dict(self.queue_names(layout, group))[name])
        return queue

    @staticmethod
    def queue_names(layout: Layout, group: str) -> list[tuple[str, str]]:
        """(queue, the routing key it is bound with)."""
        if not layout.keyed:
            return [(f"{layout.name}.{group}", "")]
        return [(f"{layout.name}.{group}.{number}", str(number)) for number in range(layout.partitions)]

    async def _store(self, message: Message) -> None:
        async with asyncio.timeout(STORE_SECONDS):
            await self._send(message)

    async def _send(self, message: Message) -> None:
        layout = self.layout(message.topic)
        channel = await self._writer()
        exchange = self._exchanges.get(layout.name)
        if exchange is None:
            exchange = self._exchanges[layout.name] = await channel.get_exchange(layout.name, ensure=False)
        headers: dict[str, Any] = {**message.headers, KEY: message.key} if message.key else {**message.headers}
        await exchange.publish(
            _persistent(message.payload, headers, message.id),
            str(layout.partition(message.key)) if layout.keyed else "",
            mandatory=False,  # a topic that no group is declared for keeps nothing
        )

    async def _store_many(self, messages: Sequence[Message]) -> list[bool]:
        # tasks begin in this order and reach the socket before their first wait, so the order is kept
        tasks = [asyncio.ensure_future(self._send(message)) for message in messages]
        _, late = await asyncio.wait(tasks, timeout=STORE_SECONDS)
        await end(*late)
        return [not task.cancelled() and task.exception() is None for task in tasks]

    async def subscribe(self, topic: str, group: str, sink: Sink, window: int) -> RabbitSubscription:
        await self.ensure(topic)
        subscription = RabbitSubscription(self, topic, group, sink, window)
        subscription.open()
        return subscription

    async def lag(self, topic: str, group: str) -> int | None:
        total = 0
        try:
            async with self.channel() as channel:
                for name, _ in self.queue_names(self.layout(topic), group):
                    queue = await channel.declare_queue(name, passive=True)
                    total += queue.declaration_result.message_count or 0
        except ChannelNotFoundEntity:
            return None
        return total

    async def _letters(self, channel: AbstractChannel, topic: str, group: str) -> AbstractQueue:
        """The queue of dead letters. To a second declaration a RabbitMQ that is still making the queue says that it is
        there, and closes the connection of who then asks it for a message: so one at a time."""
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-message-ttl": KEEP_DEAD_SECONDS * 1000}
        async with self._lettering:
            return await channel.declare_queue(f"dlq.{topic}.{group}", durable=True, arguments=arguments)

    async def set_aside(self, letter: DeadLetter) -> None:
        async with asyncio.timeout(STORE_SECONDS * 2):
            channel = await self._writer()
            queue = await self._letters(channel, letter.topic, letter.group)
            headers: dict[str, Any] = dict(to_headers(letter))
            await channel.default_exchange.publish(_persistent(letter.payload, headers, letter.id), queue.name)

    async def dead_letters(self, topic: str, group: str) -> list[DeadLetter]:
        found: dict[str, DeadLetter] = {}

        async def look() -> None:
            found.clear()
            async for message in self._browse(topic, group):
                letter = from_headers(topic, group, message.body, headers_of(message), handle=message.message_id)
                found.setdefault(letter.id, letter)

        await self._insist(look)
        return list(found.values())

    async def drop(self, letter: DeadLetter) -> None:
        async def look() -> None:
            async for message in self._browse(letter.topic, letter.group):
                if message.message_id == letter.id:
                    await message.ack()

        await self._insist(look)

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, and again after what a RabbitMQ that is making or moving the queue, for whichever process, answers
        with: INTERNAL_ERROR and the end of the connection."""
        for wait in (0.1, 0.5):
            try:
                await work()
            except self.errors as error:
                log.info("dead letters, once more: %s", error or type(error).__name__)
                await asyncio.sleep(wait)
                async with asyncio.timeout(5):
                    await self.ready()
            else:
                return
        await work()

    async def _browse(self, topic: str, group: str) -> AsyncIterator[AbstractIncomingMessage]:
        """Every letter; those not acknowledged go back. One at a time, in whichever process: a letter that somebody
        looks at is not there for others. On one channel, so that the next to look finds what this one has put back."""
        async with self._browsing, asyncio.timeout(10):
            await self._lock(f"dlq.{topic}.{group}.reader")
            if self._letter_channel is None or self._letter_channel.is_closed:
                self._letter_channel = await self.connection.channel(publisher_confirms=False)
            queue = await self._letters(self._letter_channel, topic, group)
            taken = []
            try:
                while (message := await queue.get(fail=False)) is not None:
                    taken.append(message)
                    yield message
            finally:
                for message in taken:
                    if not message.processed:
                        await message.nack(requeue=True)
                await self._letter_channel.queue_delete(f"dlq.{topic}.{group}.reader")

    async def _lock(self, name: str) -> None:
        """Have the exclusive queue `name`, which one connection has at a time, until it is deleted or lost."""
        while True:
            try:
                async with self.channel() as channel:
                    await channel.declare_queue(name, exclusive=True)
                return
            except ChannelLockedResource:
                await asyncio.sleep(0.02)


def _persistent(payload: bytes, headers: dict[str, Any], id: str) -> aio_pika.Message:
    return aio_pika.Message(
        payload, headers=headers, message_id=id, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, app_id="sampan"
    )
