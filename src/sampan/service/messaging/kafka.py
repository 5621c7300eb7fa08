"""Apache Kafka: a topic is a topic, its partitions are the lanes, a consumer group is a group.

Events with a key go where every Kafka client would send them (murmur2 of the key), others to the partition that has
had the fewest bytes from here. The producer is idempotent and waits for all replicas in sync. Offsets are committed
up to the first event that is not handled yet; a member that loses a partition finishes what it has of it first.
Dead letters are a compacted topic.

The uri: kafka://[USER:PASSWORD@]HOST:9092[,HOST:9092...][?fetch_min_bytes=1000&...]; `Settings` has the parameters.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from msgspec import Struct

from sampan.service.bindings import Binding, BindingError
from sampan.service.messaging.letters import from_headers, to_headers
from sampan.service.messaging.port import (
    KEEP_SECONDS,
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

DEAD_LETTERS: Final = "sampan-dead-letters"
_ID: Final = "sampan-id"
_EXISTS: Final = 36
_COMMIT_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 2.0


class Settings(Struct, forbid_unknown_fields=True):
    """What may stand behind the `?` of the uri. Sizes are in bytes, times in milliseconds.

    A fetch waits for `fetch_min_bytes`, at most `fetch_max_wait_ms`, and brings at most `fetch_max_bytes`.
    """

    fetch_min_bytes: int = 1000
    fetch_max_bytes: int = 1_000_000
    fetch_max_wait_ms: int = 50
    session_timeout_ms: int = 6000
    security_protocol: str = ""
    sasl_mechanism: str = "PLAIN"


class LeastBytes:
    """The partition that has had the fewest bytes."""

    def __init__(self) -> None:
        self._sent: dict[int, int] = {}

    def choose(self, partitions: Sequence[int], size: int) -> int:
        best = min(partitions, key=lambda partition: self._sent.get(partition, 0))
        self._sent[best] = self._sent.get(best, 0) + size
        return best


class KafkaBroker(Broker):
    system: ClassVar[str] = "kafka"
    errors: ClassVar[tuple[type[Exception], ...]] = (KafkaError, OSError, TimeoutError)

    def __init__(self, binding: Binding, registry: Registry, name: str = "sampan") -> None:
        super().__init__(binding, registry, name)
        self.settings, self.common = read(binding)
        self.common["client_id"] = name
        self._producer: AIOKafkaProducer | None = None
        self._balance: dict[str, LeastBytes] = {}
        noisy = logging.getLogger("aiokafka")
        if noisy.level == logging.NOTSET:  # a line for every attempt of every connection; we say it once
            noisy.setLevel(logging.CRITICAL)

    async def _connect(self) -> None:
        said = False
        while True:
            try:
                if self._producer is None:
                    producer = AIOKafkaProducer(
                        **self.common,
                        enable_idempotence=True,
                        acks="all",
                        max_request_size=2_000_000,
                        request_timeout_ms=10_000,
                        retry_backoff_ms=50,
                    )
                    try:
                        await producer.start()
                    except BaseException:
                        await _quietly(producer.stop())
                        raise
                    self._producer = producer
                async with asyncio.timeout(3):
                    answers = await self._producer.client.force_metadata_update()
                if answers and not self.connected:
                    self._connected()
                elif not answers:
                    await self._lost()
            except self.errors as error:
                await self._lost()
                if not said and not self.connected_once:
                    log.warning("broker not reachable yet: %s", error)
                    said = True
            await asyncio.sleep(_LOOK_SECONDS if self.connected else 0.1)

    async def _lost(self) -> None:
        """After an outage another producer begins: this one may wait for answers that never come."""
        self._disconnected()
        await self._disconnect()

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _quietly(producer.stop())

    @contextlib.asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        """Around what the producer does: one that has failed for good makes room for another."""
        try:
            async with asyncio.timeout(STORE_SECONDS):
                yield
        except KafkaError as error:
            await self._renew(error)
            raise

    async def _renew(self, error: KafkaError) -> None:
        """Not retriable: for instance, the broker no longer knows the sequence numbers of this producer."""
        if not error.retriable and self._producer is not None:
            await self._disconnect()
            self._disconnected()

    async def _make(self, layout: Layout) -> None:
        settings = {"retention.ms": str(KEEP_SECONDS * 1000)}
        if layout.name == DEAD_LETTERS:
            settings = {"cleanup.policy": "compact"}
        replicas = int(os.environ.get("SAMPAN_MESSAGING_REPLICAS", "1"))
        new = NewTopic(layout.name, layout.partitions, replicas, topic_configs=settings)
        async with self._admin() as admin:
            reply = await admin.create_topics([new])
        for _name, code, *words in reply.topic_errors:
            if code not in (0, _EXISTS):
                raise KafkaError(f"topic {layout.name} cannot be made: {words or code}")
        await self._partitions(layout.name)

    @contextlib.asynccontextmanager
    async def _admin(self) -> Any:
        admin = AIOKafkaAdminClient(**self.common, request_timeout_ms=5000)
        try:
            await admin.start()
            yield admin
        finally:
            await _quietly(admin.close())

    async def _partitions(self, topic: str) -> list[int]:
        producer = self._writer()
        found = producer.client.cluster.partitions_for_topic(topic)
        while not found:  # it takes a moment until the news of a new topic has come round
            await asyncio.sleep(0.02)
            found = await producer.partitions_for(topic)
        return sorted(found)

    def _writer(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise ConnectionError("not connected to the broker")
        return self._producer

    async def _send(self, message: Message) -> asyncio.Future[Any]:
        headers = [(name, value.encode()) for name, value in message.headers.items()]
        headers.append((_ID, message.id.encode()))
        key, partition = message.key.encode() or None, None
        if key is None:
            balance = self._balance.setdefault(message.topic, LeastBytes())
            partition = balance.choose(await self._partitions(message.topic), len(message.payload))
        sent: asyncio.Future[Any] = await self._writer().send(
            message.topic, message.payload, key=key, partition=partition, headers=headers
        )
        return sent

    async def _store(self, message: Message) -> None:
        async with self._sending():
            await (await self._send(message))

    async def _store_many(self, messages: Sequence[Message]) -> list[bool]:
        async with self._sending():
            futures = [await self._send(message) for message in messages]
        await asyncio.wait(futures, timeout=STORE_SECONDS)
        results = []
        for future in futures:
            error = future.exception() if future.done() and not future.cancelled() else None
            if isinstance(error, KafkaError):
                await self._renew(error)
            results.append(future.done() and not future.cancelled() and error is None)
        return results

    async def subscribe(self, topic: str, group: str, sink: Sink, window: int) -> KafkaSubscription:
        await self.ensure(topic)
        subscription = KafkaSubscription(self, topic, group, sink, window)
        await subscription.open()
        return subscription

    @contextlib.asynccontextmanager
    async def _reader(self) -> Any:
        reader = AIOKafkaConsumer(
            **self.common, enable_auto_commit=False, auto_offset_reset="earliest", request_timeout_ms=5000
        )
        try:
            await reader.start()
            yield reader
        finally:
            await _quietly(reader.stop())

    async def lag(self, topic: str, group: str) -> int | None:
        partitions = [TopicPartition(topic, number) for number in await self._partitions(topic)]
        async with self._admin() as admin:
            committed = await admin.list_consumer_group_offsets(group, partitions=partitions)
        if all(offset.offset < 0 for offset in committed.values()):
            return None
        async with self._reader() as reader:
            ends = await reader.end_offsets(partitions)
            starts = await reader.beginning_offsets(partitions)
        waiting: int = sum(ends[p] - max(committed[p].offset, starts[p]) for p in partitions)
        return waiting

    async def set_aside(self, letter: DeadLetter) -> None:
        await self._put_letter(letter, letter.payload)

    async def drop(self, letter: DeadLetter) -> None:
        await self._put_letter(letter, None)

    async def _put_letter(self, letter: DeadLetter, payload: bytes | None) -> None:
        self.declare(Layout(DEAD_LETTERS, partitions=1))
        await self.ensure(DEAD_LETTERS)
        key = f"{letter.topic}/{letter.group}/{letter.id}".encode()
        headers = [(name, value.encode()) for name, value in to_headers(letter).items()]
        async with self._sending():
            await self._writer().send_and_wait(DEAD_LETTERS, payload, key=key, headers=headers)

    async def dead_letters(self, topic: str, group: str) -> list[DeadLetter]:
        self.declare(Layout(DEAD_LETTERS, partitions=1))
        await self.ensure(DEAD_LETTERS)
        partition, prefix = TopicPartition(DEAD_LETTERS, 0), f"{topic}/{group}/".encode()
        found: dict[bytes, Any] = {}
        async with self._reader() as reader:
            reader.assign([partition])
            await reader.seek_to_beginning(partition)
            end = (await reader.end_offsets([partition]))[partition]
            while await reader.position(partition) < end:
                for record in (await reader.getmany(partition, timeout_ms=500)).get(partition, ()):
                    if not record.key.startswith(prefix):
                        continue
                    found.pop(record.key, None)
                    if record.value is not None:
                        found[record.key] = record
        return [from_headers(topic, group, r.value, _headers(r), handle=key) for key, r in found.items()]


def read(binding: Binding) -> tuple[Settings, dict[str, Any]]:
    """The settings and what every client is given. BindingError says what in the uri is wrong."""
    rest, _, query = binding.uri.partition("://")[2].partition("?")
    login, _, hosts = rest.rpartition("@")
    pairs = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    try:
        settings = msgspec.convert(pairs, Settings, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Settings.__struct_fields__)
        raise BindingError(f"binding {binding.name}: in its uri, {error}; known are {known}") from None
    user, _, password = login.partition(":")
    user, password = (
        binding.values.get("username") or unquote(user),
        binding.values.get("password") or unquote(password),
    )
    protocol = settings.security_protocol or ("SASL_PLAINTEXT" if user else "PLAINTEXT")
    common: dict[str, Any] = {"bootstrap_servers": hosts.strip("/").split(","), "security_protocol": protocol}
    if user:
        common |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": user,
            "sasl_plain_password": password,
        }
    if protocol.endswith("SSL"):
        common["ssl_context"] = ssl.create_default_context(cadata=binding.values.get("ca.crt"))
    return settings, common


async def _quietly(work: Any) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(3):
            await work


def _headers(record: Any) -> dict[str, str]:
    return {name.lower(): value.decode("utf-8", "replace") for name, value in record.headers if value is not None}


class Track:
    """Offsets of one partition: those delivered and not yet handled, and up to where it may be committed."""

    __slots__ = ("committed", "done", "position", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[int] = deque()
        self.done: set[int] = set()
        self.position = self.committed = -1

    def handled(self, offset: int) -> None:
        self.done.add(offset)
        while self.waiting and self.waiting[0] in self.done:
            first = self.waiting.popleft()
            self.done.discard(first)
            self.position = first + 1


class KafkaDelivery(Delivery):
    __slots__ = ("_offset", "_subscription", "_track")

    def __init__(self, subscription: KafkaSubscription, record: Any, track: Track) -> None:
        headers = _headers(record)
        lane = f"{record.topic}-{record.partition}"
        key = record.key.decode("utf-8", "replace") if record.key else ""
        event_id = headers.pop(_ID, "") or f"{lane}:{record.offset}"
        super().__init__(record.value or b"", headers, event_id, key=key, lane=lane)
        self._subscription, self._track, self._offset = subscription, track, record.offset

    async def ack(self) -> None:
        self._track.handled(self._offset)
        self._subscription.settled()

    async def release(self) -> None:
        self._subscription.settled()


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]  # has no types
    def __init__(self, broker: KafkaBroker, topic: str, group: str, sink: Sink, window: int) -> None:
        self.broker, self.topic, self.group, self.sink = broker, topic, group, sink
        self._window = window
        self._outstanding = 0
        self._room = asyncio.Event()
        self._fetching = asyncio.Lock()  # held while records are on their way from the client to the sink
        self._tracks: dict[TopicPartition, Track] = {}
        self._tasks: list[asyncio.Task[None]] = []
        settings = broker.settings
        self._consumer = AIOKafkaConsumer(
            **broker.common,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_min_bytes=settings.fetch_min_bytes,
            fetch_max_bytes=settings.fetch_max_bytes,
            max_partition_fetch_bytes=settings.fetch_max_bytes,
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=max(200, settings.session_timeout_ms // 4),
            rebalance_timeout_ms=15_000,
            max_poll_interval_ms=24 * 3600 * 1000,  # a full window is no failure; a stuck loop sends no heartbeats
            request_timeout_ms=16_000,
            retry_backoff_ms=50,
            metadata_max_age_ms=60_000,
        )

    @property
    def window(self) -> int:
        return self._window

    @window.setter
    def window(self, amount: int) -> None:
        self._window = amount
        self._room.set()

    def settled(self) -> None:
        self._outstanding -= 1
        self._room.set()

    async def open(self) -> None:
        self._consumer.subscribe([self.topic], listener=self)
        try:
            await self._consumer.start()
        except BaseException:
            await _quietly(self._consumer.stop())
            raise
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._commit_often())]

    async def _pump(self) -> None:
        while True:
            room = self._window - self._outstanding
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                async with self._fetching:
                    for records in (await self._consumer.getmany(timeout_ms=200, max_records=room)).values():
                        for record in records:
                            self._deliver(record)
                await asyncio.sleep(0)  # whoever waits for the lock comes first
            except self.broker.errors as error:
                log.info("consumer %s of %s: %s", self.group, self.topic, error or type(error).__name__)
                await asyncio.sleep(0.2)
                with contextlib.suppress(*self.broker.errors):
                    await self.broker.ensure(self.topic)

    def _deliver(self, record: Any) -> None:
        track = self._tracks.setdefault(TopicPartition(record.topic, record.partition), Track())
        track.waiting.append(record.offset)
        self._outstanding += 1
        self.sink.deliver(KafkaDelivery(self, record, track))

    async def on_partitions_revoked(self, revoked: Any) -> None:
        async with self._fetching:
            await self.sink.revoke({f"{p.topic}-{p.partition}" for p in revoked})
            await self._commit()
            for partition in revoked:
                track = self._tracks.pop(partition, None)
                if track is not None:
                    self._outstanding -= len(track.waiting) - len(track.done)
                    track.waiting.clear()
            self._room.set()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        log.debug("consumer %s of %s has %s", self.group, self.topic, sorted(p.partition for p in assigned))

    async def _commit(self) -> None:
        new = {p: t.position for p, t in self._tracks.items() if t.position > t.committed}
        if not new:
            return
        try:
            async with asyncio.timeout(5):
                await self._consumer.commit(new)
        except self.broker.errors as error:  # they come again
            log.info("offsets of %s in %s not committed: %s", self.group, self.topic, error or type(error).__name__)
            return
        for partition, position in new.items():
            if partition in self._tracks:
                self._tracks[partition].committed = position

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_SECONDS)
            await self._commit()

    async def halt(self) -> None:
        pump = self._tasks.pop(0)
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._commit()
        await _quietly(self._consumer.stop())
