"""Values of every type through plain SQL, on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated
from uuid import UUID, uuid4

import msgspec
import pytest

from sampan.service.data.database import SqlDatabase
from tests.conformance.ports.databases import binding


@pytest.fixture
async def db(database_uri: str) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase("test", binding(database_uri))
    yield database
    await database.close()


class Colour(Enum):
    RED = "red"


class Inner(msgspec.Struct):
    tags: list[str]


class Everything(msgspec.Struct):
    id: int
    price: Decimal
    moment: Annotated[datetime, msgspec.Meta(tz=True)]
    day: date
    blob: bytes
    doc: Inner
    words: str
    big: int
    flag: bool
    ratio: float
    key: UUID
    colour: Colour
    absent: str | None


COLUMNS = {
    "sqlite": "price TEXT, moment TEXT, day TEXT, blob BLOB, doc TEXT, words TEXT, big INTEGER, flag BOOLEAN,"
    " ratio REAL, uuid TEXT, colour TEXT, absent TEXT",
    "mysql": "price DECIMAL(20,4), moment DATETIME(6), day DATE, `blob` BLOB, doc JSON, words VARCHAR(100), big BIGINT,"
    " flag BOOLEAN, ratio DOUBLE, uuid CHAR(36), colour VARCHAR(9), absent TEXT",
    "postgresql": "price NUMERIC(20,4), moment TIMESTAMPTZ, day DATE, blob BYTEA, doc JSONB, words TEXT, big BIGINT,"
    " flag BOOLEAN, ratio FLOAT8, uuid UUID, colour TEXT, absent TEXT",
}


async def test_every_type_comes_back_as_it_went(db: SqlDatabase) -> None:
    await db.execute(f"CREATE TABLE every (id INTEGER PRIMARY KEY, {COLUMNS[db.dialect]})")
    there = timezone(timedelta(hours=5, minutes=30))
    sent = Everything(
        id=1,
        price=Decimal("12345678901.2500"),
        moment=datetime(2026, 1, 2, 3, 4, 5, 678901, there),
        day=date(2026, 2, 28),
        blob=bytes(range(256)),
        doc=Inner(["ä", "b"]),
        words="naïve ✓ 𝄞 'q' \\ % ?",
        big=2**62,
        flag=True,
        ratio=0.1,
        key=uuid4(),
        colour=Colour.RED,
        absent=None,
    )
    blob, key = ("`blob`", "`key`") if db.dialect == "mysql" else ("blob", "key")
    cast = "CAST(:doc AS JSONB)" if db.dialect == "postgresql" else ":doc"
    await db.execute(
        f"INSERT INTO every (id, price, moment, day, {blob}, doc, words, big, flag, ratio, uuid, colour, absent) VALUES"
        f" (:id, :price, :moment, :day, :blob, {cast}, :words, :big, :flag, :ratio, :key, :colour, :absent)",
        **{name: getattr(sent, name) for name in sent.__struct_fields__},
    )
    sql = (
        f"SELECT id, price, moment, day, {blob}, doc, words, big, flag, ratio, uuid AS {key}, colour, absent FROM every"
    )
    streamed = [row async for row in db.stream(Everything, sql)]
    for found in (await db.one(Everything, sql), *await db.all(Everything, sql), *streamed):
        assert found == sent
        assert found.moment.utcoffset() == timedelta(0)
