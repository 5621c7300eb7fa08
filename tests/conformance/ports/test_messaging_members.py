"""Members of a group come and go at any moment."""

from __future__ import annotations

import asyncio
import time

import pytest

from sampan.service.messaging.port import Broker
from tests.conformance.ports.messaging import Placed, connected, consuming, eventually, topic_on


@pytest.mark.parametrize("events", [0, 1])
async def test_a_consumer_stops_at_any_moment(broker: Broker, name: str, events: int) -> None:
    seen: list[int] = []

    async def handler(event: Placed) -> None:
        seen.append(event.number)

    topic = topic_on(broker, name)
    await broker.ready()
    late = []
    for moment in range(12):
        if events:
            await topic.publish(Placed(moment))
        async with consuming(broker, name, handler, group=f"g{moment}"):
            await asyncio.sleep(moment * 0.025)
            began = time.monotonic()
        if (seconds := time.monotonic() - began) > 8:
            late.append((moment, seconds))
    assert not late


async def test_members_come_and_go_while_events_trickle(broker: Broker, broker_uri: str, name: str) -> None:
    """A partition changes hands while its member waits for the next event, which comes at that moment."""
    seen: set[int] = set()

    async def handler(event: Placed) -> None:
        seen.add(event.number)

    topic = topic_on(broker, name, key="note", partitions=2)
    published = 0

    async def publish() -> None:
        nonlocal published
        while True:
            await topic.publish(Placed(published, f"key-{published % 7}"))
            published += 1
            await asyncio.sleep(0.015)

    async with connected(broker_uri) as other:
        topic_on(other, name, key="note", partitions=2)
        async with consuming(broker, name, handler):
            publishing = asyncio.create_task(publish())
            await eventually(lambda: len(seen) > 3)
            for _ in range(4):
                async with consuming(other, name, handler):
                    await asyncio.sleep(0.6)
            publishing.cancel()
            await asyncio.wait({publishing})
            await eventually(lambda: len(seen) >= published)
    assert seen >= {*range(published)}
