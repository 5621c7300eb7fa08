"""Keys, order, retries, batches, several instances: what holds on every broker."""

from __future__ import annotations

import asyncio
import collections
import random
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.service.data.database import SqlDatabase
from sampan.service.messaging.port import Broker
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, from_headers
from tests.conformance.ports.messaging import (
    Placed,
    connected,
    consuming,
    effects,
    eventually,
    numbers,
    topic_on,
)

KEYS, EACH = 6, 12


class Witness:
    """A handler that sees to it that events of one key never overlap, and fails now and then."""

    def __init__(self, *, failing: float = 0.0) -> None:
        self.seen: dict[str, list[int]] = collections.defaultdict(list)
        self.running: set[str] = set()
        self.together = 0
        self.most = 0
        self.failing = failing

    async def __call__(self, event: Placed) -> None:
        if event.note in self.running:
            self.together += 1
        self.running.add(event.note)
        self.most = max(self.most, len(self.running))
        try:
            await asyncio.sleep(0.001)
            if random.random() < self.failing:
                raise ValueError("now and then")
            self.seen[event.note].append(event.number)
        finally:
            self.running.discard(event.note)

    @property
    def total(self) -> int:
        return sum(map(len, self.seen.values()))

    def in_order(self) -> bool:
        """Each key's events once and in order, save those that came again from where a lane changed hands."""
        return all(list(dict.fromkeys(seen)) == sorted(set(seen)) for seen in self.seen.values())


async def publish_keys(topic: Any) -> None:
    for number in range(EACH):
        for key in range(KEYS):
            await topic.publish(Placed(number, f"key-{key}"))


async def test_events_of_a_key_keep_their_order_with_concurrency_and_retries(
    broker: Broker, name: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sampan.service.messaging.consumer._RETRY_FIRST", 0.01)
    witness = Witness(failing=0.15)
    topic = topic_on(broker, name, key="note", partitions=4)
    await publish_keys(topic)
    async with consuming(broker, name, witness, concurrency=4, attempts=50):
        await eventually(lambda: witness.total >= KEYS * EACH)
    assert witness.together == 0
    assert witness.most > 1  # and yet several keys at a time
    assert all(seen == list(range(EACH)) for seen in witness.seen.values()), witness.seen


async def test_a_key_keeps_its_order_over_several_instances(broker: Broker, broker_uri: str, name: str) -> None:
    """Three members with connections of their own; one comes late, one goes early."""
    witness = Witness()
    topic = topic_on(broker, name, key="note", partitions=4)
    async with connected(broker_uri) as second, connected(broker_uri) as third:
        for other in (second, third):
            topic_on(other, name, key="note", partitions=4)
        publishing = asyncio.create_task(publish_keys(topic))
        async with consuming(broker, name, witness, concurrency=3):
            async with consuming(second, name, witness, concurrency=3):
                await eventually(lambda: witness.total >= 10, 60)
            async with consuming(third, name, witness, concurrency=3):
                await publishing
                await eventually(lambda: {n for seen in witness.seen.values() for n in seen} == set(range(EACH)), 60)
                await eventually(lambda: sum(len(set(seen)) for seen in witness.seen.values()) == KEYS * EACH, 60)
    assert witness.together == 0
    assert witness.in_order(), witness.seen


async def test_a_retry_is_not_overtaken_by_its_key_and_holds_up_no_other(
    broker: Broker, name: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sampan.service.messaging.consumer._RETRY_FIRST", 0.3)
    seen: list[tuple[str, int]] = []
    tries = 0

    async def handler(event: Placed) -> None:
        nonlocal tries
        if event.note == "a" and event.number == 0:
            tries += 1
            if tries < 3:
                raise ValueError("not yet")
        seen.append((event.note, event.number))

    topic = topic_on(broker, name, key="note", partitions=16)
    layout = broker.layout(name)
    assert layout.partition("a") != layout.partition("b")
    for number in range(3):
        for key in ("a", "b"):
            await topic.publish(Placed(number, key))
    async with consuming(broker, name, handler, concurrency=2):
        await eventually(lambda: len(seen) == 6)
    assert [number for key, number in seen if key == "a"] == [0, 1, 2]
    assert [key for key, _ in seen][:3] == ["b", "b", "b"]


async def test_a_list_handler_is_given_batches_and_a_poisoned_one_is_taken_apart(
    broker: Broker, name: str, file: SqlDatabase
) -> None:
    sizes: list[int] = []

    async def many(events: list[Placed], session: AsyncSession) -> None:
        sizes.append(len(events))
        if any(event.number == 13 for event in events):
            raise ValueError("unlucky")
        await session.execute(insert(effects), [{"number": event.number, "by": "many"} for event in events])

    topic = topic_on(broker, name)
    for number in range(40):
        await topic.publish(Placed(number))
    async with consuming(broker, name, many, database=file, batch=20, attempts=1) as consumer:
        await eventually(lambda: consumer.consumed.value(name, "g", "ok") == 39)
        await eventually(lambda: consumer.consumed.value(name, "g", "dead") == 1)
    assert sorted(await numbers(file)) == [n for n in range(40) if n != 13]
    assert max(sizes) > 5


async def test_automatic_commit_is_at_most_once(broker: Broker, name: str) -> None:
    seen: list[int] = []

    async def handler(event: Placed) -> None:
        seen.append(event.number)
        raise ValueError("lost")

    topic = topic_on(broker, name)
    for number in range(5):
        await topic.publish(Placed(number))
    async with consuming(broker, name, handler, commit="automatic") as consumer:
        await eventually(lambda: consumer.consumed.value(name, "g", "lost") == 5)
        await eventually(lambda: _is_zero(broker, name))
    assert seen == [0, 1, 2, 3, 4]
    assert await broker.dead_letters(name, "g") == []


async def _is_zero(broker: Broker, name: str) -> bool:
    return await broker.lag(name, "g") == 0


async def test_producer_and_consumer_are_one_trace(broker: Broker, name: str) -> None:
    seen: list[Any] = []

    async def handler(event: Placed) -> None:
        seen.append(CURRENT.get())

    tracing.RECORDED.clear()
    token = CURRENT.set(from_headers({}))
    with tracing.span("request") as request:
        await topic_on(broker, name).publish(Placed(1))
    CURRENT.reset(token)
    async with consuming(broker, name, handler):
        await eventually(lambda: any(span.kind == tracing.CONSUMER for span in tracing.RECORDED))
    spans = {span.kind: span for span in tracing.RECORDED}
    producer, consumer = spans[tracing.PRODUCER], spans[tracing.CONSUMER]
    assert request.context and producer.context and consumer.context
    assert producer.context.parent_id == request.context.span_id
    assert consumer.context.parent_id == producer.context.span_id
    assert consumer.context.trace_id == request.context.trace_id == seen[0].trace_id
    assert (producer.name, consumer.name) == (f"send {name}", f"process {name}")
    assert consumer.attributes["messaging.system"] == broker.system
    assert consumer.attributes["messaging.consumer.group.name"] == "g"
    assert consumer.attributes["messaging.message.id"] == producer.attributes["messaging.message.id"]
