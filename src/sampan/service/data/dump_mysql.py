"""MySQL and MariaDB: a script of SQL, read in one snapshot; loaded into a scratch database and swapped in.

`RENAME TABLE` of many tables is one step of the server's: the old contents are there until it, the new from it on.
Views, triggers and routines cannot be renamed across databases; they are made anew after the step.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TextIO, cast

from sampan.model.data import DatabaseError, StatementError
from sampan.service.bindings import Binding
from sampan.service.data.backup import BackupError, Contents, Summing, compare
from sampan.service.data.database import SqlDatabase
from sampan.service.data.sql import Transaction

_END: Final = "\n-- end of statement\n"
_BATCH: Final = 200
_SESSION: Final = (
    "SET SESSION time_zone = '+00:00', foreign_key_checks = 0, unique_checks = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO'"
)
_DENIED: Final = frozenset({"1044", "1045", "1142", "1227", "1410"})
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\0": "\\0", "\x1a": "\\Z"})


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool | int | float | Decimal):
        return str(int(value)) if isinstance(value, bool) else repr(value) if isinstance(value, float) else f"{value}"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, timedelta):
        seconds, sign = abs(value) // timedelta(seconds=1), "-" * (value < timedelta(0))
        micro = f".{abs(value).microseconds:06}"
        return f"'{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{micro}'"
    if isinstance(value, datetime):
        return f"'{value.isoformat(' ')}'"
    if isinstance(value, date):
        return f"'{value.isoformat()}'"
    return f"'{str(value).translate(_ESCAPES)}'"


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


class MySQLDump:
    def __init__(self, database: SqlDatabase) -> None:
        self.database = database
        self.schema = database.url.database or ""

    async def version(self) -> str:
        return await self.database.value(str, "SELECT version()")

    async def tables(self) -> list[str]:
        return await _tables(self.database, "BASE TABLE")

    async def dump(self, path: Path) -> dict[str, Contents]:
        found: dict[str, Contents] = {}
        with cast("TextIO", gzip.open(path, "wt", 6, encoding="utf-8")) as out:
            async with self.database.begin("repeatable read", read_only=True) as tx:
                await tx.execute(_SESSION)
                for table in await _tables(tx, "BASE TABLE"):
                    made = await tx.one(dict, f"SHOW CREATE TABLE {quoted(table)}")
                    out.write(made["Create Table"] + ";" + _END)
                    found[table] = await _rows(tx, table, out)
                for kind, statement in await self._rest(tx):
                    out.write(f"-- {kind}\n{statement};" + _END)
        return found

    async def _rest(self, tx: Transaction) -> list[tuple[str, str]]:
        """Views, triggers and routines: what is made when the tables are in place."""
        rest = [
            ("VIEW", (await tx.one(dict, f"SHOW CREATE VIEW {quoted(view)}"))["Create View"])
            for view in await _tables(tx, "VIEW")
        ]
        sql = "SELECT trigger_name AS name FROM information_schema.triggers WHERE trigger_schema = database()"
        for name in await tx.all(str, sql):
            row = await tx.one(dict, f"SHOW CREATE TRIGGER {quoted(name)}")
            rest.append(("TRIGGER", row["SQL Original Statement"]))
        for kind in ("PROCEDURE", "FUNCTION"):
            sql = (
                "SELECT routine_name AS name FROM information_schema.routines"
                " WHERE routine_schema = database() AND routine_type = :kind"
            )
            for name in await tx.all(str, sql, kind=kind):
                row = await tx.one(dict, f"SHOW CREATE {kind} {quoted(name)}")
                rest.append((kind, row[f"Create {kind.title()}"]))
        schema = quoted(self.schema)
        return [(kind, statement.replace(f"{schema}.", "")) for kind, statement in rest]

    async def rehearse(self, path: Path) -> dict[str, Contents]:
        async with self._scratch() as scratch:
            await self._load(path, scratch)
            return await _contents(scratch)

    async def restore(self, path: Path, tables: Mapping[str, Contents], *, replace: bool) -> None:
        async with self._scratch() as scratch, self._scratch() as bin_:
            rest = await self._load(path, scratch)
            compare(tables, await _contents(scratch), "nothing was touched")
            target, source, old = quoted(self.schema), quoted(_name(scratch)), quoted(_name(bin_))
            present = await self.tables()
            async with self._session(self.database) as tx:
                triggers = await self._clear(tx)
                moves = [f"{target}.{quoted(table)} TO {old}.{quoted(table)}" for table in present]
                moves += [f"{source}.{quoted(table)} TO {target}.{quoted(table)}" for table in tables]
                try:
                    if moves:
                        await tx.execute(f"RENAME TABLE {', '.join(moves)}")
                except DatabaseError as error:
                    for statement in triggers:
                        await _raw(tx, statement)
                    raise BackupError(f"the tables could not be swapped: {error}; the old data are in place") from None
                for statement in rest:
                    await _raw(tx, statement)

    async def _clear(self, tx: Transaction) -> list[str]:
        """Drop what cannot move between databases; the statements that make it again."""
        rest = await self._rest(tx)
        for view in await _tables(tx, "VIEW"):
            await tx.execute(f"DROP VIEW {quoted(view)}")
        for kind, column in (("TRIGGER", "trigger"), ("PROCEDURE", "routine"), ("FUNCTION", "routine")):
            sql = f"SELECT {column}_name AS name FROM information_schema.{column}s WHERE {column}_schema = database()"  # noqa: S608
            sql += f" AND routine_type = '{kind}'" * (column == "routine")
            for name in await tx.all(str, sql):
                await _raw(tx, f"DROP {kind} {quoted(name)}")
        return [statement for _, statement in rest]

    async def _load(self, path: Path, scratch: SqlDatabase) -> list[str]:
        """Run the script in `scratch`; what is not a table or a row is handed back."""
        rest = []
        async with self._session(scratch) as tx:
            for statement in _statements(path):
                if statement.startswith("-- "):
                    rest.append(statement.partition("\n")[2])
                else:
                    await _raw(tx, statement)
        return rest

    @asynccontextmanager
    async def _session(self, database: SqlDatabase) -> AsyncIterator[Transaction]:
        async with database.begin() as tx:
            await tx.execute(_SESSION)
            yield tx

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[SqlDatabase]:
        name = f"{self.schema[:40]}_restore_{os.urandom(4).hex()}"
        charset = await self.database.value(str, "SELECT @@character_set_database")
        try:
            await self.database.execute(f"CREATE DATABASE {quoted(name)} CHARACTER SET {charset}")
        except StatementError as error:
            if error.code not in _DENIED:
                raise
            raise BackupError(
                f"the user may not make a database to load the backup into. As root: GRANT ALL ON "
                f"`{self.schema}\\_restore\\_%`.* TO the user; nothing was touched"
            ) from None
        url = self.database.url.changed(drivername="mysql", database=name).with_password()
        scratch = SqlDatabase(self.database.name, Binding("scratch", "mysql", url))
        try:
            yield scratch
        finally:
            await scratch.close()
            await self.database.execute(f"DROP DATABASE {quoted(name)}")


def _name(database: SqlDatabase) -> str:
    return database.url.database or ""


async def _raw(tx: Transaction, statement: str) -> None:
    """A whole statement as it is: colons and question marks in it are no parameters."""
    slot = tx._enter()
    try:
        await slot.raw.query(statement)
    except Exception as error:
        tx.core.fail(error)
        raise


async def _tables(database: Any, kind: str) -> list[str]:
    sql = (
        "SELECT table_name AS name FROM information_schema.tables"
        " WHERE table_schema = database() AND table_type = :kind ORDER BY table_name"
    )
    found: list[str] = await database.all(str, sql, kind=kind)
    return found


async def _columns(tx: Transaction, table: str) -> str:
    sql = (
        "SELECT column_name AS name FROM information_schema.columns WHERE table_schema = database()"
        " AND table_name = :name AND extra NOT LIKE '%GENERATED%' ORDER BY ordinal_position"
    )
    return ", ".join(quoted(name) for name in await tx.all(str, sql, name=table))


async def _rows(tx: Transaction, table: str, out: TextIO | None) -> Contents:
    """Sum the rows of a table, and write them as INSERT statements."""
    columns, summing = await _columns(tx, table), Summing()
    head, batch = f"INSERT INTO {quoted(table)} ({columns}) VALUES\n", list[str]()
    async for row in tx.stream(tuple, f"SELECT {columns} FROM {quoted(table)}"):  # noqa: S608  # names are quoted
        text = ",".join(literal(value) for value in row)
        summing.add(text)
        batch.append(f"({text})")
        if out is not None and len(batch) == _BATCH:
            out.write(head + ",\n".join(batch) + ";" + _END)
        if len(batch) == _BATCH:
            batch = []
    if out is not None and batch:
        out.write(head + ",\n".join(batch) + ";" + _END)
    return summing.contents()


async def _contents(database: SqlDatabase) -> dict[str, Contents]:
    async with database.begin("repeatable read", read_only=True) as tx:
        await tx.execute(_SESSION)
        return {table: await _rows(tx, table, None) for table in await _tables(tx, "BASE TABLE")}


def _statements(path: Path) -> Iterator[str]:
    rest = ""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            while chunk := file.read(1 << 20):
                *whole, rest = (rest + chunk).split(_END)
                for statement in whole:
                    yield statement.rstrip().removesuffix(";")
    except (OSError, EOFError) as error:
        raise BackupError(f"the backup cannot be read: {error}; nothing was touched") from None
    if rest.strip():
        raise BackupError("the backup ends in the middle of a statement; nothing was touched")
