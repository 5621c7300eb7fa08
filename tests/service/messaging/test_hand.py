"""What may be handled when: keys one at a time, batches, retries; the parts of the port that need no broker."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.model.bound import Transaction
from sampan.service.bindings import Binding, BindingError
from sampan.service.messaging.hand import Hand
from sampan.service.messaging.handler import Handler
from sampan.service.messaging.kafka import LeastBytes, read
from sampan.service.messaging.kafka_partitions import Track
from sampan.service.messaging.port import Delivery, Layout, key_text, open_broker
from sampan.service.messaging.topic import BrokerTopic, EventTooLarge
from sampan.service.telemetry.metrics import Registry


class Event(Struct):
    number: int


def delivery(key: str, number: int) -> Delivery:
    return Delivery(str(number).encode(), {}, f"{key}-{number}", key=key)


async def test_events_of_a_key_wait_for_one_another() -> None:
    hand = Hand(keyed=True)
    for key, number in (("a", 0), ("a", 1), ("b", 0), ("a", 2)):
        hand.add(delivery(key, number))
    (first,), (second,) = await hand.take(), await hand.take()
    assert [first.id, second.id] == ["a-0", "b-0"] and hand.blocked == 2
    taking = asyncio.create_task(hand.take())
    await asyncio.sleep(0)
    assert not taking.done()
    hand.again(first)  # to be tried once more: still in front of its key
    assert (await taking)[0] is first
    hand.done(first)
    assert [d.id for d in await hand.take()] == ["a-1"]


async def test_a_batch_holds_a_key_until_it_is_done() -> None:
    hand = Hand(keyed=True)
    for number in range(3):
        hand.add(delivery("a", number))
    batch = await hand.take(2)
    assert [d.id for d in batch] == ["a-0", "a-1"]
    hand.put_behind(batch[1:])
    hand.done(batch[0])
    assert [d.id for d in await hand.take(2)] == ["a-1", "a-2"]


async def test_without_keys_nothing_waits() -> None:
    hand = Hand(keyed=False)
    for number in range(3):
        hand.add(delivery("a", number))
    assert [d.id for d in await hand.take(9)] == ["a-0", "a-1", "a-2"]


async def test_a_taker_that_is_cancelled_takes_nothing_with_it() -> None:
    hand = Hand(keyed=False)
    takers = [asyncio.create_task(hand.take()) for _ in range(2)]
    await asyncio.sleep(0)
    hand.add(delivery("", 1))
    takers[0].cancel()
    assert [d.payload for d in await asyncio.wait_for(takers[1], 5)] == [b"1"]


async def test_any_course_keeps_the_order_of_keys_and_loses_nothing() -> None:
    chance = random.Random(7)
    for _ in range(100):
        hand, seen, keys = Hand(keyed=True), dict[str, list[int]](), "abc"
        numbers = dict.fromkeys(keys, 0)
        for _ in range(30):
            key = chance.choice(keys)
            hand.add(delivery(key, numbers[key]))
            numbers[key] += 1
        while sum(map(len, seen.values())) < 30:
            batch = await asyncio.wait_for(hand.take(chance.randint(1, 4)), 5)
            stuck: list[Delivery] = []
            by_key: dict[str, list[Delivery]] = {}
            for one in batch:
                by_key.setdefault(one.key, []).append(one)
            for key, ones in by_key.items():
                good = chance.randint(0, len(ones))
                seen.setdefault(key, []).extend(int(one.payload) for one in ones[:good])
                if good == len(ones):
                    hand.done(ones[-1])
                else:
                    stuck.append(ones[good])
                    hand.put_behind(ones[good + 1 :])
            for one in stuck:
                hand.again(one)
        assert all(numbers == sorted(numbers) for numbers in seen.values())


def test_what_a_handler_takes() -> None:
    async def alone(event: Event) -> None: ...
    async def session(event: Event, session: AsyncSession) -> None: ...
    async def tx(event: Event, tx: Transaction) -> None: ...
    async def many(events: list[Event], tx: Transaction) -> None: ...
    async def plain(event, session): ...  # type: ignore[no-untyped-def]
    async def default(event: Event, clock: Any = None) -> None: ...

    assert [(Handler(f).batches, Handler(f).needs) for f in (alone, session, tx, many, plain, default)] == [
        (False, ""),
        (False, "session"),
        (False, "transaction"),
        (True, "transaction"),
        (False, "session"),
        (False, ""),
    ]


def test_a_key_has_its_lane_for_ever() -> None:
    layout = Layout("t", True, 8)
    assert [layout.partition(key) for key in ("", "a", "user-42", "key")] == [0, 3, 3, 1]
    assert key_text(42) == "42" and key_text("ü\n") == "%C3%BC%0A"


def test_least_bytes() -> None:
    balance = LeastBytes()
    assert [balance.choose([0, 1, 2], size) for size in (100, 10, 10, 5, 5, 60)] == [0, 1, 2, 1, 2, 1]


def test_offsets_are_committed_up_to_the_first_not_handled() -> None:
    track = Track(5)
    track.waiting.extend([5, 6, 8])
    track.handled(6)
    assert track.position == 5
    track.handled(5)
    assert track.position == 7
    track.handled(8)
    assert (track.position, track.done) == (9, set())


def test_the_uri_of_kafka() -> None:
    settings, common = read(Binding("m", "kafka", "kafka://u:p%40@a:1,b:2/?fetch_min_bytes=5", {}))
    assert settings.fetch_min_bytes == 5 and settings.fetch_max_bytes == 1_000_000
    assert common["bootstrap_servers"] == ["a:1", "b:2"] and common["sasl_plain_password"] == "p@"
    with pytest.raises(BindingError, match="fetch_min_bytes"):
        read(Binding("m", "kafka", "kafka://a:1?fetch_mim_bytes=5", {}))


async def test_an_unknown_scheme_says_which_are_known() -> None:
    with pytest.raises(BindingError, match=r"'mqtt'.*nats://.*kafka://.*amqp://"):
        open_broker(Binding("messaging", "mqtt", "mqtt://u:secret@h", {}), Registry())


async def test_a_large_event_is_refused_with_its_size() -> None:
    class Blob(Struct):
        text: str

    topic = BrokerTopic("blobs", Blob, open_broker(Binding("m", "nats", "nats://127.0.0.1:1", {}), Registry()))
    with pytest.raises(EventTooLarge, match=r"'blobs' has 1,000,011 bytes, at most 1,000,000 .* Bucket"):
        await topic.publish(Blob("x" * 1_000_000))
