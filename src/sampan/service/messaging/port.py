"""What every broker behind a topic must do; the rest of the process knows no more of it than this.

Guarantees of each implementation (nats.py, kafka.py, rabbitmq.py):

- `publish` returns when the event is stored where the broker keeps what must survive its end.
- A delivery that is not acknowledged comes again, to this or another member of the group.
- Every group gets every event; the members of one group share them.
- Events of one key are in one *lane* (a partition). A lane is delivered in order, to one member of the group at a time.
- The connection is made in the background, and for ever again. Nothing here waits for the broker without a limit.

Not guaranteed: that an event arrives once. The inbox makes its effect so.
"""

from __future__ import annotations

import abc
import asyncio
import importlib
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import quote

from msgspec import Struct, field

from sampan.service.bindings import Binding, BindingError
from sampan.service.messaging.alone import Alone
from sampan.service.tasks import end
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.messaging")

KEY: Final = "sampan-key"  # header: the key of the event
EVENT_ID: Final = "sampan-event-id"  # header: its id, where the message that carries it has one of its own (a replay)
ONLY_GROUP: Final = "sampan-only-group"  # header: the one group it is for; others pass it over
REPLAYS: Final = "sampan-replays"  # header: how often it was put back from the dead letters
VERSION: Final = "sampan-version"  # header: `Topic(version=...)` of its publisher

ACK_SECONDS: Final = 5.0  # how long the event of a killed consumer waits; a live one keeps sending heartbeats
STORE_SECONDS: Final = 2.0  # for one acknowledgement by the broker
_PUBLISH_SECONDS: Final = 10.0
KEEP_SECONDS: Final = 7 * 86400
KEEP_DEAD_SECONDS: Final = 28 * 86400


class PublishError(Exception):
    """The broker did not store the event in time; whether a later copy of it exists is unknown."""

    http_status = 503


class Layout(Struct, frozen=True):
    """A topic as brokers need to know it. `groups` are those the application declares: RabbitMQ keeps an event for
    the groups it knows. `keyed` topics are split into `partitions`; on Kafka every topic is."""

    name: str
    keyed: bool = False
    partitions: int = 8
    groups: tuple[str, ...] = ()

    def partition(self, key: str) -> int:
        """The lane of `key`: the same in every process and release."""
        return zlib.crc32(key.encode()) % self.partitions


class Message(Struct):
    """An event on its way out. `id` is the same for every copy of it."""

    topic: str
    payload: bytes
    id: str
    headers: dict[str, str] = field(default_factory=dict)
    key: str = ""


class DeadLetter(Struct):
    """An event set aside: `id` is its own, `event_id` that of the event, `at` Unix seconds, `handle` the broker's."""

    id: str
    topic: str
    group: str
    payload: bytes
    headers: dict[str, str]
    event_id: str
    key: str = ""
    error: str = ""
    attempts: int = 0
    at: float = 0.0
    handle: Any = None


class Delivery:
    """An event that has come. `attempt` is how often it has been given out, at least; `lane` the partition it is of."""

    __slots__ = ("attempt", "headers", "id", "key", "lane", "payload", "revoked", "tries")

    def __init__(
        self, payload: bytes, headers: dict[str, str], id: str, *, key: str = "", attempt: int = 1, lane: str = ""
    ) -> None:
        self.payload, self.headers, self.id = payload, headers, headers.get(EVENT_ID, id)
        self.key, self.attempt, self.lane = key, attempt, lane
        self.tries = 0  # by this process
        self.revoked = False

    async def ack(self) -> None:
        """Done: it need not come again."""

    async def release(self) -> None:
        """Given back: it may come again at once, to anybody."""

    async def heartbeat(self) -> None:
        """Still in hand."""


class Sink(Protocol):
    """Who takes deliveries."""

    def deliver(self, delivery: Delivery) -> None: ...

    async def revoke(self, lanes: set[str]) -> None:
        """These lanes go to another member: begin nothing more of them, and return when what was begun has ended."""


class Subscription(Protocol):
    """It has given at most `window` deliveries that are neither acknowledged nor released, and repairs itself."""

    window: int

    async def halt(self) -> None:
        """Deliver no more; what is in hand may still be acknowledged."""

    async def close(self) -> None: ...


