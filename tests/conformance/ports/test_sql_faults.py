"""Plain SQL and sessions when the network, the server or the disk lets them down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sampan.model.data import DatabaseError, Pool, Unavailable
from sampan.service.data.database import SqlDatabase
from sampan.service.telemetry.context import CURRENT, from_headers
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.databases import binding, new_database
from tests.faults import FaultProxy, mounted
from tests.servers.mariadb import start_mariadb
from tests.servers.postgresql import start_postgresql, start_replica

NETWORKED = ("mariadb", "postgresql")
CREATE = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)"
KILL = {
    "mysql": (
        "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
        "KILL {}",
    ),
    "postgresql": (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "SELECT pg_terminate_backend({})",
    ),
}


@pytest.fixture(params=NETWORKED)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_database(request.param, request, tmp_path)


@pytest.fixture
async def proxied(uri: str) -> AsyncIterator[tuple[SqlDatabase, FaultProxy]]:
    """A database behind a proxy that can be told to misbehave."""
    head, _, rest = uri.rpartition("@")
    port = int(rest.partition(":")[2].partition("/")[0])
    with FaultProxy(("127.0.0.1", port)) as proxy:
        registry = Registry()
        through = f"{head}@{rest.replace(str(port), str(proxy.port), 1)}"
        database = SqlDatabase("test", binding(through), pool=Pool(size=3, waiting=3), registry=registry)
        await database.execute(CREATE)
        await database.execute("INSERT INTO t (id, n) VALUES (1, 0)")
        yield database, proxy
        proxy.blackhole = False
        await database.close()


async def warm(db: SqlDatabase) -> None:
    await asyncio.gather(*(db.value(int, "SELECT n FROM t WHERE id = :id", id=1) for _ in range(3)))


async def test_reads_and_sessions_survive_the_end_of_their_connections(proxied: tuple[SqlDatabase, FaultProxy]) -> None:
    db, proxy = proxied
    for _ in range(5):
        await warm(db)
        proxy.reset_all()
        assert await db.value(int, "SELECT n FROM t WHERE id = :id", id=1) == 0
    proxy.reset_all()
    async with db.begin() as tx:
        await tx.execute("UPDATE t SET n = n + 1")
    assert await db.value(int, "SELECT n FROM t") == 1


async def test_killed_by_the_server(uri: str) -> None:
    db, admin = SqlDatabase("test", binding(uri), pool=Pool(size=3)), SqlDatabase("admin", binding(uri))
    await db.execute(CREATE)
    await db.execute("INSERT INTO t (id, n) VALUES (1, 0)")
    find, kill = KILL[db.dialect]
    for _ in range(3):
        await warm(db)
        for number in await admin.all(int, find):
            await admin.execute(kill.format(number))
        assert await asyncio.gather(*(db.value(int, "SELECT n FROM t") for _ in range(5))) == [0] * 5
    with pytest.raises(Unavailable):
        async with db.begin() as tx:
            await tx.execute("UPDATE t SET n = 5")
            for number in await admin.all(int, find):
                await admin.execute(kill.format(number))
            await tx.execute("UPDATE t SET n = 6")
    assert await db.value(int, "SELECT n FROM t") == 0
    await db.close()
    await admin.close()


async def test_a_write_cut_off_is_an_error_and_never_repeated(proxied: tuple[SqlDatabase, FaultProxy]) -> None:
    db, proxy = proxied
    await warm(db)
    proxy.latency = 0.15
    done = asyncio.create_task(db.execute("UPDATE t SET n = n + 1"))
    await asyncio.sleep(0.25)  # it has reached the server; the answer is on its way
    proxy.reset_all()
    with pytest.raises(Unavailable):
        await done
    proxy.latency = 0.0
    assert await db.value(int, "SELECT n FROM t") in (0, 1)


async def test_half_open_connections_end_with_the_deadline(proxied: tuple[SqlDatabase, FaultProxy]) -> None:
    db, proxy = proxied
    await warm(db)
    proxy.blackhole = True
    context = from_headers({})
    context.deadline = time.monotonic() + 0.3
    token = CURRENT.set(context)
    try:
        with pytest.raises(DatabaseError) as caught:
            await db.value(int, "SELECT n FROM t")
        assert caught.value.http_status == 504
    finally:
        CURRENT.reset(token)
    proxy.blackhole = False
    proxy.reset_all()
    assert await db.value(int, "SELECT n FROM t") == 0


async def test_a_server_that_is_away_is_said_so_and_comes_back(proxied: tuple[SqlDatabase, FaultProxy]) -> None:
    db, proxy = proxied
    proxy.refuse = True
    proxy.reset_all()
    for attempt in (lambda: db.value(int, "SELECT n FROM t"), lambda: db.execute("UPDATE t SET n = 1"), db.check):
        with pytest.raises(Unavailable, match="cannot be reached") as caught:
            await attempt()
        assert "s3cret" not in str(caught.value)
        assert isinstance(caught.value, OSError)  # as those who wait for a database expect
    assert db.core.pool.total == 0
    proxy.refuse = False
    assert await db.value(int, "SELECT n FROM t") == 0
    async with db.session() as session:
        assert (await session.execute(text("SELECT n FROM t"))).scalar() == 0


async def test_sessions_whose_server_dies_say_503(proxied: tuple[SqlDatabase, FaultProxy]) -> None:
    db, proxy = proxied
    refused: list[Exception] = []

    async def work() -> None:
        while len(refused) < 40:
            try:
                async with db.transaction() as session:
                    await session.execute(text("UPDATE t SET n = n + 1"))
                    await session.execute(text("SELECT n FROM t"))
            except Exception as error:
                refused.append(error)
            await asyncio.sleep(0)

    async def cut() -> None:
        while len(refused) < 40:
            proxy.reset_all()
            await asyncio.sleep(0.01)

    await asyncio.gather(work(), work(), work(), cut())
    assert {getattr(error, "http_status", None) for error in refused} == {503}, {
        repr(e) for e in refused if getattr(e, "http_status", None) != 503
    }


@pytest.mark.parametrize("kind", NETWORKED)
async def test_a_restart_of_the_server_loses_no_connection_place(kind: str, tmp_path: Path) -> None:
    server: Any = start_mariadb(tmp_path) if kind == "mariadb" else start_postgresql()
    try:
        uri = f"{server.uri}/mysql" if kind == "mariadb" else server.uri
        db = SqlDatabase("test", binding(uri), pool=Pool(size=3, waiting=2))
        await asyncio.gather(*(db.value(int, "SELECT 1") for _ in range(3)))
        server.kill()
        with pytest.raises(Unavailable):
            while True:  # what serves a connection of PostgreSQL learns of the end a moment later
                await db.value(int, "SELECT 1")
        await asyncio.to_thread(server.start)
        assert await asyncio.gather(*(db.value(int, "SELECT 1") for _ in range(10))) == [1] * 10
        await db.close()
    finally:
        server.remove() if kind == "postgresql" else server.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted(tmp_path / "small", "1m") as place:
        yield place


async def test_a_full_disk_is_an_error_and_keeps_what_was_committed(small_disk: Path) -> None:
    db = SqlDatabase("test", binding(f"sqlite:///{small_disk}/d.db"))
    await db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, blob BLOB)")
    with pytest.raises(Unavailable, match="full"):
        for number in range(200):
            await db.execute("INSERT INTO t (id, blob) VALUES (:id, :blob)", id=number, blob=b"x" * 20_000)
    kept = await db.value(int, "SELECT count(*) FROM t")
    assert kept > 3
    assert await db.all(int, "SELECT id FROM t ORDER BY id") == list(range(kept))
    await db.close()


async def test_reads_go_to_a_replica_that_follows() -> None:
    primary = await asyncio.to_thread(start_postgresql)
    replica = await asyncio.to_thread(start_replica, primary)
    registry = Registry()
    db = SqlDatabase("test", binding(primary.uri, **{"replica-uri": replica.uri}), registry=registry)
    standby = "SELECT pg_is_in_recovery()"
    try:
        await db.execute(CREATE)
        assert await db.value(bool, standby) is False
        assert await db.replica.value(bool, standby) is True
        async with asyncio.timeout(10):
            while await db.replica.value(int, "SELECT count(*) FROM pg_class WHERE relname = 't'") == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        with pytest.raises(DatabaseError, match="read-only"):
            await db.replica.all(int, "INSERT INTO t (id) VALUES (1) RETURNING id")

        async def request() -> list[bool]:
            CURRENT.set(from_headers({}))
            before = await db.replica.value(bool, standby)
            await db.execute("INSERT INTO t (id, n) VALUES (1, 1)")
            assert await db.replica.value(int, "SELECT n FROM t WHERE id = 1") == 1  # what it has written itself
            return [before, await db.replica.value(bool, standby)]

        assert await asyncio.create_task(request()) == [True, False]
        assert await db.replica.value(bool, standby) is True  # other work is not concerned

        replica.kill()
        async with asyncio.timeout(20):  # its processes learn one by one that the first of them is gone
            while await db.replica.value(bool, standby):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await db.replica.value(bool, standby) is False
        page = registry.render()
        assert 'db_replica_reads_total{database="test",target="primary"}' in page
        assert 'db_replica_lag_seconds{database="test-replica-1"}' in page
    finally:
        await db.close()
        replica.remove()
        primary.remove()


async def test_a_replica_that_lags_is_passed_over(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers' worth of pools on one server: the lag is what the replica's own statement says."""
    from sampan.service.data import replicas

    monkeypatch.setattr(replicas.Replicas, "lag", staticmethod(lambda core: _lag(11.0)))
    db = SqlDatabase("test", binding(uri, **{"replica-uri": uri}))
    assert await db.replica.value(int, "SELECT 1") == 1
    assert db._replicas is not None
    assert db._replicas._reads.value("test", "primary") == 1
    monkeypatch.setattr(replicas.Replicas, "lag", staticmethod(lambda core: _lag(9.0)))
    db._replicas._replicas[0].looked = 0.0
    assert await db.replica.value(int, "SELECT 1") == 1
    assert db._replicas._reads.value("test", "replica") == 1
    await db.close()


async def _lag(seconds: float) -> float:
    return seconds
