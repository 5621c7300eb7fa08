"""Plain SQL: what it does on every engine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from sampan.model.data import (
    Conflict,
    ConstraintViolation,
    DatabaseError,
    DeadlineExceeded,
    ManyRows,
    NoRow,
    ParameterError,
    Pool,
    PoolTimeout,
    RowError,
    StatementError,
    UniqueViolation,
)
from sampan.service.data.database import SqlDatabase
from sampan.service.data.sql import Transaction
from sampan.service.messaging.outbox import insert as outbox_insert
from sampan.service.messaging.port import Message
from sampan.service.telemetry.context import CURRENT, from_headers
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.databases import binding


class Item(msgspec.Struct):
    id: int
    name: str
    amount: int = 0


@dataclass
class Row:
    id: int
    name: str


TABLE = (
    "CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR(50) NOT NULL UNIQUE, amount BIGINT NOT NULL DEFAULT 0)"
)
INSERT = "INSERT INTO items (id, name, amount) VALUES (:id, :name, :amount)"


@pytest.fixture
async def db(database_uri: str) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase("test", binding(database_uri), pool=Pool(size=4, waiting=5))
    await database.execute(TABLE)
    yield database
    await database.close()


async def fill(db: SqlDatabase, count: int) -> None:
    await db.execute_many(INSERT, [{"id": n, "name": f"n{n}", "amount": n} for n in range(1, count + 1)])


@contextlib.contextmanager
def deadline(seconds: float) -> Any:
    context = from_headers({})
    context.deadline = time.monotonic() + seconds
    token = CURRENT.set(context)
    try:
        yield
    finally:
        CURRENT.reset(token)


async def test_rows_into_what_was_asked_for(db: SqlDatabase) -> None:
    await fill(db, 3)
    sql = "SELECT id, name, amount FROM items WHERE id = :id"
    assert await db.one(Item, sql, id=2) == Item(2, "n2", 2)
    assert await db.one(Row, "SELECT id, name FROM items WHERE id = :id", id=2) == Row(2, "n2")
    assert await db.one(dict, sql, id=2) == {"id": 2, "name": "n2", "amount": 2}
    assert await db.one(tuple, sql, id=2) == (2, "n2", 2)
    assert await db.one(tuple[int, str, int], sql, id=2) == (2, "n2", 2)
    assert await db.first(Item, sql, id=9) is None
    assert await db.value(int, "SELECT count(*) FROM items") == 3
    assert await db.all(str, "SELECT name FROM items ORDER BY id") == ["n1", "n2", "n3"]
    assert await db.all(Item, "SELECT id, name FROM items WHERE id > :id ORDER BY id", id=1) == [
        Item(2, "n2"),
        Item(3, "n3"),
    ]
    assert await db.all(Item, sql, id=9) == []


async def test_one_row_means_one(db: SqlDatabase) -> None:
    await fill(db, 2)
    with pytest.raises(NoRow, match="no row: SELECT id FROM items WHERE id = :id"):
        await db.one(int, "SELECT id FROM items WHERE id = :id", id=9)
    with pytest.raises(ManyRows, match="2 rows, not one"):
        await db.one(int, "SELECT id FROM items")


async def test_parameters_are_found_where_they_are_and_nowhere_else(db: SqlDatabase) -> None:
    sql = """
        SELECT ':no', :text AS a, -- :comment
               /* :block */ :number + :number AS b, '100%', 'it''s :not', '?'
    """
    row = await db.one(
        tuple,
        sql.replace(":text", "CAST(:text AS CHAR(9))").replace(":number", "CAST(:number AS DECIMAL)"),
        text="o'x\\",
        number=2,
    )
    assert [str(value).strip() for value in row] == [":no", "o'x\\", "4", "100%", "it's :not", "?"]
    with pytest.raises(ParameterError, match=r"lacks :amount, :name and has no place for nom"):
        await db.execute(INSERT, id=1, nom="x")
    await db.execute(INSERT, id=1, name="Robert'); DROP TABLE items; --", amount=1)
    assert await db.value(str, "SELECT name FROM items") == "Robert'); DROP TABLE items; --"


async def test_a_row_that_does_not_fit_says_which_column_and_no_value(db: SqlDatabase) -> None:
    await db.execute(INSERT, id=1, name="hush", amount=1)

    class Wrong(msgspec.Struct):
        id: int
        name: int

    for kind in (Wrong, tuple[int, int]):
        with pytest.raises(RowError, match="column 'name' is of type str") as caught:
            await db.one(kind, "SELECT id, name FROM items")
        assert "hush" not in str(caught.value)
    with pytest.raises(RowError, match=r"Wrong\.name, which is int"):
        await db.all(Wrong, "SELECT id, name FROM items")
    with pytest.raises(RowError, match="column 'name' is of type str and does not fit int"):
        await db.value(int, "SELECT name FROM items")
    with pytest.raises(RowError, match="Item needs name; the columns are id"):
        await db.one(Item, "SELECT id FROM items")
    with pytest.raises(RowError, match="more than one column id"):
        await db.one(Item, "SELECT a.id, b.id, a.name FROM items a JOIN items b ON a.id = b.id")
    with pytest.raises(RowError, match="column 'amount' is NULL"):
        await db.one(Item, "SELECT id, name, NULL AS amount FROM items")
    with pytest.raises(RowError, match="one value"):
        await db.value(int, "SELECT id, name FROM items")


async def test_execute_tells_what_it_did(db: SqlDatabase) -> None:
    await fill(db, 5)
    assert (await db.execute("UPDATE items SET amount = 0 WHERE id > :id", id=2)).rowcount == 3
    assert (await db.execute("DELETE FROM items WHERE id = :id", id=99)).rowcount == 0
    if db.dialect != "postgresql":
        kind = "INTEGER PRIMARY KEY AUTOINCREMENT" if db.dialect == "sqlite" else "INTEGER PRIMARY KEY AUTO_INCREMENT"
        await db.execute(f"CREATE TABLE keys_ (id {kind}, n INTEGER)")
        await db.execute("INSERT INTO keys_ (n) VALUES (:n)", n=1)
        assert (await db.execute("INSERT INTO keys_ (n) VALUES (:n)", n=1)).last_id == 2
    assert (await db.execute_many(INSERT, [])).rowcount == 0


async def test_many_rows_are_all_or_none(db: SqlDatabase) -> None:
    rows = [{"id": n, "name": f"n{n % 7}", "amount": 0} for n in range(20)]
    with pytest.raises(UniqueViolation) as caught:
        await db.execute_many(INSERT, rows)
    assert "n0" not in str(caught.value)
    assert await db.value(int, "SELECT count(*) FROM items") == 0


async def test_errors_have_kinds(db: SqlDatabase) -> None:
    await fill(db, 1)
    with pytest.raises(UniqueViolation):
        await db.execute(INSERT, id=7, name="n1", amount=0)
    with pytest.raises(ConstraintViolation):
        await db.execute(INSERT, id=7, name=None, amount=0)
    with pytest.raises(StatementError, match="nowhere"):
        await db.all(dict, "SELECT * FROM nowhere")
    with pytest.raises(StatementError):
        await db.execute("SELEKT 1")
    with pytest.raises(NoRow):
        await db.one(Item, "UPDATE items SET amount = 1")
    assert await db.value(int, "SELECT count(*) FROM items") == 1


async def test_stream_gives_every_row_and_may_be_left(db: SqlDatabase) -> None:
    await fill(db, 1000)
    total = 0
    async for item in db.stream(Item, "SELECT id, name, amount FROM items WHERE id > :id ORDER BY id", id=0):
        total += item.amount
    assert total == 500500
    async with contextlib.aclosing(db.stream(int, "SELECT id FROM items ORDER BY id")) as rows:
        async for number in rows:
            if number == 3:
                break
    assert await db.value(int, "SELECT count(*) FROM items") == 1000
    async with db.begin() as tx:
        assert sum([n async for n in tx.stream(int, "SELECT id FROM items")]) == 500500
        await tx.execute("DELETE FROM items WHERE id = 1")
    assert await db.value(int, "SELECT count(*) FROM items") == 999


async def test_transaction_commits_or_not(db: SqlDatabase) -> None:
    async with db.begin() as tx:
        await tx.execute(INSERT, id=1, name="kept", amount=0)
        assert await tx.value(int, "SELECT count(*) FROM items") == 1
    with pytest.raises(RuntimeError):
        async with db.begin() as tx:
            await tx.execute(INSERT, id=2, name="lost", amount=0)
            raise RuntimeError
    assert await db.all(str, "SELECT name FROM items") == ["kept"]
    with pytest.raises(DatabaseError, match="has ended"):
        await tx.execute("DELETE FROM items")


async def test_savepoints_nest(db: SqlDatabase) -> None:
    async with db.begin() as tx:
        await tx.execute(INSERT, id=1, name="a", amount=0)
        with pytest.raises(UniqueViolation):
            async with tx.begin() as inner:
                await inner.execute(INSERT, id=2, name="b", amount=0)
                await inner.execute(INSERT, id=3, name="a", amount=0)
        async with tx.begin(), tx.begin() as inner:
            await inner.execute(INSERT, id=4, name="d", amount=0)
    assert await db.all(str, "SELECT name FROM items ORDER BY id") == ["a", "d"]


async def test_a_reading_transaction_sees_one_state_and_writes_nothing(db: SqlDatabase) -> None:
    await fill(db, 1)
    async with db.begin("repeatable read", read_only=True) as tx:
        assert await tx.value(int, "SELECT count(*) FROM items") == 1
        await db.execute(INSERT, id=2, name="later", amount=0)
        assert await tx.value(int, "SELECT count(*) FROM items") == 1
        if db.dialect != "sqlite":
            with pytest.raises(StatementError, match=r"(?i)read.only"):
                async with tx.begin():
                    await tx.execute("DELETE FROM items")
    assert await db.value(int, "SELECT count(*) FROM items") == 2
    with pytest.raises(ParameterError, match="isolation 'chaos' is none of"):
        db.begin("chaos")


async def test_locked_reads_lose_no_update(db: SqlDatabase) -> None:
    await db.execute(INSERT, id=1, name="till", amount=0)

    async def add() -> None:
        async with db.begin() as tx:
            amount = await tx.value(int, "SELECT amount FROM items WHERE id = 1 FOR UPDATE")
            await asyncio.sleep(0.002)
            await tx.execute("UPDATE items SET amount = :amount WHERE id = 1", amount=amount + 1)

    await asyncio.gather(*(add() for _ in range(20)))
    assert await db.value(int, "SELECT amount FROM items") == 20


async def test_serialization_failures_are_tried_again(db: SqlDatabase) -> None:
    await db.execute(INSERT, id=1, name="till", amount=0)

    async def add(tx: Transaction) -> int:
        amount = await tx.value(int, "SELECT amount FROM items WHERE id = 1")
        await asyncio.sleep(0.001)
        await tx.execute("UPDATE items SET amount = :amount WHERE id = 1", amount=amount + 1)
        return amount

    await asyncio.gather(*(db.retrying(add, attempts=60, isolation="serializable") for _ in range(8)))
    assert await db.value(int, "SELECT amount FROM items") == 8


async def test_deadlock_is_a_conflict_and_retrying_gets_through(db: SqlDatabase) -> None:
    await fill(db, 2)
    met, arrived = asyncio.Event(), 0

    async def cross(tx: Transaction, first: int, second: int) -> None:
        nonlocal arrived
        await tx.execute("UPDATE items SET amount = amount + 1 WHERE id = :id", id=first)
        arrived += 1
        if arrived == 2:
            met.set()
        if db.dialect != "sqlite":  # there the second waits for the first from the start
            await met.wait()
        await tx.execute("UPDATE items SET amount = amount + 1 WHERE id = :id", id=second)

    async with asyncio.timeout(20):
        await asyncio.gather(db.retrying(lambda tx: cross(tx, 1, 2)), db.retrying(lambda tx: cross(tx, 2, 1)))
    assert await db.all(int, "SELECT amount FROM items ORDER BY id") == [3, 4]
    calls = 0

    async def always(tx: Transaction) -> None:
        nonlocal calls
        calls += 1
        raise Conflict("again")

    with pytest.raises(Conflict):
        await db.retrying(always, attempts=3)
    assert calls == 3


async def test_a_deadlock_passed_over_commits_nothing(db: SqlDatabase) -> None:
    """MySQL undoes the whole transaction and would then take each statement by itself."""
    await fill(db, 2)
    met, arrived, conflicts = asyncio.Event(), 0, 0

    async def cross(first: int, second: int) -> None:
        nonlocal arrived, conflicts
        async with db.begin() as tx:
            await tx.execute("UPDATE items SET amount = 100 WHERE id = :id", id=first)
            arrived += 1
            if arrived == 2:
                met.set()
            await met.wait()
            try:
                await tx.execute("UPDATE items SET amount = 100 WHERE id = :id", id=second)
            except Conflict:
                conflicts += 1
            await tx.execute("INSERT INTO items (id, name) VALUES (:id, :name)", id=first + 10, name=f"x{first}")

    if db.dialect == "sqlite":
        met.set()  # there is one writer at a time, and no deadlock
    results = await asyncio.gather(cross(1, 2), cross(2, 1), return_exceptions=True)
    failed = [result for result in results if result is not None]
    assert len(failed) == conflicts == (0 if db.dialect == "sqlite" else 1)
    assert all(isinstance(error, DatabaseError) for error in failed)
    assert await db.value(int, "SELECT count(*) FROM items WHERE id > 10") == 2 - conflicts


async def test_a_transaction_does_one_thing_at_a_time(db: SqlDatabase) -> None:
    async with db.begin() as tx:
        results = await asyncio.gather(*(tx.value(int, "SELECT 1") for _ in range(3)), return_exceptions=True)
    assert results[0] == 1
    assert all(isinstance(result, DatabaseError) for result in results[1:])


SLEEP = {
    "mysql": "SELECT SLEEP(:n)",
    "postgresql": "SELECT pg_sleep(:n)",
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000000 * :n)"
    " SELECT count(*) FROM c",
}
RUNNING = {
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'",
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'",
}


async def until_stopped(db: SqlDatabase) -> None:
    if db.dialect in RUNNING:
        async with asyncio.timeout(10):
            while await db.value(int, RUNNING[db.dialect]):  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.02)


async def test_a_cancelled_statement_leaves_nothing_behind(db: SqlDatabase) -> None:
    await fill(db, 1)
    for _ in range(3):
        task = asyncio.create_task(db.all(tuple, SLEEP[db.dialect], n=30))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (
        await asyncio.gather(*(db.one(Item, "SELECT * FROM items WHERE id = :id", id=1) for _ in range(20)))
        == [Item(1, "n1", 1)] * 20
    )
    await until_stopped(db)
    assert db.core.pool.total <= 4


async def test_a_cancelled_transaction_is_undone(db: SqlDatabase) -> None:
    async def work() -> None:
        async with db.begin() as tx:
            await tx.execute(INSERT, id=1, name="lost", amount=0)
            await tx.all(tuple, SLEEP[db.dialect], n=30)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        await db.execute(INSERT, id=1, name="lost", amount=0)  # waits for the lock of the other to be gone
    await until_stopped(db)


async def test_the_deadline_stops_the_server_too(db: SqlDatabase) -> None:
    started = time.monotonic()
    with deadline(0.2), pytest.raises(DeadlineExceeded, match="the deadline passed during"):
        await db.all(tuple, SLEEP[db.dialect], n=30)
    assert time.monotonic() - started < 10
    await until_stopped(db)
    assert await db.value(int, "SELECT 1") == 1


async def test_waiting_for_a_connection_is_bounded(database_uri: str) -> None:
    registry = Registry()
    db = SqlDatabase("small", binding(database_uri), pool=Pool(size=1, waiting=0.1), registry=registry)
    async with db.begin() as tx:
        await tx.all(int, "SELECT 1")
        with pytest.raises(PoolTimeout, match="all 1 are in use") as caught:
            await db.execute("CREATE TABLE t (id INTEGER)")
        assert caught.value.http_status == 503
        with deadline(0.05), pytest.raises(DeadlineExceeded):
            await db.execute("CREATE TABLE t (id INTEGER)")
        db.core.pool.waiting = 30
        waiting = asyncio.create_task(db.execute("CREATE TABLE t (id INTEGER)"))
        given_up = asyncio.create_task(db.execute("CREATE TABLE u (id INTEGER)"))
        await asyncio.sleep(0.01)
        given_up.cancel()
    await waiting
    page = registry.render()
    assert 'db_pool_errors_total{database="small",kind="pool_timeout"} 2' in page
    assert "db_pool_wait_seconds_count" in page
    assert (db.core.pool.total, len(db.core.pool.idle)) == (1, 1)
    await db.close()


async def test_many_writers_at_once(db: SqlDatabase, database_uri: str) -> None:
    other = SqlDatabase("other", binding(database_uri))

    async def write(on: SqlDatabase, number: int) -> None:
        async with on.begin() as tx:
            await tx.all(int, "SELECT id FROM items")
            await tx.execute(INSERT, id=number, name=f"w{number}", amount=0)

    await asyncio.gather(*(write((db, other)[n % 2], n) for n in range(60)))
    assert await db.value(int, "SELECT count(*) FROM items") == 60
    await other.close()


async def test_sessions_and_plain_sql_share_connections(db: SqlDatabase) -> None:
    await fill(db, 2)
    for _ in range(5):
        assert await db.value(int, "SELECT count(*) FROM items WHERE id > :id", id=0) == 2
        async with db.session() as session:
            assert (await session.execute(text("SELECT count(*) FROM items"))).scalar() == 2
        async with db.transaction() as session:
            await session.execute(text("UPDATE items SET amount = amount + 1"))
    async with db.session() as session:  # left without a commit
        await session.execute(text("DELETE FROM items"))
    assert await db.all(int, "SELECT amount FROM items ORDER BY id") == [6, 7]
    assert db.core.pool.total == 1


async def test_events_of_a_transaction_are_in_its_outbox(db: SqlDatabase) -> None:
    await db.ensure_tables()
    woken = []
    db.wake_relay = lambda: woken.append(1)
    message = Message("placed", b"{}", "e1")
    with pytest.raises(RuntimeError):
        async with db.begin() as tx:
            await outbox_insert(tx, message)
            raise RuntimeError
    assert not woken
    async with db.begin() as tx:
        await outbox_insert(tx, message)
        assert not woken
    assert woken == [1]
    assert await db.all(str, "SELECT event_id FROM sampan_outbox") == ["e1"]


async def test_a_table_that_changes_under_a_statement(db: SqlDatabase) -> None:
    await fill(db, 1)
    sql = "SELECT * FROM items WHERE id = :id"
    assert await db.one(dict, sql, id=1) == {"id": 1, "name": "n1", "amount": 1}
    await db.execute("ALTER TABLE items ADD COLUMN extra INTEGER")
    changed = None
    for _ in range(2):  # PostgreSQL refuses a cached plan once, and plans anew
        with contextlib.suppress(StatementError):
            changed = await db.one(dict, sql, id=1)
    assert changed == {"id": 1, "name": "n1", "amount": 1, "extra": None}


async def test_metrics_name_the_operation(database_uri: str) -> None:
    registry = Registry()
    db = SqlDatabase("seen", binding(database_uri), registry=registry)
    await db.value(int, "SELECT 1")
    async with db.session() as session:
        await session.execute(text("SELECT 1"))
    with pytest.raises(StatementError):
        await db.execute("DELETE FROM nowhere")
    page = registry.render()
    assert 'db_client_operation_duration_seconds_count{database="seen",operation="SELECT"} 2' in page
    assert 'db_client_errors_total{database="seen",error="StatementError"} 1' in page
    await db.close()
