"""What every broker behind the topic port must do: typed, durable, at least once, in effect once."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.model.bound import Transaction
from sampan.service.bindings import Binding
from sampan.service.data.database import SqlDatabase
from sampan.service.data.tables import INBOX, OUTBOX
from sampan.service.messaging.consumer import Consumer
from sampan.service.messaging.port import Broker, Message, PublishError, open_broker
from sampan.service.telemetry.context import CURRENT, from_headers
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.messaging import (
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


async def test_published_events_arrive_typed_and_in_order(broker: Broker, name: str) -> None:
    topic, seen = topic_on(broker, name), []

    async def handler(event: Placed) -> None:
        seen.append(event)

    for number in range(10):
        await topic.publish(Placed(number, "✓"))
    async with consuming(broker, name, handler):  # and those from before the group existed
        await eventually(lambda: len(seen) == 10)
    assert seen == [Placed(number, "✓") for number in range(10)]


async def test_what_is_published_before_anybody_connects_is_stored(broker: Broker, name: str) -> None:
    """A lifespan may publish: the connection is otherwise begun when the servers listen."""
    early = open_broker(Binding("messaging", "broker", broker.uri, broker.values), Registry())
    try:
        await topic_on(early, name).publish(Placed(1))
    finally:
        await early.close()
    seen = []

    async def handler(event: Placed) -> None:
        seen.append(event.number)

    async with consuming(broker, name, handler):
        await eventually(lambda: seen == [1])


async def test_an_event_of_another_type_is_refused(broker: Broker, name: str) -> None:
    with pytest.raises(TypeError, match="Placed"):
        await topic_on(broker, name).publish({"number": 1})


async def test_every_group_gets_each_event_and_members_share(broker: Broker, name: str) -> None:
    topic = topic_on(broker, name, groups=("a", "b"), partitions=8)
    seen: dict[str, list[int]] = {"a1": [], "a2": [], "b": []}

    def handler(member: str) -> Any:
        async def handle(event: Placed) -> None:
            seen[member].append(event.number)
            await asyncio.sleep(0.002)

        return handle

    async with (
        consuming(broker, name, handler("a1"), "a"),
        consuming(broker, name, handler("a2"), "a"),
        consuming(broker, name, handler("b"), "b"),
    ):
        count = 0
        while count < 30 or not (count == 3000 or (seen["a1"] and seen["a2"])):  # until both have joined
            await topic.publish(Placed(count))
            count += 1
        await eventually(lambda: len(seen["b"]) == len(seen["a1"]) + len(seen["a2"]) == count)
    assert sorted(seen["a1"] + seen["a2"]) == list(range(count))
    assert seen["a1"] and seen["a2"]


async def test_concurrency_is_a_limit(broker: Broker, name: str) -> None:
    topic, running, most, done = topic_on(broker, name), 0, 0, 0

    async def handler(event: Placed) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        done += 1

    for number in range(12):
        await topic.publish(Placed(number))
    async with consuming(broker, name, handler, concurrency=4):
        await eventually(lambda: done == 12)
    assert most == 4


async def test_trace_context_travels_with_the_event(broker: Broker, name: str) -> None:
    seen: list[Any] = []

    async def handler(event: Placed) -> None:
        seen.append(CURRENT.get())

    sender = from_headers({"x-request-id": "req-7"})
    token = CURRENT.set(sender)
    await topic_on(broker, name).publish(Placed(1))
    CURRENT.reset(token)
    async with consuming(broker, name, handler):
        await eventually(lambda: seen)
    assert (seen[0].trace_id, seen[0].parent_id, seen[0].request_id) == (sender.trace_id, sender.span_id, "req-7")


async def test_a_failing_handler_is_retried_then_the_event_is_set_aside(broker: Broker, name: str) -> None:
    tries = {1: 0, 2: 0}

    async def handler(event: Placed) -> None:
        tries[event.number] += 1
        if event.number == 1 or tries[2] < 2:
            raise ValueError("cannot\nbe")

    topic = topic_on(broker, name)
    await topic.publish(Placed(1))
    await topic.publish(Placed(2))
    async with consuming(broker, name, handler, attempts=3) as consumer:
        await eventually(lambda: tries == {1: 3, 2: 2} and consumer.consumed.value(name, "g", "dead") == 1)
    (letter,) = await broker.dead_letters(name, "g")
    assert letter.payload == b'{"number":1,"note":""}'
    assert (letter.error, letter.attempts) == ("ValueError: cannot be", 3)


async def test_a_database_that_is_away_sets_no_event_aside(broker: Broker, name: str) -> None:
    with socket.socket() as closed:  # bound, so that nobody else takes it, and never listening
        closed.bind(("127.0.0.1", 0))
        uri = f"mysql://u:p@127.0.0.1:{closed.getsockname()[1]}/x"
        away = SqlDatabase("away", Binding("database-away", "mysql", uri, {}))
        await topic_on(broker, name).publish(Placed(1))
        async with consuming(broker, name, record, database=away, attempts=2) as consumer:
            await eventually(lambda: consumer.consumed.value(name, "g", "failed") >= 4)
            assert consumer.consumed.value(name, "g", "dead") == 0
        await away.close()


async def test_a_payload_that_does_not_decode_is_set_aside_at_once(broker: Broker, name: str) -> None:
    seen = []

    async def handler(event: Placed) -> None:
        seen.append(event.number)

    topic = topic_on(broker, name)
    await broker.publish(Message(name, b'{"number": "no"}', os.urandom(8).hex()))
    await topic.publish(Placed(5))
    async with consuming(broker, name, handler) as consumer:
        await eventually(lambda: seen == [5] and consumer.consumed.value(name, "g", "dead") == 1)


async def test_outbox_publishes_what_committed_and_nothing_else(
    broker: Broker, name: str, database: SqlDatabase
) -> None:
    topic, seen = topic_on(broker, name), []

    async def handler(event: Placed) -> None:
        seen.append(event.number)

    async with relaying(database, broker), consuming(broker, name, handler):
        with pytest.raises(RuntimeError):
            async with database.transaction() as session:
                await topic.publish(Placed(1), session)
                raise RuntimeError
        async with database.session() as session:
            await topic.publish(Placed(2), session)
            await session.rollback()
            await topic.publish(Placed(3), session)
            await session.commit()
        async with database.transaction() as session:
            for number in range(4, 9):
                await topic.publish(Placed(number), session)
        await eventually(lambda: len(seen) == 6)
        await eventually(lambda: size_is(database, OUTBOX, 0))
    assert seen == [3, 4, 5, 6, 7, 8]


async def test_a_commit_wakes_the_relay(broker: Broker, name: str, database: SqlDatabase) -> None:
    topic, seen = topic_on(broker, name), []

    async def handler(event: Placed) -> None:
        seen.append(time.perf_counter())

    async with relaying(database, broker), consuming(broker, name, handler):
        await topic.publish(Placed(0))
        await eventually(lambda: seen)
        delays = []
        for number in range(1, 6):
            async with database.transaction() as session:
                await topic.publish(Placed(number), session)
            committed = time.perf_counter()
            await eventually(lambda: len(seen) == number + 1)  # noqa: B023
            delays.append(seen[-1] - committed)
    assert sorted(delays)[2] < 0.3, delays  # polling alone would take half a second


async def test_several_relays_publish_every_row_in_effect_once(
    broker: Broker, name: str, database: SqlDatabase, database_uri: str
) -> None:
    topic = topic_on(broker, name)
    for start in range(0, 300, 50):
        async with database.transaction() as session:
            for number in range(start, start + 50):
                await topic.publish(Placed(number), session)
    other = SqlDatabase("other", Binding("b", database_uri.partition(":")[0], database_uri))
    async with relaying(database, broker), relaying(other, broker), relaying(other, broker):
        await eventually(lambda: size_is(database, OUTBOX, 0))
    await other.close()
    seen: list[int] = []

    async def handler(event: Placed, session: AsyncSession) -> None:
        seen.append(event.number)

    async with consuming(broker, name, handler, database=database):
        await eventually(lambda: len(seen) >= 300)
        await asyncio.sleep(0.3)
    assert sorted(seen) == list(range(300))


async def test_a_duplicate_has_no_second_effect(broker: Broker, name: str, database: SqlDatabase) -> None:
    """The same event once more, as after the broker's own window: the inbox catches it."""
    topic_on(broker, name)
    async with consuming(broker, name, record, database=database) as consumer:
        for copy in ("a", "b"):
            message = Message(name, b'{"number":1}', f"copy-{copy}-{name}", {"sampan-event-id": "the-event"})
            await broker.publish(message)
        await eventually(lambda: consumer.consumed.value(name, "g", "duplicate") == 1)
        assert consumer.consumed.value(name, "g", "ok") == 1
    assert await numbers(database) == [1]
    assert await size(database, INBOX) == 1


