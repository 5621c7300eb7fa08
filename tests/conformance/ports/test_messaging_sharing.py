"""The lanes of a topic with keys are shared out among the members of a group, as they come, go and die."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from sampan.service.messaging.members import shares
from sampan.service.messaging.port import Broker
from sampan.service.messaging.rabbitmq_lanes import RabbitSubscription
from tests.conformance.ports.messaging import Placed, connected, consuming, eventually, topic_on
from tests.servers.base import Server

LANES = 8


@pytest.mark.parametrize("lanes", [1, 2, 7, 8, 32])
def test_shares_are_even_whole_and_move_little(lanes: int) -> None:
    names = [f"orders.g.{number}" for number in range(lanes)]
    members = [f"{random.Random(number).getrandbits(48):012x}" for number in range(6)]
    before: dict[str, list[str]] = {}
    for count in range(1, 7):
        now = shares(names, members[:count])
        assert now == shares(names, reversed(members[:count]))
        assert sorted(lane for mine in now.values() for lane in mine) == sorted(names)
        assert max(map(len, now.values())) - min(map(len, now.values())) <= 1
        if before:
            stayed = sum(len(set(before[member]) & set(now[member])) for member in before)
            assert stayed >= lanes * (count - 1) // count // 2
        before = now


async def test_members_that_come_go_and_die_have_even_shares_of_the_lanes(rabbitmq_server: Server, name: str) -> None:
    seen: dict[str, set[str]] = {"a": set(), "b": set(), "c": set()}

    async with contextlib.AsyncExitStack() as stack:
        brokers: dict[str, Broker] = {}
        consumers: dict[str, Any] = {}

        async def join(member: str) -> None:
            async def handler(event: Placed) -> None:
                seen[member].add(event.note)

            broker = brokers[member] = await stack.enter_async_context(connected(rabbitmq_server.uri))
            topic_on(broker, name, key="note", partitions=LANES)
            consumers[member] = await stack.enter_async_context(consuming(broker, name, handler, concurrency=2))

        def counts(*members: str) -> list[int]:
            lanes = [set(_lanes(consumers[member])) for member in members]
            return sorted(map(len, lanes)) if len(set().union(*lanes)) == sum(map(len, lanes)) else []

        await join("a")
        await eventually(lambda: counts("a") == [8])
        await join("b")
        await eventually(lambda: counts("a", "b") == [4, 4])
        await join("c")
        await eventually(lambda: counts("a", "b", "c") == [2, 3, 3])
        topic = topic_on(brokers["a"], name, key="note", partitions=LANES)
        for number in range(64):
            await topic.publish(Placed(number, f"key-{number}"))
        await eventually(lambda: len(set().union(*seen.values())) == 64)
        assert all(seen.values()), "one of them was given nothing"
        # one goes as it should
        await consumers["c"].stop()
        await eventually(lambda: counts("a", "b") == [4, 4], 3)
        # one falls silent, as it does when it is killed: its tasks end, its connection breaks
        await _die(consumers["b"], brokers["b"])
        await eventually(lambda: counts("a") == [8], 15)
        for found in seen.values():
            found.clear()
        for number in range(64):
            await topic.publish(Placed(number, f"key-{number}"))
        await eventually(lambda: len(seen["a"]) == 64)


def _lanes(consumer: Any) -> list[str]:
    found = consumer._subscription
    return found.lanes if isinstance(found, RabbitSubscription) else []


async def _die(consumer: Any, broker: Any) -> None:
    subscription = consumer._subscription
    for task in (subscription.members._task, subscription._task, broker._task, *consumer._tasks):
        task.cancel()
    for lane in subscription._lanes.values():
        lane._task.cancel()
    await asyncio.sleep(0)
    await broker._connection.close()


async def test_the_prefetch_of_a_topic_without_keys_follows_its_concurrency(rabbitmq_server: Server, name: str) -> None:
    """A slow handler keeps little for itself, so that another member has work; a quick one is given more."""
    seconds = 0.3
    began: list[int] = []

    async def handler(event: Placed) -> None:
        began.append(event.number)
        await asyncio.sleep(seconds)

    async with connected(rabbitmq_server.uri) as broker:
        topic = topic_on(broker, name)
        for number in range(40):
            await topic.publish(Placed(number))
        async with consuming(broker, name, handler, concurrency=2) as consumer:
            await eventually(lambda: len(began) >= 2)
            lane = consumer._subscription._lanes[f"{name}.g"]  # type: ignore[union-attr]
            assert lane.prefetch <= 8
            assert len(consumer._outstanding) <= lane.prefetch
            await eventually(lambda: _waits(broker, name))
            seconds = 0.0
            before = lane.prefetch
            for number in range(40, 300):
                await topic.publish(Placed(number))
            await eventually(lambda: len(set(began)) == 300)
            assert lane.prefetch > before
            await eventually(lambda: _empty(broker, name))


async def _waits(broker: Broker, name: str) -> bool:
    return (await broker.lag(name, "g") or 0) >= 25


async def _empty(broker: Broker, name: str) -> bool:
    return await broker.lag(name, "g") == 0
