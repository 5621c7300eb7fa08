"""MySQL and MariaDB through asyncmy: a statement is prepared once on a connection; values travel in binary."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import asyncmy
from asyncmy import errors
from asyncmy.cursors import SSCursor

from sampan.model.data import (
    Conflict,
    ConstraintViolation,
    DatabaseError,
    StatementError,
    Unavailable,
    UniqueViolation,
)
from sampan.service.data.pool import Result, Slot
from sampan.service.data.statement import PATTERNS
from sampan.service.data.url import Url

_IN_TRANSACTION: Final = 1  # SERVER_STATUS_IN_TRANS
_PREPARED: Final = 64  # on one connection; the server allows 16,382 for all of them
_STREAMED: Final = 200
_UNPREPARABLE: Final = 1295
_CONFLICTS: Final = frozenset({1205, 1213, 3572})
_UNIQUE: Final = frozenset({1062, 1169, 1586})
_CONSTRAINTS: Final = frozenset({1048, 1216, 1217, 1364, 1451, 1452, 3819, 4025})
_GONE: Final = frozenset({0, 1040, 1053, 1077, 1152, 1158, 1159, 1160, 1161, 1184, 1927, *range(2000, 2060)})
_FULL: Final = frozenset({1021, 1114})  # a disk without room, whatever the statement: it goes by when there is some
_NO_ROOM: Final = "No space left on device"
# whose message quotes a value
_QUOTING: Final = frozenset({1264, 1265, 1292, 1366, 1367, 1406, 1690})


class MySQL:
    engine = "mysql"

    def __init__(self, url: Url, system: str, read_only: bool) -> None:
        self.system, self.database = system, url.database or ""
        self.host, self.port = url.host or "localhost", url.port or 3306
        query = dict(url.query)
        # READ COMMITTED: no gap locks, so that replicas claiming outbox rows do not wait for each other's inserts
        session = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED" + ", READ ONLY" * read_only
        self._options: dict[str, Any] = {
            **{"host": self.host, "port": self.port, "user": url.username, "password": url.password or ""},
            **{"database": self.database, "charset": query.get("charset", "utf8mb4"), "autocommit": True},
            **{"connect_timeout": 5, "init_command": session},
        }
        if str(query.get("ssl", "")).lower() in ("true", "1", "required"):
            self._options["ssl"] = True
        if "ssl_ca" in query:
            self._options["ssl"] = {"ca": query["ssl_ca"]}
        self._killing = asyncio.Semaphore(2)

    async def connect(self) -> Any:
        raw: Any = await asyncmy.connect(**self._options)
        watch_peer(raw._transport.get_extra_info("socket"))
        return raw

    async def fetch(self, slot: Slot, sql: str, arguments: tuple[Any, ...]) -> Result:
        entry = slot.prepared.get(sql)
        if entry is None:
            entry = await self._prepare(slot, sql)
            if entry is None:
                return await self._plain(slot, sql)
        result = await entry[0].execute(arguments)
        rows = result.rows
        if rows is None:
            return (), (), result.affected_rows, result.insert_id
        if result.description is not entry[1]:
            entry[1], entry[2] = result.description, tuple([column[0] for column in result.description])
        return entry[2], rows, len(rows), 0

    async def _prepare(self, slot: Slot, sql: str) -> list[Any] | None:
        try:
            statement = await slot.raw.prepare(sql)
        except errors.MySQLError as error:
            if error.args and error.args[0] == _UNPREPARABLE:
                return None
            raise
        if len(slot.prepared) >= _PREPARED:
            oldest = slot.prepared.pop(next(iter(slot.prepared)))
            await oldest[0].close()
        entry = slot.prepared[sql] = [statement, None, ()]
        return entry

    async def _plain(self, slot: Slot, sql: str) -> Result:
        """For the few statements that cannot be prepared; they have no parameters."""
        async with slot.raw.cursor() as cursor:
            await cursor.execute(sql)
            columns = tuple([column[0] for column in cursor.description or ()])
            rows = await cursor.fetchall() if columns else ()
            return columns, rows, cursor.rowcount, cursor.lastrowid or 0

    async def many(self, slot: Slot, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
        entry = slot.prepared.get(sql) or await self._prepare(slot, sql)
        if entry is None:
            raise StatementError("this statement cannot be prepared, and so not run for many rows")
        if getattr(slot.raw, "_bulk_supported", False) and len(rows) > 1:
            with contextlib.suppress(ValueError, errors.NotSupportedError):  # mixed types: raised before any I/O
                return int((await entry[0].execute_bulk(rows)).affected_rows)
        changed = 0
        for row in rows:
            changed += (await entry[0].execute(row)).affected_rows
        return changed

    async def stream(
        self, slot: Slot, sql: str, arguments: tuple[Any, ...]
    ) -> AsyncIterator[tuple[tuple[str, ...], Sequence[tuple[Any, ...]]]]:
        text = sql.replace("%", "%%") if arguments else sql
        cursor = slot.raw.cursor(SSCursor)
        await cursor.execute(_positional(text) if arguments else text, arguments or None)
        columns = tuple([column[0] for column in cursor.description or ()])
        slot.dirty = True  # until the last row has been read
        while rows := await cursor.fetchmany(_STREAMED):
            yield columns, rows
        await cursor.close()
        slot.dirty = False

    async def begin(self, slot: Slot, isolation: str, read_only: bool) -> None:
        if isolation:
            await slot.raw.query(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        await slot.raw.query("START TRANSACTION READ ONLY" if read_only else "BEGIN")

    async def commit(self, slot: Slot) -> None:
        await slot.raw.commit()

    async def rollback(self, slot: Slot) -> None:
        await slot.raw.rollback()

    def alive(self, slot: Slot) -> bool:
        return slot.raw.connected and not slot.raw._stream_broken

    def clean(self, slot: Slot) -> bool:
        raw = slot.raw
        return raw.connected and not raw._stream_broken and not raw.server_status & _IN_TRANSACTION

    async def repair(self, slot: Slot) -> bool:
        if not slot.dirty and self.alive(slot):
            await slot.raw.rollback()
            return True
        thread = slot.raw.thread_id()
        slot.raw.close()
        with contextlib.suppress(Exception):
            await self._kill(thread)
        return False

    async def _kill(self, thread: Any) -> None:
        """Have the server drop a connection, and with it the statement it is still at work on."""
        async with self._killing:
            connection: Any = await asyncmy.connect(**{**self._options, "init_command": None})
            try:
                await connection.query(f"KILL {int(thread)}")
            finally:
                connection.close()

    async def close(self, raw: Any) -> None:
        await raw.ensure_closed()

    def translate(self, error: BaseException) -> DatabaseError | None:
        if not isinstance(error, errors.MySQLError):
            return Unavailable(str(error)) if isinstance(error, OSError) else None
        number = error.args[0] if error.args and isinstance(error.args[0], int) else -1
        text = str(error.args[1]) if len(error.args) > 1 else str(error)
        code = str(number)
        if number in _GONE | _FULL or _NO_ROOM in text or isinstance(error, errors.InterfaceError):
            return Unavailable(text, code)
        if number in _CONFLICTS:
            return Conflict(text, code)
        if number in _UNIQUE:
            key = text.rpartition(" for key ")[2]
            return UniqueViolation(f"there is such a row already, by key {key}", code)
        if number in _CONSTRAINTS:
            return ConstraintViolation(text.partition(" (")[0] if number == 1452 else text, code)
        if number in _QUOTING:
            column = text.partition(" for column ")[2] or "a column"
            return StatementError(f"a value does not fit {column}", code)
        return StatementError(text, code)


def watch_peer(connection: Any) -> None:
    """Have the kernel give up a peer that has not been heard of for half a minute."""
    if connection is None or connection.family == socket.AF_UNIX:
        return
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _positional(sql: str) -> str:
    """Our `?` as the driver's `%s`, where it escapes the values itself (streams)."""
    parts, at = [], 0
    for match in PATTERNS["mysql"].finditer(sql):
        if match["skip"] is not None:
            parts += [sql[at : match.start()].replace("?", "%s"), match[0]]
            at = match.end()
    return "".join([*parts, sql[at:].replace("?", "%s")])
