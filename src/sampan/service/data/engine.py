"""SQLAlchemy on the same connections: an engine whose pool is ours, and whose statements are observed alike."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.pool import Pool as SqlalchemyPool
from sqlalchemy.pool.base import _AsyncConnDialect, _ConnectionRecord
from sqlalchemy.util import await_only

from sampan.model.data import Unavailable
from sampan.service.data.observe import Observer, Watch
from sampan.service.data.pool import ConnectionPool, Driver, Slot, broke
from sampan.service.data.statement import Statement, Statements
from sampan.service.data.url import Url


class SharedPool(SqlalchemyPool):
    """Hands out the connections of a `ConnectionPool`. SQLAlchemy's record of one is kept with its slot."""

    _is_asyncio = True
    _dialect = _AsyncConnDialect()

    def __init__(self, creator: Any, ours: ConnectionPool | None = None, **options: Any) -> None:
        super().__init__(creator, **options)
        self.ours = ours
        self.slots: dict[Any, Slot] = {}  # by the record in use

    def _do_get(self) -> ConnectionPoolEntry:
        pool = self._pool()
        slot = pool.take_now() or await_only(pool.take())
        if slot.record is None or slot.record.dbapi_connection is None:
            _HANDED.append(slot.raw)
            try:
                slot.record = _ConnectionRecord(self, connect=True)
            except BaseException:
                slot.dirty = True
                pool.give(slot)
                raise
        self.slots[slot.record] = slot
        record: ConnectionPoolEntry = slot.record
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        slot = self.slots.pop(record)
        if record.dbapi_connection is None:  # SQLAlchemy has closed it
            self._pool().discard(slot)
        else:
            self._pool().give(slot)

    def _pool(self) -> ConnectionPool:
        assert self.ours is not None
        return self.ours

    def recreate(self) -> SharedPool:
        return self

    def dispose(self) -> None:
        """The connections are the pool's, which closes them."""

    def status(self) -> str:
        pool = self._pool()
        return f"{pool.total - len(pool.idle)} of {pool.size} in use"


_HANDED: list[Any] = []  # the connection that the next call of the creator is to give; nothing happens in between


async def _hand_over(*_arguments: Any, **_options: Any) -> Any:
    return _HANDED.pop()


class OutboxSession(Session):
    """A session that wakes the relay when a commit has put something into the outbox."""


@event.listens_for(OutboxSession, "after_commit")
def _committed(session: Session) -> None:
    database = session.info.get("database")
    if database is not None:
        database.core.observer.wrote()
    wake = session.info.pop("sampan_wake", None)
    if wake is not None:
        wake()


def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, expire_on_commit=False, sync_session_class=OutboxSession)


def shared_engine(url: Url, driver: Driver, pool: ConnectionPool, observer: Observer) -> AsyncEngine:
    options: dict[str, Any] = {"hide_parameters": True, "pool_reset_on_return": None}
    if driver.engine == "postgresql":
        options["use_native_hstore"] = False
    parts = {field.name: getattr(url, field.name) for field in dataclasses.fields(url)}
    engine = create_async_engine(URL.create(**parts), poolclass=SharedPool, async_creator=_hand_over, **options)
    shared = engine.sync_engine.pool
    assert isinstance(shared, SharedPool)
    shared.ours = pool
    if driver.engine == "sqlite":
        _begin_late(engine, driver)
    else:
        _begin(engine, driver)
    _observe(engine, driver, observer, pool.name)
    return engine


def _say(connection: Any, driver: Driver, statement: str) -> None:
    """Execute on a driver's connection. That a server has gone is said as plain SQL says it: SQLAlchemy does not look
    at errors here."""
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
    except Exception as error:
        ours = Unavailable("the connection broke") if broke(error) else driver.translate(error)
        if isinstance(ours, Unavailable):
            raise ours from None
        raise


def _begin(engine: AsyncEngine, driver: Driver) -> None:
    """The connections commit every statement by itself; a transaction of SQLAlchemy's says BEGIN."""

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            return
        _say(connection.connection.dbapi_connection, driver, "BEGIN")


def _begin_late(engine: AsyncEngine, driver: Driver) -> None:
    """A transaction of SQLite begins, IMMEDIATE, at its first writing or locking statement.

    Upgrading a read to a write while another process writes gives SQLITE_BUSY at once, whatever the timeout. Reads
    before the first write see what is committed, as they do on the other engines under READ COMMITTED, and hold no
    lock; `with_for_update()` locks the database.
    """

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
        _say(raw, driver, "BEGIN IMMEDIATE")


def _observe(engine: AsyncEngine, driver: Driver, observer: Observer, name: str) -> None:
    known = Statements(driver.engine)

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def before(_connection: Any, _cursor: Any, text: str, _parameters: Any, context: Any, _many: bool) -> None:
        statement: Statement = known[text]
        context._sampan_watch = watch = observer.watch(statement)
        watch.__enter__()

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def after(_connection: Any, _cursor: Any, _text: str, _parameters: Any, context: Any, _many: bool) -> None:
        watch: Watch | None = context.__dict__.pop("_sampan_watch", None)
        if watch is not None:
            watch.__exit__(None, None, None)

    @event.listens_for(engine.sync_engine, "handle_error", retval=True)
    def failed(context: Any) -> BaseException | None:
        execution = context.execution_context
        watch: Watch | None = None if execution is None else execution.__dict__.pop("_sampan_watch", None)
        if watch is not None:
            error = context.original_exception
            watch.__exit__(type(error), error, None)
        if broke(context.original_exception):
            return Unavailable(f"the connection to database {name!r} broke")
        ours = driver.translate(context.original_exception)
        if isinstance(ours, Unavailable) and context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.http_status = Unavailable.http_status  # as plain SQL's own error has it
        return None
