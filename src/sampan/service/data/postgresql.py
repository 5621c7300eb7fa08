"""PostgreSQL through psycopg, values in the binary format; statements are prepared by the driver once they recur."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.pq import TransactionStatus

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

_STREAMED: Final = 200
_IDLE: Final = TransactionStatus.IDLE
_CONFLICTS: Final = frozenset({"40001", "40P01", "55P03"})
# whose message quotes a value: class 22 (data exceptions)
_GONE_CLASSES: Final = frozenset({"08", "57", "53"})


class PostgreSQL:
    engine = system = "postgresql"

    def __init__(self, url: Url, read_only: bool) -> None:
        self.database = url.database or ""
        self.host, self.port = url.host or "localhost", url.port or 5432
        self._options: dict[str, Any] = {
            # a peer that has not been heard of for half a minute is given up
            **{"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000},
            **{key: value for key, value in url.query.items() if isinstance(value, str)},
            **{"host": self.host, "port": self.port, "user": url.username, "password": url.password},
            **{"dbname": self.database, "autocommit": True, "connect_timeout": 5},
        }
        options = ["-c timezone=UTC", *(["-c default_transaction_read_only=on"] if read_only else [])]
        self._options["options"] = " ".join([self._options.get("options", ""), *options]).strip()

    async def connect(self) -> Any:
        return await AsyncConnection.connect(**self._options)

    async def fetch(self, slot: Slot, sql: str, arguments: tuple[Any, ...]) -> Result:
        cursor = AsyncRawCursor(slot.raw)
        await cursor.execute(sql, arguments, binary=True)
        result = cursor.pgresult
        count = 0 if result is None else result.nfields
        if result is None or not count:
            return (), (), cursor.rowcount, 0
        columns = tuple([(result.fname(index) or b"").decode() for index in range(count)])
        rows = await cursor.fetchall()
        return columns, rows, len(rows), 0

    async def many(self, slot: Slot, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
        cursor = AsyncRawCursor(slot.raw)
        await cursor.executemany(sql, rows)
        return cursor.rowcount

    async def stream(
        self, slot: Slot, sql: str, arguments: tuple[Any, ...]
    ) -> AsyncIterator[tuple[tuple[str, ...], Sequence[tuple[Any, ...]]]]:
        cursor = AsyncRawCursor(slot.raw)
        columns: tuple[str, ...] = ()
        batch: list[tuple[Any, ...]] = []
        rows = cursor.stream(sql, arguments, binary=True)
        try:
            async for row in rows:
                if not columns:
                    columns = tuple([column.name for column in cursor.description or ()])
                batch.append(row)
                if len(batch) == _STREAMED:
                    yield columns, batch
                    batch = []
            if batch:
                yield columns, batch
        finally:
            await rows.aclose()  # type: ignore[attr-defined]  # a generator, which has the server stop

    async def begin(self, slot: Slot, isolation: str, read_only: bool) -> None:
        words = "BEGIN" + f" ISOLATION LEVEL {isolation}" * bool(isolation) + " READ ONLY" * read_only
        await slot.raw.execute(words)

    async def commit(self, slot: Slot) -> None:
        failed = slot.raw.info.transaction_status == TransactionStatus.INERROR
        await slot.raw.commit()
        if failed:  # the server answers a COMMIT of a failed transaction with a rollback, and no error
            raise StatementError("the transaction was rolled back: one of its statements failed and was passed over")

    async def rollback(self, slot: Slot) -> None:
        await slot.raw.rollback()

    def alive(self, slot: Slot) -> bool:
        raw = slot.raw
        if raw.closed:
            return False
        if raw.pgconn.transaction_status == TransactionStatus.ACTIVE:
            return True
        # libpq does not watch an idle connection: whatever there is to read on it is its end
        look = select.poll()
        look.register(raw.fileno(), select.POLLIN)
        return not look.poll(0)

    def clean(self, slot: Slot) -> bool:
        return not slot.raw.closed and slot.raw.pgconn.transaction_status == _IDLE

    async def repair(self, slot: Slot) -> bool:
        if slot.raw.closed:
            return False
        if slot.raw.pgconn.transaction_status == TransactionStatus.ACTIVE:
            await slot.raw.cancel_safe(timeout=3)
            return False
        await slot.raw.rollback()
        return True

    async def close(self, raw: Any) -> None:
        await raw.close()

    def translate(self, error: BaseException) -> DatabaseError | None:
        if not isinstance(error, psycopg.Error):
            return Unavailable(str(error)) if isinstance(error, OSError) else None
        code = error.sqlstate or ""
        text = error.diag.message_primary or str(error).partition("\n")[0]
        if code in _CONFLICTS:
            return Conflict(text, code)
        if code == "57014":  # somebody had the server cancel it
            return StatementError(text, code)
        if code[:2] in _GONE_CLASSES or (not code and isinstance(error, psycopg.OperationalError)):
            return Unavailable(text, code)
        if code == "23505":
            return UniqueViolation(f"there is such a row already, by key {error.diag.constraint_name!r}", code)
        if code[:2] == "23":
            return ConstraintViolation(text, code)
        if code[:2] == "22":
            return StatementError(f"a value does not fit: {text.partition(':')[0]}", code)
        return StatementError(text, code)
