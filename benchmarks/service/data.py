"""A row read by primary key: plain SQL beside the raw driver and beside an SQLAlchemy ORM session; and a whole request.

Both sides ask the same server on loopback. Ours is the typed path with all it does: parameters checked, the row a
validated Struct, a metric. `at once` is ten reads under way, on ten connections. The request is one such read behind
`GET /users/42`, a service with everything on beside FastAPI with today's usual stack and an ORM session.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Column, Integer, String
from sqlalchemy.orm import declarative_base

from benchmarks import PeerMissing, Row, compare, peer_python, program, row
from benchmarks.service import stacks
from benchmarks.service.harness import AREA, load, server
from benchmarks.service.http import sink

MORE: dict[str, Any] = {"more_is_better": True}
READS, ORM_READS, ROUNDS, AT_ONCE = 1500, 300, 3, 10
SELECT = "SELECT id, name, email FROM users WHERE id = "
TABLE = "CREATE TABLE users (id INTEGER PRIMARY KEY, name VARCHAR(50), email VARCHAR(80))"
INSERT = "INSERT INTO users (id, name, email) VALUES (:id, :name, :email)"

OURS = """
import msgspec
from fastapi import FastAPI, Response
from pydantic import BaseModel
from system import db

class User(msgspec.Struct):
    id: int
    name: str
    email: str

class Shown(BaseModel):
    id: int
    name: str
    email: str

app = FastAPI()

@app.get("/users/{user_id}")
async def user(user_id: int) -> Shown:
    found = await db.one(User, "SELECT id, name, email FROM users WHERE id = :id", id=user_id)
    return Shown(id=found.id, name=found.name, email=found.email)
"""
SYSTEM = """
from sampan import Application, Database, Service

db = Database("users")
app = Application("bench", services=[Service("fast", asgi="web:app", uses=[db.read()])])
"""
THEIRS = """
import os
from typing import Annotated
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import Integer, String
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    email: Mapped[str] = mapped_column(String(80))

class Shown(BaseModel):
    id: int
    name: str
    email: str

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=20)
sessions = async_sessionmaker(engine, expire_on_commit=False)

async def session():
    async with sessions() as one:
        yield one

app = FastAPI()

@app.get("/users/{user_id}")
async def user(user_id: int, session: Annotated[AsyncSession, Depends(session)]) -> Shown:
    found = await session.get(User, user_id)
    return Shown(id=found.id, name=found.name, email=found.email)
"""


class User(msgspec.Struct):
    id: int
    name: str
    email: str


class OrmUser(declarative_base()):  # type: ignore[misc]  # a base made at run time
    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    name = Column(String(50))
    email = Column(String(80))


Operation = Callable[[], Awaitable[Any]]


def run() -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as made:
        yield from reads("SQLite", f"sqlite:///{made}/bench.db", _aiosqlite, "aiosqlite")
        yield _sqlite3(Path(made) / "bench.db")
        yield from postgresql()
        yield from mariadb(Path(made))


def mariadb(directory: Path) -> Iterator[Row]:
    from tests.servers.mariadb import start_mariadb

    with _missing():
        started = start_mariadb(directory)
    try:
        asyncio.run(_execute(f"{started.uri}/mysql", "CREATE DATABASE bench CHARACTER SET utf8mb4"))
        uri = f"{started.uri}/bench"
        yield from reads("MariaDB", uri, _asyncmy, "asyncmy")
        yield whole(directory, uri)
    finally:
        started.stop()


def postgresql() -> Iterator[Row]:
    from tests.servers.postgresql import start_postgresql

    with _missing():
        started = start_postgresql()
    try:
        yield from reads("PostgreSQL", started.uri, _psycopg, "psycopg")
    finally:
        started.remove()


class _missing:
    """What a test would be skipped for, a benchmark lacks."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if kind is not None and kind.__name__ == "Skipped":
            raise PeerMissing(str(error))


def whole(directory: Path, uri: str) -> Row:
    """Requests a second through the whole stack of each."""
    wrk = program("wrk", "apt-get install wrk")
    python = peer_python("service-orm", [*stacks.PACKAGES, "sqlalchemy[asyncio]", "asyncmy"])
    ours, theirs = directory / "ours", directory / "theirs"
    for place, code in ((ours, OURS), (theirs, THEIRS)):
        place.mkdir()
        (place / "web.py").write_text(code)
    (ours / "system.py").write_text(SYSTEM)
    with sink() as told:
        export = {"OTEL_EXPORTER_OTLP_ENDPOINT": told, "OTEL_SERVICE_NAME": "bench"}
        mine = {**export, "SAMPAN_DATABASE_USERS_URI": uri}
        usual = {**export, "DATABASE_URL": uri.replace("mysql://", "mysql+asyncmy://", 1)}
        with (
            server(ours, stacks.OURS.format(name="fast"), environment=mine) as first,
            server(theirs, stacks.USUAL, python, environment=usual) as second,
        ):
            rates = compare(lambda: load(wrk, first[0]), lambda: load(wrk, second[0]), ROUNDS)
    peer = "FastAPI + OTel + Prometheus + structlog, ORM session"
    return row(AREA, "sql over HTTP/usual-stack ORM", rates[0], "requests/s", peer=peer, peer_value=rates[1], **MORE)