class Broker(abc.ABC):
    """A connection to a broker. `errors` are what its operations raise when it is away or in trouble."""

    system: ClassVar[str]  # `messaging.system` of OpenTelemetry's conventions
    errors: ClassVar[tuple[type[Exception], ...]]  # TimeoutError among them

    def __init__(self, binding: Binding, registry: Registry, name: str = "sampan") -> None:
        self.uri, self.values, self.name = binding.uri, binding.values, name
        self.connected_once = False
        self.layouts: dict[str, Layout] = {}
        self.published = registry.counter("messages_published_total", "Events stored by the broker.", ("topic",))
        self.failures = registry.counter("messages_publish_failures_total", "Events it did not store.", ("topic",))
        self.alone = Alone()  # what its consumers handle goes on together, save the last tries of some
        self._said = False
        self._ensured: set[str] = set()
        self._ensuring = asyncio.Lock()
        self._on_reconnect: list[Callable[[], None]] = []
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, if that has not begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._connect(), name="broker")

    def declare(self, layout: Layout) -> None:
        """Make known how a topic is laid out; `ensure` makes it so."""
        self.layouts[layout.name] = layout

    def layout(self, topic: str) -> Layout:
        """That of `topic`; one without keys where nothing was declared (an outbox row of an older release)."""
        return self.layouts.get(topic) or Layout(topic)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._on_reconnect.append(callback)

    def _connected(self) -> None:
        """The implementation says that there is a connection, for the first time or again."""
        again, self.connected_once = self.connected_once, True
        self._ensured.clear()  # it may have come back empty
        self._ready.set()
        if again:
            log.warning("broker connection restored")
            for callback in self._on_reconnect:
                callback()

    async def _reach(self, connect: Callable[[], Awaitable[None]]) -> None:
        """Call `connect` until it comes through. The first failure of a process that has not been connected is said."""
        wait = 0.02
        while True:
            try:
                await connect()
            except self.errors as error:
                if not self._said and not self.connected_once:
                    log.warning("broker not reachable yet: %s", self._why(error))
                    self._said = True
            else:
                return
            await asyncio.sleep(wait)
            wait = min(1.0, wait * 1.5)

    def _why(self, error: Exception) -> str:
        return str(error) or type(error).__name__

    def trouble(self, topic: str, group: str, error: Exception) -> None:
        """A subscription met `error`: said, and the topic is made sure of again."""
        log.info("consumer %s of %s: %s", group, topic, self._why(error))
        self._ensured.discard(topic)

    def _disconnected(self) -> None:
        if self._ready.is_set():
            self._ready.clear()
            log.warning("broker connection lost")

    @property
    def connected(self) -> bool:
        return self._ready.is_set()

    async def ready(self) -> None:
        """Wait for the connection."""
        await self._ready.wait()

    async def check(self) -> None:
        if not self.connected:
            raise ConnectionError("not connected to the broker")

    async def ensure(self, topic: str) -> None:
        """Make what the broker needs for `topic`, if it is not there; settings of what is there are left alone."""
        if topic in self._ensured:
            return
        async with self._ensuring:
            if topic not in self._ensured:
                await self._make(self.layout(topic))
                self._ensured.add(topic)

    async def publish(self, message: Message) -> None:
        """Returns when the broker has stored the event, having tried for at most 10 s. PublishError after that."""
        last: BaseException | str = "not connected to the broker"
        if self._ready.is_set() and message.topic in self._ensured:
            try:
                await self._store(message)
            except self.errors as error:
                last = error
            else:
                self.published.add(message.topic)
                return
        await self._persist(message, last)

    async def _persist(self, message: Message, last: BaseException | str) -> None:
        self.start()
        give_up, wait = time.monotonic() + _PUBLISH_SECONDS, 0.02
        while True:
            try:
                async with asyncio.timeout(give_up - time.monotonic()):
                    await self.ready()
                    await self.ensure(message.topic)
                    await self._store(message)
            except self.errors as error:
                last = error if str(error) else last
                self._ensured.discard(message.topic)
            else:
                self.published.add(message.topic)
                return
            if time.monotonic() + wait >= give_up:
                self.failures.add(message.topic)
                raise PublishError(
                    f"event for topic {message.topic!r} was not stored within {_PUBLISH_SECONDS:g} s: {last}"
                )
            await asyncio.sleep(wait)
            wait = min(0.5, wait * 2)

    async def publish_many(self, messages: Sequence[Message]) -> list[bool]:
        """Send all in order without waiting in between, then collect the acknowledgements: which were stored.

        Of the events of one key none is reported stored behind one that was not.
        """
        if not self.connected:
            return [False] * len(messages)
        try:
            for topic in {message.topic for message in messages}:
                await self.ensure(topic)
            results = await self._store_many(messages)
        except self.errors as error:
            log.debug("publishing: %s: %s", type(error).__name__, error)
            results = [False] * len(messages)
        lost: set[tuple[str, str]] = set()
        for number, (message, good) in enumerate(zip(messages, results, strict=True)):
            if not good:
                self.failures.add(message.topic)
                self._ensured.discard(message.topic)
                lost.add((message.topic, message.key))
            elif message.key and (message.topic, message.key) in lost:
                results[number] = False  # sent once more behind the one it overtook; the inbox knows it already
            else:
                self.published.add(message.topic)
        return results

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)
        await self._disconnect()

    @abc.abstractmethod
    async def _connect(self) -> None:
        """Connect, and stay connected or connect again; says so by `_connected` and `_disconnected`."""

    @abc.abstractmethod
    async def _disconnect(self) -> None: ...

    @abc.abstractmethod
    async def _make(self, layout: Layout) -> None: ...

    @abc.abstractmethod
    async def _store(self, message: Message) -> None: ...

    @abc.abstractmethod
    async def _store_many(self, messages: Sequence[Message]) -> list[bool]: ...

    @abc.abstractmethod
    async def subscribe(self, topic: str, group: str, sink: Sink, window: int) -> Subscription:
        """Deliver the events of `topic` to `sink` as a member of `group`, until closed."""

    @abc.abstractmethod
    async def lag(self, topic: str, group: str) -> int | None:
        """Events that wait for `group`; None where there is no such group yet."""

    @abc.abstractmethod
    async def set_aside(self, letter: DeadLetter) -> None:
        """Store a dead letter, once for each `letter.id`; afterwards it has the `handle` by which it is dropped."""

    @abc.abstractmethod
    async def dead_letters(self, topic: str, group: str) -> list[DeadLetter]:
        """Oldest first."""

    @abc.abstractmethod
    async def drop(self, letter: DeadLetter) -> None:
        """Delete a letter that `dead_letters` gave. Nothing happens if it is gone."""


