"""The transactional outbox: events are rows of the transaction that caused them, and a relay publishes them.

Guarantee: an event is published if and only if its transaction committed, at least once, in the order of the
rows that one relay sees. Rows are deleted after the broker has acknowledged them. A second copy (a relay that
died between acknowledgement and deletion, or two relays at the same rows) bears the same message id: the
broker drops it within its window, the consumers' inbox after that.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec import Struct

from sampan.model.data import DatabaseError
from sampan.service.data.database import SqlDatabase
from sampan.service.data.sql import Transaction
from sampan.service.messaging.port import KEY, Broker, Message
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import from_headers
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from sqlalchemy import TextClause
    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model import bound

log = logging.getLogger("sampan.outbox")

_BATCH: Final = 200
_POLL_SECONDS: Final = 1.0
_INBOX_DAYS: Final = 14  # twice as long as a stream keeps its events
_MEASURE_SECONDS: Final = 5.0
_PRUNE_SECONDS: Final = 3600.0


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


_INSERT: Final = (
    "INSERT INTO sampan_outbox (event_id, topic, headers, payload, created) "
    "VALUES (:event_id, :topic, :headers, :payload, :created)"
)


@functools.cache
def clause(statement: str) -> TextClause:
    """`statement` for a session of SQLAlchemy's, which whoever has one has imported."""
    from sqlalchemy import text

    return text(statement)


async def insert(session: AsyncSession | bound.Transaction, message: Message) -> None:
    headers = {**message.headers, KEY: message.key} if message.key else message.headers
    row = {
        "event_id": message.id,
        "topic": message.topic,
        "headers": msgspec.json.encode(headers).decode(),
        "payload": message.payload,
        "created": now(),
    }
    if isinstance(session, Transaction):
        await session.execute(_INSERT, **row)
    else:
        await cast("AsyncSession", session).execute(clause(_INSERT), row)
    database = session.info.get("database")
    if database is not None and database.wake_relay is not None:
        session.info["sampan_wake"] = database.wake_relay


class Row(Struct):
    id: int
    event_id: str
    topic: str
    headers: str
    payload: bytes


_SELECT: Final = f"SELECT id, event_id, topic, headers, payload FROM sampan_outbox ORDER BY id LIMIT {_BATCH}"  # noqa: S608
_CLAIM: Final = f"{_SELECT} FOR UPDATE SKIP LOCKED"
_DELETE: Final = f"DELETE FROM sampan_outbox WHERE id IN ({', '.join(f':i{n}' for n in range(_BATCH))})"  # noqa: S608


class Relay:
    """Publishes the outbox of one database; woken by commits of this process, and once a second for strays."""

    def __init__(self, database: SqlDatabase, broker: Broker, registry: Registry) -> None:
        self.database, self.broker = database, broker
        self.relayed = registry.counter("outbox_relayed_total", "Outbox rows published.", ("database",))
        self.backlog = registry.gauge("outbox_backlog", "Outbox rows that wait.", ("database",))
        self.age = registry.gauge("outbox_age_seconds", "Age of the oldest row that waits.", ("database",))
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._pruned = time.monotonic()
        self._measured = -_MEASURE_SECONDS
        self.ready = False

    def start(self) -> None:
        self.database.wake_relay = self._wake.set
        self.broker.on_reconnect(self._wake.set)
        self._task = asyncio.create_task(self._run(), name=f"relay-{self.database.name}")

    async def check(self) -> None:
        if not self.ready:
            raise ConnectionError("outbox tables not there yet")

    async def _run(self) -> None:
        failing = False
        while not self._stopping:
            try:
                await self.database.ensure_tables()
                self.ready = True
                if self.broker.connected:
                    while await self.relay_once():
                        pass
                await self._measure()
                await self._prune()
                failing = False
            except (DatabaseError, OSError, TimeoutError) as error:
                (log.debug if failing else log.warning)("outbox of %s: %s", self.database.name, error)
                failing = True
            try:
                async with asyncio.timeout(_POLL_SECONDS if self.ready else 0.2):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def relay_once(self) -> bool:
        """Publish one batch; True when there may be more."""
        if self.database.dialect == "sqlite":  # no lock is held while the broker is asked, only for the deletion
            rows = await self.database.all(Row, _SELECT)
            done = await self._publish(rows)
            if done:
                await self.database.execute(_DELETE, **done)
        else:
            async with self.database.begin() as tx:
                rows = await tx.all(Row, _CLAIM)  # other relays pass over what this one is at work on
                done = await self._publish(rows)
                if done:
                    await tx.execute(_DELETE, **done)
        stored = sum(1 for number in done.values() if number)
        self.relayed.add(self.database.name, amount=stored)
        return len(rows) == _BATCH and stored == len(rows)

    async def _waiting(self) -> bool:
        return bool(await self.database.all(int, "SELECT id FROM sampan_outbox LIMIT 1"))

    async def _publish(self, rows: list[Row]) -> dict[str, int]:
        """Those that were stored, as parameters of the deletion."""
        if not rows:
            return {}
        messages = [self._message(row) for row in rows]
        spans = [self._span(message) for message in messages]
        results = await self.broker.publish_many(messages)
        for span, good in zip(spans, results, strict=True):
            if not good:
                span.fail("not_stored")
            span.finish()
        done = [row.id for row, good in zip(rows, results, strict=True) if good]
        return {f"i{n}": done[n] if n < len(done) else 0 for n in range(_BATCH)} if done else {}

    def _message(self, row: Row) -> Message:
        headers = msgspec.json.decode(row.headers)
        return Message(row.topic, row.payload, row.event_id, headers, headers.pop(KEY, ""))

    def _span(self, message: Message) -> tracing.Span:
        """The relay's part in the trace of whoever published the event: its context lies in the row."""
        parent = from_headers(message.headers)
        parent.fresh = False
        attributes: dict[str, tracing.Value] = {
            "messaging.system": self.broker.system,
            "messaging.destination.name": message.topic,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.message.id": message.id,
        }
        return tracing.span(f"send {message.topic}", tracing.CLIENT, attributes, parent=parent).begin()

    async def _measure(self) -> None:
        """The backlog, for its gauges; not more often than every 5 s."""
        if time.monotonic() - self._measured < _MEASURE_SECONDS:
            return
        self._measured = time.monotonic()
        count, oldest = await self.database.one(
            tuple[int, datetime | None], "SELECT count(*), min(created) FROM sampan_outbox"
        )
        self.backlog.set(count, self.database.name)
        self.age.set((now() - oldest).total_seconds() if oldest else 0.0, self.database.name)

    async def _prune(self) -> None:
        """Forget inbox entries that no redelivery can match any more."""
        if time.monotonic() - self._pruned < _PRUNE_SECONDS:
            return
        self._pruned = time.monotonic()
        before = now() - timedelta(days=_INBOX_DAYS)
        await self.database.execute("DELETE FROM sampan_inbox WHERE created < :before", before=before)

    async def stop(self) -> None:
        """Publish what is there, for at most 3 s; the rest waits in the table for another relay."""
        self._stopping = True
        self._wake.set()
        if self._task is None:
            return
        done, _ = await asyncio.wait({self._task}, timeout=5)
        if not done:
            self._task.cancel()
        else:
            try:
                async with asyncio.timeout(3):
                    if await self._waiting():
                        await self.broker.ready()
                        while await self.relay_once():
                            pass
            except (DatabaseError, OSError, TimeoutError) as error:
                log.warning("outbox of %s not emptied: %s", self.database.name, error)