async def _execute(uri: str, *statements: str) -> None:
    database = _database(uri)
    for statement in statements:
        await database.execute(statement)
    await database.close()


def _database(uri: str) -> Any:
    from sampan.model.data import Pool
    from sampan.service.bindings import Binding
    from sampan.service.data.database import SqlDatabase

    return SqlDatabase("bench", Binding("bench", uri.partition(":")[0], uri), pool=Pool(size=AT_ONCE))


def reads(name: str, uri: str, raw: Callable[[Any], Coroutine[Any, Any, list[Operation]]], peer: str) -> Iterator[Row]:
    """Three sides on one event loop, in turns: ours, the driver's, and our sessions."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        database = _database(uri)
        runner.run(database.execute(TABLE))
        runner.run(database.execute(INSERT, id=42, name="Ada Lovelace", email="ada@example.com"))
        theirs = runner.run(raw(database.url))
        orm = [_orm(database)] * AT_ONCE
        ours = [lambda: database.one(User, SELECT + ":id", id=42)] * AT_ONCE

        def rate(operations: list[Operation], at_once: int, number: int = READS) -> Callable[[], float]:
            return lambda: runner.run(_rate(operations[:at_once], number))

        for at_once in (1, AT_ONCE):
            mine, driver = compare(rate(ours, at_once), rate(theirs, at_once), 7)
            words = f"{name}, {at_once} at once"
            yield row(
                AREA, f"plain-SQL row read / raw driver, {words}", mine, "rows/s", peer=peer, peer_value=driver, **MORE
            )
        mine, sessions = compare(rate(ours, 1, ORM_READS), rate(orm, 1, ORM_READS), ROUNDS)
        title = f"plain-SQL row read / ORM session, {name}"
        yield row(AREA, title, mine, "rows/s", peer="SQLAlchemy ORM, on our pool", peer_value=sessions, **MORE)
        runner.run(database.close())
        runner.run(asyncio.sleep(0.05))


async def _rate(operations: list[Operation], number: int = READS) -> float:
    async def some(operation: Operation) -> None:
        for _ in range(number // len(operations)):
            await operation()

    started = time.perf_counter()
    await asyncio.gather(*(some(operation) for operation in operations))
    return number / (time.perf_counter() - started)


def _orm(database: Any) -> Operation:
    async def read() -> Any:
        async with database.session() as session:
            return await session.get(OrmUser, 42)

    return read


async def _asyncmy(url: Any) -> list[Operation]:
    import asyncmy

    options = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "db": url.database}
    connections = [await asyncmy.connect(autocommit=True, **options) for _ in range(AT_ONCE)]

    def reader(connection: Any) -> Operation:
        async def read() -> Any:
            async with connection.cursor() as cursor:
                await cursor.execute(SELECT + "%s", (42,))
                return await cursor.fetchone()

        return read

    return [reader(connection) for connection in connections]


async def _psycopg(url: Any) -> list[Operation]:
    import psycopg

    place = url.changed(drivername="postgresql").with_password()
    connections = [await psycopg.AsyncConnection.connect(place, autocommit=True) for _ in range(AT_ONCE)]

    def reader(connection: Any) -> Operation:
        async def read() -> Any:
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute(SELECT + "%s", (42,))
                return await cursor.fetchone()

        return read

    return [reader(connection) for connection in connections]


async def _aiosqlite(url: Any) -> list[Operation]:
    import aiosqlite

    def reader(connection: Any) -> Operation:
        async def read() -> Any:
            async with connection.execute(SELECT + "?", (42,)) as cursor:
                return await cursor.fetchone()

        return read

    found = []
    for _ in range(AT_ONCE):
        raw = aiosqlite.connect(url.database)
        raw._thread.daemon = True
        found.append(reader(await raw))
    return found


def _sqlite3(path: Path) -> Row:
    """Beside the synchronous module of the standard library, which nothing asynchronous can be as quick as."""
    connection = sqlite3.connect(path)
    database = _database(f"sqlite:///{path}")
    with asyncio.Runner() as runner:

        def theirs() -> float:
            started = time.perf_counter()
            for _ in range(READS):
                connection.execute(SELECT + "?", (42,)).fetchone()
            return READS / (time.perf_counter() - started)

        async def read() -> Any:
            return await database.one(User, SELECT + ":id", id=42)

        rates = compare(lambda: runner.run(_rate([read])), theirs, ROUNDS)
        runner.run(database.close())
    connection.close()
    title = "plain-SQL row read / sqlite3, synchronous"
    return row(AREA, title, rates[0], "rows/s", peer="sqlite3", peer_value=rates[1], **MORE)
