"""SQLAlchemy engines for a bound database, with the settings each kind needs to be right and quick."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from sampan.service.bindings import Binding, BindingError, require_type
from sampan.service.data import tables

# type of the binding -> the driver SQLAlchemy is to use
DRIVERS: Final = {
    "mysql": "mysql+asyncmy",
    "mariadb": "mysql+asyncmy",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite+aiosqlite",
}
_SQLITE_BUSY_MS: Final = 10_000


def engine_url(binding: Binding) -> URL:
    require_type(binding, DRIVERS)
    try:
        url = make_url(binding.uri).set(drivername=DRIVERS[binding.type])
    except (ArgumentError, ValueError):
        # without the cause, which may quote the uri and with it the password
        raise BindingError(f"the uri of binding {binding.name} is not a database URL") from None
    if binding.type == "sqlite":
        if not url.database or url.database == ":memory:":
            raise BindingError(f"binding {binding.name}: an SQLite database that processes share must be a file")
    elif not url.database:
        raise BindingError(f"binding {binding.name} names no database in its uri")
    if url.drivername.startswith("mysql") and "charset" not in url.query:
        url = url.update_query_dict({"charset": "utf8mb4"})
    values = binding.values
    if "username" in values and not url.username:
        url = url.set(username=values["username"])
    if "password" in values and not url.password:
        url = url.set(password=values["password"])
    return url


def create_engine(binding: Binding, read_only: bool = False) -> AsyncEngine:
    """An engine; it connects on first use. Pool size: SAMPAN_POOL_SIZE (10)."""
    url = engine_url(binding)
    size = int(os.environ.get("SAMPAN_POOL_SIZE", "10"))
    options: dict[str, Any] = {"pool_size": size, "max_overflow": size, "pool_timeout": 10, "hide_parameters": True}
    if binding.type == "sqlite":
        engine = create_async_engine(url, connect_args={"timeout": _SQLITE_BUSY_MS / 1000}, **options)
        _prepare_sqlite(engine, read_only)
        return engine
    options |= {"pool_pre_ping": True, "pool_recycle": 1800}
    if binding.type in ("mysql", "mariadb"):
        # READ COMMITTED: no gap locks, so that replicas claiming outbox rows do not wait for each other's inserts
        options |= {"isolation_level": "READ COMMITTED", "connect_args": {"connect_timeout": 5}}
        if read_only:
            options["connect_args"]["init_command"] = "SET SESSION TRANSACTION READ ONLY"
    return create_async_engine(url, **options)


def _prepare_sqlite(engine: AsyncEngine, read_only: bool) -> None:
    """WAL, a busy timeout, and a transaction that begins, IMMEDIATE, at its first writing or locking statement.

    The driver's own deferred BEGIN is turned off: upgrading a read to a write while another process writes gives
    SQLITE_BUSY at once, whatever the timeout. Reads before the first write see what is committed, as they
    do on the other engines under READ COMMITTED, and hold no lock; `with_for_update()` locks the database.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def begin(connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        raw = connection.connection.dbapi_connection
        if raw.driver_connection.in_transaction or not connection.in_transaction():
            return
        if statement[:6].upper() == "SELECT":
            compiled = getattr(context, "compiled", None)
            if compiled is None or getattr(compiled.statement, "_for_update_arg", None) is None:
                return
        elif statement[:6].upper() == "PRAGMA":
            return
        cursor = raw.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        cursor.close()


class OutboxSession(Session):
    """A session that wakes the relay when a commit has put something into the outbox."""


@event.listens_for(OutboxSession, "after_commit")
def _committed(session: Session) -> None:
    wake = session.info.pop("sampan_wake", None)
    if wake is not None:
        wake()


class SqlDatabase:
    """Implements `model.bound.BoundDatabase`."""

    def __init__(self, name: str, binding: Binding, *, read_only: bool = False) -> None:
        self.name, self.read_only = name, read_only
        self.engine = create_engine(binding, read_only)
        self.dialect = self.engine.dialect.name
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=OutboxSession)
        self._tables: asyncio.Lock | None = None
        self._have_tables = False
        self.wake_relay: Callable[[], None] | None = None  # set by the relay of this database

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        async with self._sessions() as session:
            session.info["database"] = self
            yield session

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        async with self.session() as session, session.begin():
            yield session

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that commits on leaving; for our own short statements."""
        async with self.engine.begin() as connection:
            yield connection

    async def ensure_tables(self) -> None:
        """Create outbox and inbox where the migration did not run (tests, a new sqlite file)."""
        if self._have_tables:
            return
        self._tables = self._tables or asyncio.Lock()
        async with self._tables:
            if not self._have_tables:
                async with self.engine.begin() as connection:
                    await connection.run_sync(tables.create)
                self._have_tables = True

    async def check(self) -> None:
        """Raises when the database does not answer."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()