async def test_effect_and_inbox_commit_together(broker: Broker, name: str, database: SqlDatabase) -> None:
    tries = 0

    async def handler(event: Placed, session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await session.execute(insert(effects).values(number=event.number, by=str(tries)))
        if tries < 3:
            raise OSError("after the write")

    async with consuming(broker, name, handler, database=database):
        await topic_on(broker, name).publish(Placed(1))
        await eventually(lambda: size_is(database, effects, 1))
    assert tries == 3
    assert await size(database, INBOX) == 1


async def test_plain_sql_transactions_and_batches(nats_server: Any, name: str, database: SqlDatabase) -> None:
    """A handler with a Transaction, which publishes what follows from the event to another topic, read in lists."""
    insertion = "INSERT INTO effects (number, by_) VALUES (:number, :by_)".replace("by_)", f"{by(database)})", 1)
    got: list[int] = []
    tries = 0
    async with connected(nats_server.uri) as broker:
        first, second = topic_on(broker, name), topic_on(broker, f"{name}-after")

        async def on_first(event: Placed, tx: Transaction) -> None:
            nonlocal tries
            tries += 1
            await tx.execute(insertion, number=event.number, by_="first")
            await second.publish(Placed(event.number + 100), tx)
            if tries == 2:
                raise ValueError("rolled back, with its effect, its inbox entry and what it published")

        async def on_second(events: list[Placed], tx: Transaction) -> None:
            got.append(len(events))
            await tx.execute_many(insertion, [{"number": event.number, "by_": "second"} for event in events])

        async with (
            relaying(database, broker),
            consuming(broker, name, on_first, database=database),
            consuming(broker, f"{name}-after", on_second, database=database),
        ):
            async with database.begin() as tx:
                for number in range(5):
                    await first.publish(Placed(number), tx)
            await eventually(lambda: size_is(database, effects, 10))
            await eventually(lambda: size_is(database, OUTBOX, 0))
    assert sorted(await numbers(database)) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert tries == 6 and sum(got) == 5
    assert await size(database, INBOX) == 10


def by(database: SqlDatabase) -> str:
    """The column `by`, which is a word of MySQL's own."""
    return "`by`" if database.dialect == "mysql" else "by"


async def test_stop_finishes_the_event_in_hand(broker: Broker, name: str, database: SqlDatabase) -> None:
    started = asyncio.Event()

    async def handler(event: Placed, session: AsyncSession) -> None:
        started.set()
        await asyncio.sleep(0.2)
        await record(event, session)

    consumer = Consumer(broker, name, Placed, "g", handler, Registry(), database=database)
    consumer.start()
    await topic_on(broker, name).publish(Placed(1))
    await asyncio.wait_for(started.wait(), 10)
    await consumer.stop()
    assert await numbers(database) == [1]
    assert await broker.lag(name, "g") == 0


async def test_broker_that_starts_later_is_killed_and_comes_back(
    own_broker: Any, name: str, file: SqlDatabase, monkeypatch: Any
) -> None:
    """Events put into the outbox while the broker is dead are delivered, each in effect once, when it is back."""
    monkeypatch.setattr("sampan.service.messaging.port._PUBLISH_SECONDS", 60)
    own_broker.kill()
    async with connected(own_broker.uri) as broker:
        topic = topic_on(broker, name)
        async with relaying(file, broker), consuming(broker, name, record, database=file):
            direct = asyncio.create_task(topic.publish(Placed(100)))
            for number in range(40):
                if number == 10:
                    assert not direct.done()
                    await asyncio.to_thread(own_broker.start)
                    await direct
                    await eventually(lambda: size_is(file, effects, 11), 60)
                    await asyncio.sleep(1)  # a RabbitMQ that is killed sooner forgets a new queue
                if number == 20:
                    own_broker.kill()
                if number == 30:
                    await asyncio.to_thread(own_broker.start)
                async with file.transaction() as session:
                    await topic.publish(Placed(number), session)
            await eventually(lambda: size_is(file, effects, 41), 60)
    assert sorted(await numbers(file)) == [*range(40), 100]


async def test_a_bad_network_loses_and_doubles_nothing(
    own_broker: Any, name: str, file: SqlDatabase, monkeypatch: Any
) -> None:
    """Latency, resets in the middle, a connection gone without a word; events and their relay go on, in order."""
    monkeypatch.setattr("sampan.service.messaging.port._PUBLISH_SECONDS", 60)
    proxy, count = own_broker.proxy, 0
    relayed: list[int] = []
    async with connected(own_broker.uri) as broker:
        topic = topic_on(broker, name, key="note", partitions=2)

        async def publish(direct: bool = False) -> None:
            nonlocal count
            for number in range(count, count + 8):
                event = Placed(number, f"key-{number % 3}")
                if direct:
                    await topic.publish(event)
                    continue
                async with file.transaction() as session:
                    await topic.publish(event, session)
                relayed.append(number)
            count += 8

        async with relaying(file, broker), consuming(broker, name, record, database=file, concurrency=2):
            await publish(direct=True)
            proxy.latency = 0.02
            await publish()
            proxy.reset_all()
            await publish()
            await eventually(lambda: size_is(file, effects, count), 60)
            proxy.latency = 0.0
            proxy.blackhole = True
            away = asyncio.create_task(topic.publish(Placed(1000, "key-0")))
            await publish()
            await asyncio.sleep(1)
            assert not away.done()
            proxy.reset_all()
            proxy.blackhole = False
            await away
            await publish(direct=True)
            proxy.reset_after(2000)
            await publish()
            await eventually(lambda: size_is(file, effects, count + 1), 60)
    seen = await numbers(file)
    assert sorted(seen) == [*range(count), 1000]
    for key in range(3):  # what went straight to the broker may have overtaken what waited in the outbox
        of_key = [number for number in seen if number % 3 == key and number in relayed]
        assert of_key == sorted(of_key)


async def test_direct_publish_waits_for_the_broker_or_says_so(own_nats: Any, name: str, monkeypatch: Any) -> None:
    async with connected(own_nats.uri) as broker:
        topic = topic_on(broker, name)
        await topic.publish(Placed(1))
        own_nats.kill()
        waiting = asyncio.create_task(topic.publish(Placed(2)))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        own_nats.start()
        await waiting
        assert broker.published.value(name) == 2
        own_nats.kill()
        monkeypatch.setattr("sampan.service.messaging.port._PUBLISH_SECONDS", 0.4)
        with pytest.raises(PublishError, match="not stored"):
            await topic.publish(Placed(3))


async def test_broker_that_starts_later_and_one_that_comes_back_empty(own_nats: Any, name: str, tmp_path: Any) -> None:
    own_nats.kill()
    async with connected(own_nats.uri) as broker:
        seen = []

        async def handler(event: Placed) -> None:
            seen.append(event.number)

        topic = topic_on(broker, name)
        async with consuming(broker, name, handler):
            first = asyncio.create_task(topic.publish(Placed(1)))
            await asyncio.sleep(0.2)
            own_nats.start()
            await first
            await eventually(lambda: seen == [1])
            own_nats.kill()
            (tmp_path / "nats").rename(tmp_path / "gone")
            own_nats.start()
            await topic.publish(Placed(2))
            await eventually(lambda: seen == [1, 2])