SYSTEMS: Final = {
    "nats": "sampan.service.messaging.nats:NatsBroker",
    "tls": "sampan.service.messaging.nats:NatsBroker",
    "kafka": "sampan.service.messaging.kafka:KafkaBroker",
    "amqp": "sampan.service.messaging.rabbitmq:RabbitBroker",
    "amqps": "sampan.service.messaging.rabbitmq:RabbitBroker",
}
_EXTRAS: Final = {"aiokafka": "kafka", "aio_pika": "rabbitmq", "nats": "service"}


def open_broker(binding: Binding, registry: Registry, name: str = "sampan") -> Broker:
    """The broker that the scheme of the binding's uri names. BindingError for another, and without its driver."""
    scheme = binding.uri.partition("://")[0]
    place = SYSTEMS.get(scheme)
    if place is None:
        raise BindingError(
            f"binding {binding.name}: no broker is known by the scheme {scheme!r} of its uri; "
            f"use nats://HOST:4222, kafka://HOST:9092,HOST:9092 or amqp://USER:PASSWORD@HOST:5672/"
        )
    module, _, attribute = place.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise BindingError(
            f'binding {binding.name}: {scheme}:// needs the package {error.name}: pip install "sampan[{extra}]"'
        ) from error
    broker: Broker = kind(binding, registry, name)
    return broker


def key_text(value: object) -> str:
    """A key as a header carries it: printable ASCII."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and text == text.strip() else quote(text)
