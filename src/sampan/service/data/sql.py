"""Plain SQL on a pool: single statements, each committed by itself, and transactions.

Guarantees: parameters are always bound. A cancelled statement never leaves its connection to anybody else as it is.
A single reading statement whose connection turns out to be broken is run once more on another; nothing that may have
changed something is ever repeated. When the caller's deadline passes the server is told to stop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sampan.model.data import (
    Conflict,
    DatabaseError,
    DeadlineExceeded,
    ManyRows,
    NoRow,
    ParameterError,
    RowError,
    Unavailable,
)
from sampan.service.data.observe import Observer
from sampan.service.data.pool import ConnectionPool, Driver, Result, Slot, broke
from sampan.service.data.rows import Decoder, Encoders, decoder
from sampan.service.data.statement import Statement, Statements
from sampan.service.telemetry.context import CURRENT

if TYPE_CHECKING:
    from sampan.service.data.sqlite import SQLite

T = TypeVar("T")

ISOLATIONS: Final = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
_PAUSE_SECONDS: Final = 0.01
DEADLOCK: Final = "1213"  # of MySQL and MariaDB, which undo the whole transaction and say no more of it


class Done:
    """Implements `model.bound.Done`."""

    __slots__ = ("last_id", "rowcount")

    def __init__(self, rowcount: int, last_id: int | None) -> None:
        self.rowcount, self.last_id = rowcount, last_id

    def __repr__(self) -> str:
        return f"Done(rowcount={self.rowcount}, last_id={self.last_id})"


class Core:
    """One server: its driver and pool, the statements translated for it, and what watches them."""

    def __init__(self, driver: Driver, pool: ConnectionPool, observer: Observer) -> None:
        self.driver, self.pool, self.observer = driver, pool, observer
        self.statements = Statements(driver.engine)
        self.encoders = Encoders(driver.engine)
        # only SQLite can answer without waiting for anything
        self.quick: SQLite | None = driver if driver.engine == "sqlite" else None  # type: ignore[assignment]

    async def run(self, statement: Statement, arguments: tuple[Any, ...]) -> Result:
        """One statement by itself."""
        if self.quick is not None and statement.reads:
            with self.observer.watch(statement):
                return self.quick.read_now(statement.sql, arguments) or await self._run(statement, arguments)
        slot = self.pool.take_now() or await self.pool.take()
        try:
            return await self.perform(slot, statement, arguments)
        except Unavailable:
            if not statement.reads:
                raise
        finally:
            self.pool.give(slot)
        self.pool.doubt()
        with self.observer.watch(statement):
            return await self._run(statement, arguments)

    async def perform(self, slot: Slot, statement: Statement, arguments: tuple[Any, ...]) -> Result:
        """A statement on a connection in hand, within the caller's deadline."""
        with self.observer.watch(statement):
            return await self._fetch(slot, statement, arguments)

    async def _run(self, statement: Statement, arguments: tuple[Any, ...]) -> Result:
        slot = await self.pool.take()
        try:
            return await self._fetch(slot, statement, arguments)
        finally:
            self.pool.give(slot)

    async def _fetch(self, slot: Slot, statement: Statement, arguments: tuple[Any, ...]) -> Result:
        context = CURRENT.get()
        try:
            if context is None or context.deadline is None:
                return await self.driver.fetch(slot, statement.sql, arguments)
            # by itself, so that a driver which takes its time to let go delays nobody
            work = asyncio.ensure_future(self.driver.fetch(slot, statement.sql, arguments))
            slot.work = work
            done, _ = await asyncio.wait({work}, timeout=context.remaining())
            if not done:
                slot.dirty = True
                raise DeadlineExceeded(f"the deadline passed during {statement.verb} on database {self.pool.name!r}")
            slot.work = None
            return work.result()
        except BaseException as error:
            if not isinstance(error, Exception):  # cancelled: what the connection is at is unknown
                slot.dirty = True
                raise
            self.fail(error)
            raise

    def fail(self, error: BaseException) -> None:
        """Raise our error for a driver's; return for what is not a driver's."""
        if isinstance(error, DatabaseError):
            return
        if broke(error):
            raise Unavailable(f"the connection to database {self.pool.name!r} broke") from None
        ours = self.driver.translate(error)
        if ours is not None:
            raise ours from None
        if isinstance(error, OverflowError | TypeError | ValueError):
            raise ParameterError(f"a parameter was refused by the driver: {type(error).__name__}") from None


