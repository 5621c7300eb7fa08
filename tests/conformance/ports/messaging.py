"""What the suites of the topic port share: events, effects, waiting, and brokers of each kind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec import Struct
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy import table as named
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.service.bindings import Binding
from sampan.service.data.database import SqlDatabase
from sampan.service.messaging.consumer import Consumer
from sampan.service.messaging.outbox import Relay
from sampan.service.messaging.port import Broker, Layout, open_broker
from sampan.service.messaging.topic import BrokerTopic
from sampan.service.telemetry.metrics import Registry

BROKERS = ("nats", "rabbitmq", "kafka")
metadata = MetaData()
effects = Table(
    "effects", metadata, Column("id", Integer, primary_key=True), Column("number", Integer), Column("by", String(20))
)


class Placed(Struct):
    number: int
    note: str = ""


async def eventually(condition: Callable[[], Any], seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not come true in time")


@contextlib.asynccontextmanager
async def connected(uri: str) -> AsyncIterator[Broker]:
    broker = open_broker(Binding("messaging", "broker", uri), Registry())
    broker.start()
    try:
        yield broker
    finally:
        await broker.close()


def new_name() -> str:
    return f"topic-{os.urandom(5).hex()}"


def topic_on(
    broker: Broker, name: str, *, key: str = "", partitions: int = 1, groups: tuple[str, ...] = ("g",)
) -> BrokerTopic:
    """A topic, laid out and made known to `broker`."""
    broker.declare(Layout(name, bool(key), partitions, groups))
    return BrokerTopic(name, Placed, broker, key=key)


@contextlib.asynccontextmanager
async def consuming(
    broker: Broker, topic: str, handler: Any, group: str = "g", **options: Any
) -> AsyncIterator[Consumer]:
    consumer = Consumer(broker, topic, Placed, group, handler, Registry(), **options)
    consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop(timeout=1)


@contextlib.asynccontextmanager
async def relaying(database: SqlDatabase, broker: Broker) -> AsyncIterator[Relay]:
    relay = Relay(database, broker, Registry())
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


async def numbers(database: SqlDatabase) -> list[int]:
    async with database.session() as session:
        return [n or 0 for n in await session.scalars(select(effects.c.number).order_by(effects.c.id))]


async def size(database: SqlDatabase, table: Table | str) -> int:
    found = named(table) if isinstance(table, str) else table
    async with database.session() as session:
        return await session.scalar(select(func.count()).select_from(found)) or 0


async def size_is(database: SqlDatabase, table: Table | str, wanted: int) -> bool:
    return await size(database, table) == wanted


async def record(event: Placed, session: AsyncSession) -> None:
    await session.execute(insert(effects).values(number=event.number, by="record"))
