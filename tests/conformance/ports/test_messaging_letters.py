"""Dead letters: set aside once, shown, put back for the one group that failed, dropped."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.service.data.database import SqlDatabase
from sampan.service.messaging.letters import replay
from sampan.service.messaging.port import Broker
from tests.conformance.ports.messaging import (
    Placed,
    consuming,
    effects,
    eventually,
    numbers,
    topic_on,
)


async def dead(broker: Broker, name: str, count: int, group: str = "g") -> bool:
    return len(await broker.dead_letters(name, group)) == count


async def test_replay_goes_to_the_group_that_failed_and_takes_effect_once(
    broker: Broker, name: str, file: SqlDatabase
) -> None:
    healthy, others = False, []

    async def failing(event: Placed, session: AsyncSession) -> None:
        if not healthy and event.number != 2:
            raise ValueError("ünwell")
        await session.execute(insert(effects).values(number=event.number, by="g"))

    async def other(event: Placed) -> None:
        others.append(event.number)

    topic = topic_on(broker, name, groups=("g", "other"))
    async with (
        consuming(broker, name, failing, database=file, attempts=1) as consumer,
        consuming(broker, name, other, "other"),
    ):
        for number in (1, 2, 3):
            await topic.publish(Placed(number, "näme"))
        await eventually(lambda: dead(broker, name, 2))
        letters = await broker.dead_letters(name, "g")
        assert [letter.payload for letter in letters] == [
            '{"number":1,"note":"näme"}'.encode(),
            '{"number":3,"note":"näme"}'.encode(),
        ]
        assert letters[0].error == "ValueError: \\xfcnwell" and letters[0].attempts == 1 and letters[0].at > 0
        await replay(broker, letters[0])  # too early: it is set aside again, as another letter
        await eventually(lambda: consumer.consumed.value(name, "g", "dead") == 3)
        await eventually(lambda: dead(broker, name, 2))
        healthy = True
        letters = await broker.dead_letters(name, "g")
        for letter in [*letters, letters[0]]:  # one of them twice, as by two people at once
            await replay(broker, letter)
        await eventually(lambda: consumer.consumed.value(name, "g", "ok") >= 3)
        await eventually(lambda: dead(broker, name, 0))
        await topic.publish(Placed(4))
        await eventually(lambda: consumer.consumed.value(name, "g", "ok") == 4 and 4 in others)
    assert sorted(await numbers(file)) == [1, 2, 3, 4]
    assert sorted(others) == [1, 2, 3, 4]


async def test_a_letter_is_kept_once_and_dropped(broker: Broker, name: str) -> None:
    async def failing(event: Placed) -> None:
        raise ValueError(event.number)

    topic = topic_on(broker, name)
    async with consuming(broker, name, failing, attempts=1):
        for number in range(3):
            await topic.publish(Placed(number))
        await eventually(lambda: dead(broker, name, 3))
    first, second, third = await broker.dead_letters(name, "g")
    await broker.set_aside(second)  # who died between setting aside and acknowledging does it again
    assert await dead(broker, name, 3)
    await broker.drop(second)
    await broker.drop(second)
    assert [letter.id for letter in await broker.dead_letters(name, "g")] == [first.id, third.id]
    assert await broker.dead_letters(name, "nobody") == []


async def test_a_keyed_event_that_is_set_aside_lets_its_key_go_on(broker: Broker, name: str) -> None:
    seen: list[Any] = []

    async def handler(event: Placed) -> None:
        if event.number == 0:
            raise ValueError("never")
        seen.append(event.number)

    topic = topic_on(broker, name, key="note", partitions=2)
    for number in range(3):
        await topic.publish(Placed(number, "the key"))
    async with consuming(broker, name, handler, attempts=2):
        await eventually(lambda: seen == [1, 2])
        await eventually(lambda: dead(broker, name, 1))
    (letter,) = await broker.dead_letters(name, "g")
    assert letter.key == "the key"
