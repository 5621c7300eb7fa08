"""Relational databases."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model.bound import BoundDatabase


class Database(Handle):
    """A relational database. `engine` is mysql, postgresql or sqlite; `migrations` an Alembic directory."""

    kind = "database"
    access = ("read", "read_write")

    def __init__(self, name: str, *, engine: str = "mysql", migrations: str | None = None) -> None:
        super().__init__(name)
        self.engine = engine
        self.migrations = migrations

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

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
