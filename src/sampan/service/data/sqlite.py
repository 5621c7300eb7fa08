"""SQLite through aiosqlite's thread, one hop for a statement; short reads without any, on the event loop itself.

A read by itself runs first on a connection of the loop's own, with leave for some tens of microseconds of SQLite's
work: in WAL mode it waits for no lock. What takes longer is broken off and run again in a thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite

from sampan.model.data import (
    Conflict,
    ConstraintViolation,
    DatabaseError,
    StatementError,
    Unavailable,
    UniqueViolation,
)
from sampan.service.data.pool import Result, Slot
from sampan.service.data.url import Url

T = TypeVar("T")

BUSY_MS: Final = 10_000
_STREAMED: Final = 200
_STEPS: Final = 2000  # of SQLite's virtual machine; about 50 microseconds
_READING: Final = frozenset({"SELECT", "VALUES", "EXPLAIN", "PRAGMA"})


class SQLite:
    engine = system = "sqlite"
    host, port = "", 0

    def __init__(self, url: Url, read_only: bool) -> None:
        self.path = url.database or ""
        self.database = Path(self.path).stem
        self.read_only = read_only
        self._reader: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        # autocommit: transactions begin where we say so
        connection = sqlite3.connect(
            self.path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        if self.read_only:
            connection.execute("PRAGMA query_only=ON")
        return connection

    async def connect(self) -> Any:
        raw = aiosqlite.Connection(self._open, 64)
        raw._thread.daemon = True
        return await raw

    def read_now(self, sql: str, arguments: tuple[Any, ...]) -> Result | None:
        """The result of a short read; None for one that must go to a thread."""
        reader = self._reader
        try:
            if reader is None:
                if not Path(self.path).exists():
                    return None
                reader = self._reader = self._open_reader()
            cursor = reader.execute(sql, arguments)
            rows = cursor.fetchmany(_STREAMED)
            if len(rows) == _STREAMED:
                cursor.close()
                return None
            if cursor.description is None:
                return None
        except sqlite3.Error:
            return None  # too long, locked or refused: the thread finds out, and says so
        return tuple([column[0] for column in cursor.description]), rows, len(rows), 0

    def _open_reader(self) -> sqlite3.Connection:
        reader = sqlite3.connect(self.path, timeout=0, isolation_level=None, cached_statements=256)
        reader.execute("PRAGMA query_only=ON")
        reader.set_progress_handler(lambda: 1, _STEPS)
        return reader

    async def _call(self, slot: Slot, function: Callable[[sqlite3.Connection], T]) -> T:
        raw = slot.raw
        return await raw._execute(function, raw._conn)  # type: ignore[no-any-return]

    async def fetch(self, slot: Slot, sql: str, arguments: tuple[Any, ...]) -> Result:
        def work(connection: sqlite3.Connection) -> Result:
            cursor = connection.execute(sql, arguments)
            if cursor.description is None:
                return (), (), cursor.rowcount, cursor.lastrowid or 0
            rows = cursor.fetchall()
            return tuple([column[0] for column in cursor.description]), rows, len(rows), cursor.lastrowid or 0

        return await self._call(slot, work)

    async def many(self, slot: Slot, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
        return await self._call(slot, lambda connection: connection.executemany(sql, rows).rowcount)

    async def stream(
        self, slot: Slot, sql: str, arguments: tuple[Any, ...]
    ) -> AsyncIterator[tuple[tuple[str, ...], Sequence[tuple[Any, ...]]]]:
        cursor = await self._call(slot, lambda connection: connection.execute(sql, arguments))
        columns = tuple([column[0] for column in cursor.description or ()])
        try:
            while rows := await self._call(slot, lambda _: cursor.fetchmany(_STREAMED)):
                yield columns, rows
        finally:
            cursor.close()

    async def begin(self, slot: Slot, isolation: str, read_only: bool) -> None:
        """A reading transaction sees one state. A writing one begins, IMMEDIATE, with its first statement that writes
        or locks (`lock`): a deferred one that turns from reading to writing fails as busy at once."""
        if read_only:
            await self._call(slot, lambda connection: connection.execute("BEGIN"))
        elif isolation in ("REPEATABLE READ", "SERIALIZABLE"):
            await self.lock(slot)

    async def lock(self, slot: Slot) -> None:
        if not slot.raw.in_transaction:
            await self._call(slot, lambda connection: connection.execute("BEGIN IMMEDIATE"))

    async def commit(self, slot: Slot) -> None:
        if slot.raw.in_transaction:
            await slot.raw.commit()

    async def rollback(self, slot: Slot) -> None:
        if slot.raw.in_transaction:
            await slot.raw.rollback()

    def alive(self, slot: Slot) -> bool:
        return slot.raw._connection is not None

    def clean(self, slot: Slot) -> bool:
        return slot.raw._connection is not None and not slot.raw.in_transaction

    async def repair(self, slot: Slot) -> bool:
        if slot.dirty:
            await slot.raw.interrupt()
        await self._call(slot, sqlite3.Connection.rollback)
        return True

    async def close(self, raw: Any) -> None:
        await raw.close()

    def forget(self) -> None:
        """Close the loop's own connection."""
        if self._reader is not None:
            with contextlib.suppress(sqlite3.Error):
                self._reader.close()
            self._reader = None

    def translate(self, error: BaseException) -> DatabaseError | None:
        if not isinstance(error, sqlite3.Error):
            return Unavailable(str(error)) if isinstance(error, OSError) else None
        text, code = str(error), getattr(error, "sqlite_errorname", "")
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Conflict(text, code)
        if code in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"):
            return UniqueViolation(f"there is such a row already, by key {text.rpartition(': ')[2]}", code)
        if code.startswith("SQLITE_CONSTRAINT"):
            return ConstraintViolation(text, code)
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return Unavailable(text, code)
        return StatementError(text, code)
