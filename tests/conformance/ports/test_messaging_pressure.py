"""A broker whose disk is full, and consumers slower than their publishers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.service.data.database import SqlDatabase
from sampan.service.messaging.consumer import Consumer
from sampan.service.messaging.port import Broker
from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.conftest import STARTS
from tests.conformance.ports.messaging import (
    BROKERS,
    Placed,
    connected,
    consuming,
    effects,
    eventually,
    numbers,
    record,
    relaying,
    size,
    size_is,
    topic_on,
)
from tests.faults import fill, mounted
from tests.servers.base import running

# bytes left free: RabbitMQ stops taking messages below its limit of 1 MB, at its next look; what comes before must fit
LEFT = {"nats": 0, "kafka": 0, "rabbitmq": 950_000}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    with mounted(tmp_path / "disk", "96m") as place:
        yield place


@pytest.mark.parametrize("kind", BROKERS)
async def test_a_full_disk_of_the_broker_loses_and_doubles_nothing(
    kind: str, disk: Path, name: str, file: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ goes on by itself once there is room; NATS and Kafka have to be started again by whoever made it."""
    monkeypatch.setattr("sampan.service.messaging.port._PUBLISH_SECONDS", 3)
    with running(STARTS[kind](disk)) as server:
        async with connected(server.uri) as broker:
            topic = topic_on(broker, name)
            async with relaying(file, broker), consuming(broker, name, record, database=file):

                async def publish(first: int) -> None:
                    for number in range(first, first + 10):
                        async with file.transaction() as session:
                            await topic.publish(Placed(number, "n" * 50_000), session)

                await publish(0)
                await eventually(lambda: size_is(file, effects, 10), 60)
                await asyncio.to_thread(fill, disk / "ballast", LEFT[kind])
                await publish(10)
                if kind == "rabbitmq":
                    await eventually(lambda: b"disk resource limit alarm set" in server.log.read_bytes(), 60)
                await publish(20)
                await asyncio.sleep(1)
                assert await size(file, "sampan_outbox") > 0  # what it could not store waits here
                (disk / "ballast").unlink()
                if kind != "rabbitmq":
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                await eventually(lambda: size_is(file, effects, 30), 90)
                await eventually(lambda: size_is(file, "sampan_outbox", 0))
    assert sorted(await numbers(file)) == list(range(30))


async def test_a_slow_consumer_holds_few_events_and_another_takes_over(broker: Broker, name: str) -> None:
    """One that is slow does not sit upon all there is: who comes later gets a share, and publishers do not wait."""
    topic = topic_on(broker, name, key="note", partitions=8)
    handled: list[tuple[str, int]] = []

    def handler(who: str, seconds: float) -> Any:
        async def handle(event: Placed) -> None:
            await asyncio.sleep(seconds)
            handled.append((who, event.number))

        return handle

    async with consuming(broker, name, handler("slow", 0.3)):
        for number in range(80):
            await topic.publish(Placed(number, f"key-{number % 40}"))
        await eventually(lambda: handled)
        assert (await broker.lag(name, "g") or 0) > 0
        async with connected(broker.uri) as other:
            topic_on(other, name, key="note", partitions=8)
            async with consuming(other, name, handler("quick", 0.0), concurrency=4):
                await eventually(lambda: Counter(who for who, _ in handled)["quick"] >= 10, 60)


async def test_a_handler_that_hangs_is_ended_and_its_event_set_aside(broker: Broker, name: str) -> None:
    left: list[float | None] = []

    async def handler(event: Placed) -> None:
        context = CURRENT.get()
        left.append(context.remaining() if context is not None else None)
        if event.number == 1:
            await asyncio.Event().wait()

    topic = topic_on(broker, name, key="note")
    await topic.publish(Placed(1, "a"))
    await topic.publish(Placed(2, "a"))
    async with consuming(broker, name, handler, attempts=2, timeout=0.5) as consumer:
        await eventually(lambda: consumer.consumed.value(name, "g", "ok") == 1)
        assert consumer.consumed.value(name, "g", "dead") == 1
    (letter,) = await broker.dead_letters(name, "g")
    assert (letter.error, letter.attempts) == ("TimeoutError: the handler took longer than 0.5 s", 2)
    assert len(left) == 3 and all(seconds is not None and 0 < seconds <= 0.5 for seconds in left)
    with pytest.raises(ValueError, match="timeout=0"):
        Consumer(broker, name, Placed, "g", handler, Registry(), timeout=0)
