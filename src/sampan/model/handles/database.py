"""Relational databases."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model.bound import BoundDatabase, Done, Reading, Transaction
    from sampan.model.data import Backup, Pool

T = TypeVar("T")


class Database(Handle):
    """A relational database. `engine` is mysql, postgresql or sqlite; `migrations` an Alembic directory.

    Statements of the plain-SQL methods bear parameters as `:name`, in every engine; they are always bound. `type` is
    what a row becomes: a msgspec Struct, a dataclass, a dict, a tuple, or a scalar for a single column.
    """

    kind = "database"
    access = ("read", "read_write")

    def __init__(
        self,
        name: str,
        *,
        engine: str = "mysql",
        migrations: str | None = None,
        pool: Pool | None = None,
        backup: Backup | None = None,
    ) -> None:
        super().__init__(name)
        self.engine = engine
        self.migrations = migrations
        self.pool = pool
        self.backup = backup

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    # Plain functions that hand on the awaitable: a coroutine around a coroutine would cost on the way of every row.

    def one(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[T]:
        """The only row. Raises NoRow or ManyRows."""
        bound: BoundDatabase = self._need()
        return bound.one(type, sql, **parameters)

    def first(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[T | None]:
        """The first row, or None."""
        bound: BoundDatabase = self._need()
        return bound.first(type, sql, **parameters)

    def all(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[list[T]]:
        bound: BoundDatabase = self._need()
        return bound.all(type, sql, **parameters)

    def value(self, type: type[T], sql: str, /, **parameters: Any) -> Awaitable[T]:
        """The only column of the only row. Raises NoRow, ManyRows or RowError."""
        bound: BoundDatabase = self._need()
        return bound.value(type, sql, **parameters)

    def stream(self, type: type[T], sql: str, /, **parameters: Any) -> AsyncGenerator[T]:
        """Row by row, without holding them all. Close it (`contextlib.aclosing`) when leaving early."""
        bound: BoundDatabase = self._need()
        return bound.stream(type, sql, **parameters)

    def execute(self, sql: str, /, **parameters: Any) -> Awaitable[Done]:
        """A statement by itself, committed when this returns: how many rows it changed, and the last id it made."""
        bound: BoundDatabase = self._need()
        return bound.execute(sql, **parameters)

    def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]], /) -> Awaitable[Done]:
        """The statement once for each mapping of parameters, in one transaction."""
        bound: BoundDatabase = self._need()
        return bound.execute_many(sql, rows)

    def begin(self, isolation: str = "", *, read_only: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """A plain-SQL transaction: commits on leaving, rolls back on an exception."""
        bound: BoundDatabase = self._need()
        return bound.begin(isolation, read_only=read_only)

    def retrying(
        self, function: Callable[[Transaction], Awaitable[T]], attempts: int = 5, isolation: str = ""
    ) -> Awaitable[T]:
        """`function` in a transaction, again in a new one when it meets a deadlock or serialization failure."""
        bound: BoundDatabase = self._need()
        return bound.retrying(function, attempts, isolation)

    @property
    def replica(self) -> Reading:
        """The reading methods on a read replica; on the primary where there is none, or it lags."""
        bound: BoundDatabase = self._need()
        return bound.replica

    async def session(self) -> AsyncIterator[AsyncSession]:
        """For `Depends(db.session)`: a session for one request; its user commits."""
        bound: BoundDatabase = self._need()
        async with bound.session() as session:
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that is committed on leaving and rolled back on an exception."""
        bound: BoundDatabase = self._need()
        async with bound.transaction() as session:
            yield session
