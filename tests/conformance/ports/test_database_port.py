"""What every database back-end must do, on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from sampan.service.data import tables
from sampan.service.data.database import SqlDatabase
from sampan.service.migrate import bring_up_to_date
from tests.conformance.ports.databases import binding

metadata = MetaData()
accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(50)),
    Column("amount", BigInteger, nullable=False, default=0),
)


@pytest.fixture
async def database(database_uri: str) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase("test", binding(database_uri))
    async with database.connection() as connection:
        await connection.run_sync(metadata.create_all)
    yield database
    await database.close()


async def count(database: SqlDatabase) -> int:
    async with database.session() as session:
        return await session.scalar(select(func.count()).select_from(accounts)) or 0


async def test_transaction_commits_on_leaving(database: SqlDatabase) -> None:
    async with database.transaction() as session:
        await session.execute(insert(accounts).values(name="ada ✓"))
    async with database.session() as session:
        assert await session.scalar(select(accounts.c.name)) == "ada ✓"


async def test_transaction_rolls_back_on_an_exception(database: SqlDatabase) -> None:
    with pytest.raises(RuntimeError):
        async with database.transaction() as session:
            await session.execute(insert(accounts).values(name="ada"))
            raise RuntimeError
    assert await count(database) == 0


async def test_session_leaves_the_commit_to_its_user(database: SqlDatabase) -> None:
    async with database.session() as session:
        await session.execute(insert(accounts).values(name="lost"))
    assert await count(database) == 0
    async with database.session() as session:
        await session.execute(insert(accounts).values(name="kept"))
        await session.commit()
    assert await count(database) == 1


async def test_locked_read_then_write_loses_no_update(database: SqlDatabase) -> None:
    async with database.transaction() as session:
        await session.execute(insert(accounts).values(id=1, name="till", amount=0))

    async def add() -> None:
        async with database.transaction() as session:
            amount = await session.scalar(select(accounts.c.amount).where(accounts.c.id == 1).with_for_update())
            await asyncio.sleep(0.002)
            await session.execute(update(accounts).where(accounts.c.id == 1).values(amount=(amount or 0) + 1))

    await asyncio.gather(*(add() for _ in range(20)))
    async with database.session() as session:
        assert await session.scalar(select(accounts.c.amount)) == 20


async def test_two_processes_share_a_database(database: SqlDatabase, database_uri: str) -> None:
    """Two engines stand for two processes; a read followed by a write never fails as busy."""
    other = SqlDatabase("other", binding(database_uri))

    async def write(on: SqlDatabase, number: int) -> None:
        async with on.transaction() as session:
            await session.execute(select(accounts.c.id))
            await session.execute(insert(accounts).values(name=str(number)))

    try:
        await asyncio.gather(*(write(one, n) for n in range(15) for one in (database, other)))
    finally:
        await other.close()
    assert await count(database) == 30


async def test_savepoint(database: SqlDatabase) -> None:
    async with database.transaction() as session:
        await session.execute(insert(accounts).values(id=1, name="kept"))
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await session.execute(insert(accounts).values(id=1, name="twice"))
    assert await count(database) == 1


async def test_a_read_grant_cannot_write(database: SqlDatabase, database_uri: str) -> None:
    reader = SqlDatabase("reader", binding(database_uri), read_only=True)
    try:
        async with reader.session() as session:
            assert (await session.execute(select(accounts))).all() == []
        with pytest.raises(DBAPIError, match=r"(?i)read.?only"):
            async with reader.transaction() as session:
                await session.execute(insert(accounts).values(name="no"))
    finally:
        await reader.close()


async def test_check_and_own_tables(database: SqlDatabase, database_uri: str) -> None:
    await database.check()
    others = [SqlDatabase(f"o{n}", binding(database_uri)) for n in range(3)]
    await asyncio.gather(*(one.ensure_tables() for one in (database, *others)))
    async with database.session() as session:
        assert (await session.execute(text(f"SELECT * FROM {tables.OUTBOX}"))).all() == []
    for one in others:
        await one.close()


REVISION = '''
"""{name}"""
import sqlalchemy as sa
from alembic import op

revision = "{name}"
down_revision = {down!r}


def upgrade():
    {body}


def downgrade():
    pass
'''


def write_revision(directory: Path, name: str, down: str | None, body: str) -> None:
    (directory / "versions").mkdir(parents=True, exist_ok=True)
    (directory / "versions" / f"{name}.py").write_text(REVISION.format(name=name, down=down, body=body))


async def test_migrations_run_once_however_many_run_them(database_uri: str, tmp_path: Path) -> None:
    directory = tmp_path / "migrations"
    write_revision(directory, "one", None, 'op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))')
    write_revision(directory, "two", "one", 'op.execute("INSERT INTO things (id) VALUES (7)")')
    databases = [SqlDatabase(f"m{n}", binding(database_uri)) for n in range(3)]
    await asyncio.gather(*(bring_up_to_date(one.engine, binding(database_uri), directory) for one in databases))
    async with databases[0].session() as session:
        assert (await session.scalars(text("SELECT id FROM things"))).all() == [7]
        assert (await session.scalars(text("SELECT version_num FROM alembic_version"))).all() == ["two"]
    write_revision(directory, "three", "two", 'op.add_column("things", sa.Column("note", sa.String(20)))')
    await bring_up_to_date(databases[0].engine, binding(database_uri), directory)
    async with databases[0].session() as session:
        assert (await session.execute(text("SELECT note FROM things"))).all() == [(None,)]
    for one in databases:
        await one.close()


async def test_a_failing_migration_says_so_and_keeps_the_version(database_uri: str, tmp_path: Path) -> None:
    directory = tmp_path / "migrations"
    write_revision(directory, "one", None, 'op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))')
    write_revision(directory, "two", "one", 'op.execute("INSERT INTO nowhere VALUES (1)")')
    database = SqlDatabase("m", binding(database_uri))
    with pytest.raises(DBAPIError, match="nowhere"):
        await bring_up_to_date(database.engine, binding(database_uri), directory)
    async with database.session() as session:
        assert (await session.scalars(text("SELECT version_num FROM alembic_version"))).all() == ["one"]
    await database.close()


async def test_waits_for_a_database_that_is_not_up_yet(database_uri: str, tmp_path: Path) -> None:
    if database_uri.startswith("sqlite"):
        later = f"sqlite:///{tmp_path / 'new' / 'folder' / 'd.db'}"
        database = SqlDatabase("m", binding(later))
        await bring_up_to_date(database.engine, binding(later), None)
    else:
        wrong = database_uri.rpartition("/")[0] + "/created_later"
        database = SqlDatabase("m", binding(wrong))
        waiting = asyncio.create_task(bring_up_to_date(database.engine, binding(wrong), None))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        admin = SqlDatabase("a", binding(database_uri))
        await admin.execute("CREATE DATABASE created_later")
        await admin.close()
        await waiting
    await database.check()
    await database.close()
