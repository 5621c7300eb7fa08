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
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from msgspec import Struct

from sampan.service.bindings import Binding, BindingError
from sampan.service.messaging.kafka_partitions import ID, KafkaSubscription, headers_of
from sampan.service.messaging.letters import from_headers, to_headers
from sampan.service.messaging.port import (
    KEEP_SECONDS,
    STORE_SECONDS,
    Broker,
    DeadLetter,
    Layout,
    Message,
    Sink,
)
from sampan.service.tasks import quietly
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.messaging")

DEAD_LETTERS: Final = "sampan-dead-letters"
_EXISTS: Final = 36
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
        while True:
            await self._reach(self._look)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        """Whether there is anybody, with a producer that has not been through an outage."""
        try:
            if self._producer is None:
                await self._produce()
            async with asyncio.timeout(3):
                if not await self._writer().client.force_metadata_update():
                    raise ConnectionError("no broker answers")
        except self.errors:
            await self._lost()
            raise
        if not self.connected:
            self._connected()

    async def _produce(self) -> None:
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
            await quietly(producer.stop())
            raise
        self._producer = producer

    async def _lost(self) -> None:
        """After an outage another producer begins: this one may wait for answers that never come."""
        self._disconnected()
        await self._disconnect()

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await quietly(producer.stop())

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
            await quietly(admin.close())

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
        headers.append((ID, message.id.encode()))
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
            await quietly(reader.stop())

    async def committed(self, group: str, partitions: list[TopicPartition]) -> dict[TopicPartition, Any]:
        """Offset (-1: none) and metadata of each."""
        async with self._admin() as admin:
            found: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(group, partitions=partitions)
        return found

    async def lag(self, topic: str, group: str) -> int | None:
        partitions = [TopicPartition(topic, number) for number in await self._partitions(topic)]
        committed = await self.committed(group, partitions)
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
        return [from_headers(topic, group, r.value, headers_of(r), handle=key) for key, r in found.items()]


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
