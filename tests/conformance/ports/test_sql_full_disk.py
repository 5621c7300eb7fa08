"""The disk of a database server fills while a service writes with the outbox, and has room again."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError

from sampan.model.data import Pool, Unavailable
from sampan.service.data.database import SqlDatabase
from tests.conformance.ports.databases import binding, new_database
from tests.conformance.ports.messaging import (
    Placed,
    connected,
    consuming,
    effects,
    eventually,
    metadata,
    numbers,
    relaying,
    size_is,
    topic_on,
)
from tests.faults import fill, mounted
from tests.servers.base import Server
from tests.servers.mariadb import start_mariadb
from tests.servers.postgresql import own, start_postgresql


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that a server which is not root may enter."""
    made = Path(tempfile.mkdtemp(prefix="sampan-disk-"))
    own(made)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def disk(home: Path) -> Iterator[Path]:
    """A file system of 160 MiB."""
    with mounted(home / "disk", "160m") as place:
        yield place


def mariadb(disk: Path, _home: Path) -> Server:
    """It refuses what would grow, and ends when it cannot even roll back; then it is started again."""
    return start_mariadb(disk, ["--innodb-log-file-size=8M"])


def postgresql(disk: Path, home: Path) -> Server:
    """It refuses what would grow."""
    return start_postgresql(disk / "data", home / "wal")


def postgresql_log(disk: Path, home: Path) -> Server:
    """Without room for its log it ends, with whatever is under way, and comes back by itself or is started again."""
    return start_postgresql(home / "data", disk / "wal", ["-c", "wal_recycle=off", "-c", "wal_compression=off"])


@pytest.mark.parametrize("start", [mariadb, postgresql, postgresql_log])
async def test_a_full_disk_of_the_server_refuses_and_loses_nothing(
    start: Callable[[Path, Path], Any], disk: Path, home: Path, nats_server: Server, name: str
) -> None:
    server = await asyncio.to_thread(start, disk, home)
    try:
        uri = f"{server.uri}/mysql" if start is mariadb else server.uri
        db = SqlDatabase("test", binding(uri), pool=Pool(size=3, waiting=5))
        async with db.connection() as connection:
            await connection.run_sync(metadata.create_all)
        await db.ensure_tables()
        async with connected(nats_server.uri) as broker:
            await writes(db, server, disk / "ballast", topic_on(broker, name), broker, name)
        await db.close()
    finally:
        await asyncio.to_thread(server.stop if start is mariadb else server.remove)


async def writes(db: SqlDatabase, server: Server, ballast: Path, topic: Any, broker: Any, name: str) -> None:
    kept: set[int] = set()
    refused: dict[int, Exception] = {}
    told: set[int] = set()
    counter = iter(range(1_000_000))
    enough = asyncio.Event()

    async def note(event: Placed) -> None:
        told.add(event.number)

    async def one(number: int) -> None:
        event = Placed(number, os.urandom(10_000).hex())  # which cannot be compressed
        if number % 2:
            async with db.transaction() as session:
                await session.execute(insert(effects).values(number=number))
                await topic.publish(event, session)
        else:
            async with db.begin() as tx:
                await tx.execute("INSERT INTO effects (number) VALUES (:number)", number=number)
                await topic.publish(event, tx)

    async def write() -> None:
        for number in counter:
            if enough.is_set():
                return
            try:
                await one(number)
                kept.add(number)
            except (Unavailable, OperationalError) as error:  # any other is a failure; the latter is of sessions
                refused[number] = error
            await asyncio.sleep(0.01)

    async with relaying(db, broker), consuming(broker, name, note), asyncio.TaskGroup() as group:
        writers = [group.create_task(write()) for _ in range(3)]
        await eventually(lambda: len(kept) > 30 and told)
        await asyncio.to_thread(fill, ballast)
        await eventually(lambda: len(refused) > 20, 60)
        ballast.unlink()
        ended = server.process is not None and server.process.poll() is not None
        if ended:
            await asyncio.to_thread(server.start)
        before = len(kept)
        await eventually(lambda: len(kept) > before + 30, 60)  # the same pool, untouched
        enough.set()
        await asyncio.wait(writers)
        await eventually(lambda: size_is(db, "sampan_outbox", 0), 60)
        there = set(await numbers(db))
        await eventually(lambda: told >= there, 60)
    # one whose connection ended may have been done: it was refused in other words
    full = {number for number, error in refused.items() if any(word in str(error) for word in ("full", "No space"))}
    assert full or {type(error) for error in refused.values()} & {Unavailable}
    assert kept <= there <= kept | (refused.keys() - full)
    assert told == there


@pytest.fixture
def mariadb_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_database("mariadb", request, tmp_path)


async def test_a_table_without_room_is_no_fault_of_the_statement(mariadb_uri: str) -> None:
    """The error is the one of a full disk, had sooner: a consumer waits for room and sets no event aside."""
    db = SqlDatabase("test", binding(mariadb_uri), pool=Pool(size=1))
    await db.execute("CREATE TABLE t (filling VARCHAR(4000)) ENGINE=MEMORY")
    await db.execute("SET SESSION max_heap_table_size = 16384")
    await db.execute("ALTER TABLE t MAX_ROWS = 1")
    with pytest.raises(Unavailable, match="'t' is full") as caught:
        for _ in range(100):
            await db.execute("INSERT INTO t VALUES (:filling)", filling="x" * 4000)
    assert caught.value.code == "1114" and caught.value.http_status == 503
    await db.close()
