"""Publishing and consuming beside plain clients of the same broker, in the same run and in turns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from benchmarks import PeerMissing, Row, row
from benchmarks.service.harness import AREA

COUNT, ROUNDS = 1000, 3
PAYLOAD = b'{"number":1,"text":"an event of ordinary size, with an address and a few more words in it"}'
MORE: dict[str, Any] = {"more_is_better": True}


class Event(Struct):
    number: int
    text: str = "an event of ordinary size, with an address and a few more words in it"


def run() -> Iterable[Row]:
    from _pytest.outcomes import Skipped

    from tests.servers.kafka import start_kafka
    from tests.servers.nats import start_nats
    from tests.servers.rabbitmq import start_rabbitmq

    logging.getLogger("sampan").setLevel(logging.ERROR)
    missing = []
    for start, measure in ((start_nats, nats_rows), (start_rabbitmq, rabbitmq_rows), (start_kafka, kafka_rows)):
        with tempfile.TemporaryDirectory() as made:
            try:
                server = start(Path(made))
            except Skipped as reason:
                missing.append(str(reason))
                continue
            try:
                yield from measure(server.uri, Path(made))
            finally:
                server.stop()
    if missing:
        raise PeerMissing("; ".join(missing))


def run_alone(work: Awaitable[Any]) -> Any:
    """On uvloop, as a service runs."""
    import uvloop

    async def main() -> Any:
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def turns(*each: Callable[[], Awaitable[float]]) -> list[float]:
    """The medians of rates, measured in turns."""
    taken: list[list[float]] = [[] for _ in each]
    for number in range(ROUNDS):
        pairs = list(zip(each, taken, strict=True))
        for measured, rates in pairs if number % 2 == 0 else reversed(pairs):
            rates.append(await measured())
    return [sorted(rates)[ROUNDS // 2] for rates in taken]


async def timed(work: Awaitable[Any], count: int = COUNT) -> float:
    started = time.perf_counter()
    await work
    return count / (time.perf_counter() - started)


@contextlib.asynccontextmanager
async def ours(uri: str) -> AsyncIterator[Any]:
    from sampan.service.bindings import Binding
    from sampan.service.messaging.port import open_broker
    from sampan.service.telemetry.metrics import Registry

    broker = open_broker(Binding("messaging", "", uri), Registry())
    broker.start()
    try:
        await broker.ready()
        yield broker
    finally:
        await broker.close()


def topic_on(broker: Any, name: str, *groups: str) -> Any:
    from sampan.service.messaging.port import Layout
    from sampan.service.messaging.topic import BrokerTopic

    broker.declare(Layout(name, partitions=1, groups=groups))
    return BrokerTopic(name, Event, broker)


async def one_at_a_time(publish: Callable[[int], Awaitable[Any]]) -> float:
    async def all_() -> None:
        for number in range(COUNT):
            await publish(number)

    return await timed(all_())


async def consume(broker: Any, name: str, group: str, handler: Any, wanted: Callable[[], bool], **more: Any) -> float:
    from sampan.service.messaging.consumer import Consumer
    from sampan.service.telemetry.metrics import Registry

    consumer = Consumer(broker, name, Event, group, handler, Registry(), **more)

    async def until() -> None:
        consumer.start()
        while not wanted():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    try:
        return await timed(until())
    finally:
        await consumer.stop()


class Counted:
    """Handlers that count; a new group each time reads the topic from its beginning."""

    def __init__(self) -> None:
        self.seen = 0

    def all_seen(self) -> bool:
        return self.seen >= COUNT

    async def alone(self, event: Event) -> None:
        self.seen += 1

    async def session(self, event: Event, session: Any) -> None:
        self.seen += 1

    async def transaction(self, event: Event, tx: Transaction) -> None:  # type: ignore[name-defined]  # noqa: F821
        self.seen += 1

    async def many(self, events: list[Event], tx: Transaction) -> None:  # type: ignore[name-defined]  # noqa: F821
        self.seen += len(events)


def nats_rows(uri: str, directory: Path) -> Iterator[Row]:
    straight, plain, outbox, consumed, pulled, *database = run_alone(_nats(uri, directory))
    yield row(AREA, "publish straight, one at a time", straight, "events/s", peer="nats-py", peer_value=plain, **MORE)
    yield row(AREA, "commit to the outbox and relay, 50 a transaction", outbox, "events/s")
    yield row(AREA, "consume, no database", consumed, "events/s", peer="nats-py pull", peer_value=pulled, **MORE)
    names = ("session", "transaction", "transaction, a list at a time")
    for name, rate in zip(names, database, strict=True):
        yield row(AREA, f"consume with inbox in SQLite, {name}", rate, "events/s")


async def _nats(uri: str, directory: Path) -> list[float]:
    import nats

    from sampan.service.bindings import Binding
    from sampan.service.data.database import SqlDatabase
    from sampan.service.messaging.outbox import Relay
    from sampan.service.telemetry.metrics import Registry

    client = await nats.connect(uri)
    stream: Any = client.jetstream()
    await stream.add_stream(name="plain", subjects=["plain"])
    database = SqlDatabase("bench", Binding("b", "sqlite", f"sqlite:///{directory / 'bench.db'}"))
    await database.ensure_tables()
    async with ours(uri) as broker:
        topic, ids = topic_on(broker, "direct"), iter(range(1_000_000))
        await topic.publish(Event(0))
        published = await turns(
            lambda: one_at_a_time(lambda number: topic.publish(Event(number))),
            lambda: one_at_a_time(lambda _: stream.publish("plain", PAYLOAD, headers={"Nats-Msg-Id": str(next(ids))})),
        )

        async def pull() -> float:
            group = os.urandom(4).hex()
            subscription = await stream.pull_subscribe("plain", group)

            async def all_() -> None:
                seen = 0
                while seen < COUNT:
                    for message in await subscription.fetch(100):
                        await message.ack()
                        seen += 1

            return await timed(all_())

        async def take(kind: str, **more: Any) -> float:
            counted = Counted()
            return await consume(
                broker, "direct", os.urandom(4).hex(), getattr(counted, kind), counted.all_seen, **more
            )

        consumed = await turns(lambda: take("alone"), pull)
        with_database = await turns(
            lambda: take("session", database=database),
            lambda: take("transaction", database=database),
            lambda: take("many", database=database),
        )
        relay = Relay(database, broker, Registry())
        relay.start()
        outbox = topic_on(broker, "outbox")

        async def through_outbox() -> float:
            before = relay.relayed.value("bench")

            async def all_() -> None:
                for batch in range(COUNT // 50):
                    async with database.begin() as tx:
                        for number in range(50):
                            await outbox.publish(Event(batch * 50 + number), tx)
                while relay.relayed.value("bench") - before < COUNT:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

            return await timed(all_())

        (relayed,) = await turns(through_outbox)
        await relay.stop()
    await client.close()
    await database.close()
    return [*published, relayed, *consumed, *with_database]


def rabbitmq_rows(uri: str, _: Path) -> Iterator[Row]:
    async def measure() -> list[float]:
        import aio_pika

        plain = await aio_pika.connect(uri)
        channel = await plain.channel()
        await channel.declare_queue("plain", durable=True, arguments={"x-queue-type": "quorum"})
        async with ours(uri) as broker:
            topic = topic_on(broker, "direct", "g")
            await topic.publish(Event(0))
            message = aio_pika.Message(PAYLOAD, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            rates = await turns(
                lambda: one_at_a_time(lambda number: topic.publish(Event(number))),
                lambda: one_at_a_time(lambda _: channel.default_exchange.publish(message, "plain")),
            )
        await plain.close()
        return rates

    straight, peer = run_alone(measure())
    yield row(AREA, "publish straight, RabbitMQ", straight, "events/s", peer="aio-pika", peer_value=peer, **MORE)


def kafka_rows(uri: str, _: Path) -> Iterator[Row]:
    async def measure() -> list[float]:
        from aiokafka import AIOKafkaProducer

        async with ours(uri) as broker:
            topic = topic_on(broker, "direct")
            await topic.publish(Event(0))
            plain = AIOKafkaProducer(bootstrap_servers=uri.partition("//")[2], acks="all", enable_idempotence=True)
            await plain.start()
            rates = await turns(
                lambda: one_at_a_time(lambda number: topic.publish(Event(number))),
                lambda: one_at_a_time(lambda _: plain.send_and_wait("direct", PAYLOAD)),
            )
            await plain.stop()
        return rates

    straight, peer = run_alone(measure())
    yield row(AREA, "publish straight, Kafka", straight, "events/s", peer="aiokafka", peer_value=peer, **MORE)