class Queries:
    """The methods of plain SQL, over `_run`."""

    core: Core

    async def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> Result:
        raise AssertionError("given by the classes below")

    async def one(self, type: type[T], sql: str, /, **parameters: Any) -> T:
        statement = self.core.statements[sql]
        columns, rows, _, _ = await self._run(statement, parameters)
        if len(rows) != 1:
            raise _not_one(statement, rows)
        found: T = decoder_of(statement, type, columns).one(rows[0])
        return found

    value = one

    async def first(self, type: type[T], sql: str, /, **parameters: Any) -> T | None:
        statement = self.core.statements[sql]
        columns, rows, _, _ = await self._run(statement, parameters)
        if not rows:
            return None
        found: T = decoder_of(statement, type, columns).one(rows[0])
        return found

    async def all(self, type: type[T], sql: str, /, **parameters: Any) -> list[T]:
        statement = self.core.statements[sql]
        columns, rows, _, _ = await self._run(statement, parameters)
        if not rows:
            return []
        found: list[T] = decoder_of(statement, type, columns).many(rows)
        return found

    async def execute(self, sql: str, /, **parameters: Any) -> Done:
        _, _, changed, last = await self._run(self.core.statements[sql], parameters)
        return Done(changed, last or None)


def decoder_of(statement: Statement, type_: Any, columns: Sequence[str]) -> Decoder:
    """The decoder for rows of these columns; they may change under a `SELECT *`."""
    known = statement.decoders.get(type_)
    if known is not None and (known.columns is columns or known.columns == columns):
        return known
    if not columns:
        raise RowError(f"{statement.verb} gives no rows; use execute()")
    made = statement.decoders[type_] = decoder(type_, columns, "")
    return made


def _not_one(statement: Statement, rows: Sequence[Any]) -> DatabaseError:
    words = " ".join(statement.text.split())
    words = words if len(words) < 120 else words[:117] + "..."
    return ManyRows(f"{len(rows)} rows, not one: {words}") if rows else NoRow(f"no row: {words}")


