"""A bound database: plain SQL and SQLAlchemy sessions on one pool, and replicas to read from."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sampan.service.bindings import Binding, BindingError, require_type
from sampan.service.data import tables
from sampan.service.data.observe import Observer
from sampan.service.data.pool import ConnectionPool, Driver
from sampan.service.data.sql import Autocommit, Core, Reads
from sampan.service.data.url import Url
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

    from sampan.model.data import Pool
    from sampan.service.data.replicas import Replicas
    from sampan.service.migrate import Expected

# type of the binding -> the driver SQLAlchemy is to use
DRIVERS: Final = {
    "mysql": "mysql+asyncmy",
    "mariadb": "mysql+asyncmy",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite+aiosqlite",
}


def engine_url(binding: Binding, uri: str = "") -> Url:
    """The URL of a binding, or of another `uri` of the same one (a replica's)."""
    require_type(binding, DRIVERS)
    try:
        url = Url.parse(uri or binding.uri)
        url = url.changed(drivername=DRIVERS[url.drivername.partition("+")[0] if uri else binding.type])
    except (ValueError, KeyError):
        # without the cause, which may quote the uri and with it the password
        raise BindingError(f"the uri of binding {binding.name} is not a database URL") from None
    if url.drivername.startswith("sqlite"):
        if not url.database or url.database == ":memory:":
            raise BindingError(f"binding {binding.name}: an SQLite database that processes share must be a file")
    elif not url.database:
        raise BindingError(f"binding {binding.name} names no database in its uri")
    if url.drivername.startswith("mysql") and "charset" not in url.query:
        url = url.changed(query={**url.query, "charset": "utf8mb4"})
    values = binding.values
    if "username" in values and not url.username:
        url = url.changed(username=values["username"])
    if "password" in values and not url.password:
        url = url.changed(password=values["password"])
    return url


def driver_for(url: Url, system: str, read_only: bool) -> Driver:
    """The driver is imported only where it is used."""
    if url.drivername.startswith("mysql"):
        from sampan.service.data.mysql import MySQL

        return MySQL(url, "mariadb" if system == "mariadb" else "mysql", read_only)
    if url.drivername.startswith("postgresql"):
        from sampan.service.data.postgresql import PostgreSQL

        return PostgreSQL(url, read_only)
    from sampan.service.data.sqlite import SQLite

    return SQLite(url, read_only)


def core_for(
    name: str, url: Url, system: str, registry: Registry, pool: Pool | None = None, *, read_only: bool = False
) -> Core:
    """A server's driver and pool. Nothing connects before its first use."""
    driver = driver_for(url, system, read_only)
    return Core(driver, ConnectionPool(driver, pool, name, registry), Observer(name, driver, registry))


class SqlDatabase(Autocommit):
    """Implements `model.bound.BoundDatabase`."""

    def __init__(
        self,
        name: str,
        binding: Binding,
        *,
        read_only: bool = False,
        pool: Pool | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.name, self.read_only, self.binding = name, read_only, binding
        registry = registry or Registry()
        self.url = engine_url(binding)
        super().__init__(core_for(name, self.url, binding.type, registry, pool, read_only=read_only))
        self.core.observer.database = self
        self.dialect = self.core.driver.engine
        if "sqlalchemy" in sys.modules:  # who has imported it will use it: not at the cost of the first request
            _ = self._sessions
        self._tables: asyncio.Lock | None = None
        self._have_tables = False
        self.wake_relay: Callable[[], None] | None = None  # set by the relay of this database
        self.expected: Expected | None = None  # the revision the code expects; set where there are migrations
        self._replicas: Replicas | None = None
        uris = [value for key, value in sorted(binding.values.items()) if key.startswith("replica-uri")]
        if uris:
            from sampan.service.data.replicas import Replicas

            cores = [
                core_for(
                    f"{name}-replica-{number}", engine_url(binding, uri), binding.type, registry, pool, read_only=True
                )
                for number, uri in enumerate(uris, 1)
            ]
            self._replicas = Replicas(self.core, cores, registry)

    @functools.cached_property
    def engine(self) -> AsyncEngine:
        from sampan.service.data.engine import shared_engine

        return shared_engine(self.url, self.core.driver, self.core.pool, self.core.observer)

    @functools.cached_property
    def _sessions(self) -> async_sessionmaker[AsyncSession]:
        from sampan.service.data.engine import sessions

        return sessions(self.engine)

    @property
    def replica(self) -> Reads:
        return self if self._replicas is None else self._replicas

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
                await tables.ensure(self, self.dialect)
                self._have_tables = True

    async def check(self) -> None:
        """Raises when the database does not answer, or is not at the revision the code expects."""
        if self.core.quick is not None and not Path(self.core.quick.path).parent.is_dir():
            raise ConnectionError(f"there is no directory {Path(self.core.quick.path).parent}")
        await self.one(int, "SELECT 1")
        if self.expected is not None:
            await self.expected.check(self)

    async def close(self) -> None:
        await self.core.pool.close()
        if self._replicas is not None:
            await self._replicas.close()
        if self.core.quick is not None:
            self.core.quick.forget()
        if "engine" in self.__dict__:
            await self.engine.dispose()
