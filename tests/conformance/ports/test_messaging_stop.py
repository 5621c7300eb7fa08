"""A consumer ends when it is told to, at whatever moment of its beginning that is."""

from __future__ import annotations

import asyncio
import time

import pytest

from sampan.service.messaging.port import Broker
from tests.conformance.ports.messaging import Placed, consuming, topic_on


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