class Reads(Queries):
    """Single reading statements on one server: the primary, or a replica."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> Result:
        return await self.core.run(statement, statement.arguments(parameters, self.core.encoders))

    async def stream(self, type: type[T], sql: str, /, **parameters: Any) -> AsyncGenerator[T]:
        core = self.core
        slot = await core.pool.take()
        try:
            async with aclosing(_streamed(core, slot, type, sql, parameters)) as rows:
                async for row in rows:
                    yield row
        finally:
            core.pool.give(slot)


class Autocommit(Reads):
    """Single statements on the primary, each committed when it returns."""

    async def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]], /) -> Done:
        async with Transaction(self.core) as transaction:
            return await transaction.execute_many(sql, rows)

    def begin(self, isolation: str = "", *, read_only: bool = False) -> Transaction:
        return Transaction(self.core, isolation, read_only)

    async def retrying(
        self, function: Callable[[Transaction], Awaitable[T]], attempts: int = 5, isolation: str = ""
    ) -> T:
        for attempt in range(1, attempts + 1):
            try:
                async with self.begin(isolation) as transaction:
                    return await function(transaction)
            except Conflict:
                context = CURRENT.get()
                pause = _PAUSE_SECONDS * 2**attempt * random.random()
                remaining = None if context is None else context.remaining()
                if attempt == attempts or (remaining is not None and remaining < pause):
                    raise
                self.core.observer.retried()
                await asyncio.sleep(pause)
        raise ValueError("attempts must be 1 or more")


async def _streamed(
    core: Core, slot: Slot, type_: type[T], sql: str, parameters: Mapping[str, Any]
) -> AsyncGenerator[T]:
    statement = core.statements[sql]
    arguments = statement.arguments(parameters, core.encoders)
    batches = core.driver.stream(slot, statement.sql, arguments)
    finished = False
    try:
        with core.observer.watch(statement):
            async for columns, rows in batches:
                for row in decoder_of(statement, type_, columns).many(rows):
                    yield row
        finished = True
    except Exception as error:
        core.fail(error)
        raise
    finally:
        if not finished:
            slot.dirty = slot.dirty or core.driver.engine != "postgresql"
        close = getattr(batches, "aclose", None)
        if close is not None:
            await close()


class Transaction(Queries):
    """Implements `model.bound.Transaction`; also the context manager that gives it."""

    def __init__(self, core: Core, isolation: str = "", read_only: bool = False) -> None:
        self.core, self.read_only = core, read_only
        self.isolation = isolation.replace("_", " ").upper()
        if self.isolation and self.isolation not in ISOLATIONS:
            raise ParameterError(f"isolation {isolation!r} is none of {', '.join(map(repr, ISOLATIONS))}")
        self.info: dict[str, Any] = {}
        self._slot: Slot | None = None
        self._busy = False
        self._depth = 0
        self._over: Conflict | None = None  # a deadlock, after which the server knows of no transaction any more

    async def __aenter__(self) -> Transaction:
        if self._slot is not None or self._depth:
            raise DatabaseError("a transaction is entered once; use begin() on it for a savepoint")
        pool, driver = self.core.pool, self.core.driver
        for last in (False, True):  # nothing has been done yet: a connection that turns out broken is replaced
            slot = pool.take_now() or await pool.take()
            try:
                await driver.begin(slot, self.isolation, self.read_only)
                break
            except BaseException as error:
                slot.dirty = True
                pool.give(slot)
                try:
                    self.core.fail(error)
                except Unavailable:
                    if last:
                        raise
                    pool.doubt()
                    continue
                raise
        self._slot = slot
        self.info["database"] = self.core.observer.database
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        slot, self._slot = self._slot, None
        self._depth = -1
        if slot is None:
            return
        driver = self.core.driver
        try:
            if error is not None:
                if not slot.dirty and driver.alive(slot):
                    await driver.rollback(slot)
                return
            if self._over is not None:
                raise self._over
            await driver.commit(slot)
        except BaseException as failure:
            slot.dirty = True
            if error is not None and isinstance(failure, Exception):
                return  # the connection goes, and the transaction with it; the first error matters
            self.core.fail(failure)
            raise
        finally:
            self.core.pool.give(slot)
        self.core.observer.wrote()
        wake = self.info.pop("sampan_wake", None)
        if wake is not None:
            wake()

    def _enter(self) -> Slot:
        if self._slot is None:
            raise DatabaseError("this transaction has ended, or has not begun")
        if self._over is not None:
            raise self._over
        if self._busy:
            raise DatabaseError("a transaction does one statement at a time; it is at work on another")
        return self._slot

    async def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> Result:
        arguments = statement.arguments(parameters, self.core.encoders)
        slot = self._enter()
        self._busy = True
        try:
            if self.core.quick is not None and not statement.reads and not self.read_only:
                await self._lock(slot)
            return await self.core.perform(slot, statement, arguments)
        except Conflict as error:
            if error.code == DEADLOCK:
                self._over = error
            raise
        finally:
            self._busy = False

    async def _lock(self, slot: Slot) -> None:
        assert self.core.quick is not None
        try:
            await self.core.quick.lock(slot)
        except Exception as error:
            self.core.fail(error)
            raise

    async def stream(self, type: type[T], sql: str, /, **parameters: Any) -> AsyncGenerator[T]:
        slot = self._enter()
        self._busy = True
        try:
            async with aclosing(_streamed(self.core, slot, type, sql, parameters)) as rows:
                async for row in rows:
                    yield row
        finally:
            self._busy = False

    async def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]], /) -> Done:
        core = self.core
        statement = core.statements[sql]
        every = [statement.arguments(row, core.encoders) for row in rows]
        slot = self._enter()
        if not every:
            return Done(0, None)
        self._busy = True
        try:
            if core.quick is not None:
                await self._lock(slot)
            with core.observer.watch(statement):
                return Done(await core.driver.many(slot, statement.sql, every), None)
        except BaseException as error:
            slot.dirty = slot.dirty or not isinstance(error, Exception)
            core.fail(error)
            raise
        finally:
            self._busy = False

    def begin(self) -> Savepoint:
        return Savepoint(self)


class Savepoint:
    def __init__(self, transaction: Transaction) -> None:
        self.transaction, self.name = transaction, ""

    async def __aenter__(self) -> Transaction:
        transaction = self.transaction
        transaction._depth += 1
        self.name = f"sampan_{transaction._depth}"
        await self._do("SAVEPOINT")
        return transaction

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        transaction = self.transaction
        transaction._depth -= 1
        slot = transaction._slot
        if error is None:
            await self._do("RELEASE SAVEPOINT")
        elif slot is not None and not slot.dirty and self.transaction.core.driver.alive(slot):
            try:
                await self._do("ROLLBACK TO SAVEPOINT")
            except DatabaseError:
                if not isinstance(error, DatabaseError):
                    raise  # a deadlock has undone everything, savepoints too: the first error says so

    async def _do(self, verb: str) -> None:
        await self.transaction.execute(f"{verb} {self.name}")
