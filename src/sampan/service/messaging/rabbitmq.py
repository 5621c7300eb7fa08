"""RabbitMQ: a topic is a direct exchange, a group a quorum queue bound to it; with keys, a queue for each partition.

The queues of a partitioned topic have a single active consumer each: RabbitMQ gives all of a partition to one member,
and to the next when that one goes. Published events are persistent and confirmed. An exchange keeps nothing itself,
so the queues of every group the application declares are made before the first event is published.

RabbitMQ writes down half a second later which quorum queues there are: one that is killed within that time of a queue's
making comes back without the queue's contents.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity
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
    Delivery,
    Layout,
    Message,
    Sink,
)
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.messaging")

_HEARTBEAT_SECONDS: Final = 5
_PREFETCH: Final = 64
_PREFETCH_LANE: Final = 16


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
        for noisy in ("aio_pika", "aiormq"):
            logger = logging.getLogger(noisy)
            if logger.level == logging.NOTSET:  # a line for every attempt; we say it once
                logger.setLevel(logging.CRITICAL)

    async def _connect(self) -> None:
        wait, said = 0.02, False
        while True:
            closed = asyncio.Event()
            try:
                connection = await aio_pika.connect(self._url(), timeout=3)
                self._connection = connection
                connection.close_callbacks.add(lambda *_, event=closed: event.set())
                async with asyncio.timeout(3):
                    self._channel = await connection.channel(publisher_confirms=True)
            except self.errors as error:
                if not said and not self.connected_once:
                    log.warning("broker not reachable yet: %s", type(error).__name__)  # without the uri in its words
                    said = True
                await asyncio.sleep(wait)
                wait = min(1.0, wait * 1.5)
                continue
            wait = 0.02
            self._connected()
            await closed.wait()
            self._exchanges.clear()
            self._disconnected()

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
                await self.queues(channel, layout, group)

    async def queues(self, channel: AbstractChannel, layout: Layout, group: str) -> list[AbstractQueue]:
        """Make those of `group`, and bind them."""
        made = []
        for name, lane in queue_names(layout, group):
            arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-message-ttl": KEEP_SECONDS * 1000}
            if layout.keyed:
                arguments["x-single-active-consumer"] = True
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)
            await queue.bind(layout.name, lane)
            made.append(queue)
        return made

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
        for task in late:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [not isinstance(result, BaseException) for result in results]

    async def subscribe(self, topic: str, group: str, sink: Sink, window: int) -> RabbitSubscription:
        await self.ensure(topic)
        subscription = RabbitSubscription(self, topic, group, sink, window)
        subscription.open()
        return subscription

    async def lag(self, topic: str, group: str) -> int | None:
        total = 0
        try:
            async with self.channel() as channel:
                for name, _ in queue_names(self.layout(topic), group):
                    queue = await channel.declare_queue(name, passive=True)
                    total += queue.declaration_result.message_count or 0
        except ChannelNotFoundEntity:
            return None
        return total

    async def _letters(self, channel: AbstractChannel, topic: str, group: str) -> AbstractQueue:
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-message-ttl": KEEP_DEAD_SECONDS * 1000}
        return await channel.declare_queue(f"dlq.{topic}.{group}", durable=True, arguments=arguments)

    async def set_aside(self, letter: DeadLetter) -> None:
        async with asyncio.timeout(STORE_SECONDS * 2):
            channel = await self._writer()
            queue = await self._letters(channel, letter.topic, letter.group)
            headers: dict[str, Any] = dict(to_headers(letter))
            await channel.default_exchange.publish(_persistent(letter.payload, headers, letter.id), queue.name)

    async def dead_letters(self, topic: str, group: str) -> list[DeadLetter]:
        found: dict[str, DeadLetter] = {}
        async for message in self._browse(topic, group):
            letter = from_headers(topic, group, message.body, _headers(message), handle=message.message_id)
            found.setdefault(letter.id, letter)
        return list(found.values())

    async def drop(self, letter: DeadLetter) -> None:
        async for message in self._browse(letter.topic, letter.group):
            if message.message_id == letter.id:
                await message.ack()

    async def _browse(self, topic: str, group: str) -> AsyncIterator[AbstractIncomingMessage]:
        """Every letter; those not acknowledged go back. One at a time and on one channel, so that the next to look
        finds what this one has put back."""
        async with self._browsing, asyncio.timeout(10):
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


def queue_names(layout: Layout, group: str) -> list[tuple[str, str]]:
    """(queue, the routing key it is bound with)."""
    if not layout.keyed:
        return [(f"{layout.name}.{group}", "")]
    return [(f"{layout.name}.{group}.{number}", str(number)) for number in range(layout.partitions)]


def _persistent(payload: bytes, headers: dict[str, Any], id: str) -> aio_pika.Message:
    return aio_pika.Message(
        payload, headers=headers, message_id=id, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, app_id="sampan"
    )


def _headers(message: AbstractIncomingMessage) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in message.headers.items()}


class RabbitDelivery(Delivery):
    __slots__ = ("_message",)

    def __init__(self, message: AbstractIncomingMessage, lane: str) -> None:
        headers = _headers(message)
        before = int(headers.pop("x-delivery-count", "0"))
        event_id = message.message_id or f"{lane}:{message.delivery_tag}"
        super().__init__(message.body, headers, event_id, key=headers.get(KEY, ""), attempt=before + 1, lane=lane)
        self._message = message

    async def ack(self) -> None:
        await self._message.ack()

    async def release(self) -> None:
        await self._message.nack(requeue=True)


class RabbitSubscription:
    """A channel of its own. When that is lost all it had is given to others, so the sink lets go of it."""

    def __init__(self, broker: RabbitBroker, topic: str, group: str, sink: Sink, window: int) -> None:
        self.broker, self.topic, self.group, self.sink = broker, topic, group, sink
        self.window = window  # the prefetch of a consumer cannot be changed: what it is at first counts
        self._channel: AbstractChannel | None = None
        self._consuming: list[tuple[AbstractQueue, str]] = []
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"channel-{self.topic}-{self.group}")

    async def _run(self) -> None:
        wait = 0.05
        while True:
            closed = asyncio.Event()
            lanes: set[str] = set()
            try:
                await self.broker.ready()
                await self.broker.ensure(self.topic)
                async with asyncio.timeout(10):
                    lanes = await self._consume(closed)
                wait = 0.05
                await closed.wait()
            except self.broker.errors as error:
                log.info("consumer %s of %s: %s", self.group, self.topic, error or type(error).__name__)
                self.broker._ensured.discard(self.topic)
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
            await self.sink.revoke(lanes)

    async def _consume(self, closed: asyncio.Event) -> set[str]:
        layout = self.broker.layout(self.topic)
        channel = self._channel = await self.broker.connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(lambda *_: closed.set())
        await channel.set_qos(_PREFETCH_LANE if layout.keyed else max(_PREFETCH, self.window))
        self._consuming = []
        lanes = set()
        for queue in await self.broker.queues(channel, layout, self.group):
            self._consuming.append((queue, await queue.consume(self._taker(queue.name))))
            lanes.add(queue.name)
        return lanes

    def _taker(self, lane: str) -> Any:
        async def take(message: AbstractIncomingMessage) -> None:
            self.sink.deliver(RabbitDelivery(message, lane))

        return take

    async def halt(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for queue, tag in self._consuming:
            await queue.cancel(tag)

    async def close(self) -> None:
        if self._channel is not None and not self._channel.is_closed:
            await self._channel.close()
