"""`sampan migrate DATABASE`: bring a database to the newest revision, once, however many do it at the same time.

`migrations=` is an Alembic script directory of which only `versions/*.py` is needed; we give the environment.
An `alembic.ini` or `env.py` beside them still serves Alembic's own command line, and is not read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from sampan.model import Database, DatabaseError, StatementError
from sampan.service import bindings
from sampan.service.bindings import Binding, BindingError
from sampan.service.data import tables
from sampan.service.data.database import SqlDatabase
from sampan.service.main import run
from sampan.service.process import StartError, cannot_start, identity, load_application, named
from sampan.service.telemetry import logs

log = logging.getLogger("sampan.migrate")

_WAIT_SECONDS: Final = 120.0  # for the database to come up
_LOCK_SECONDS: Final = 300
_LOCK_NAME: Final = "sampan_migrate"
_POSTGRES_KEY: Final = 0x53414D50  # any number that is always the same


def migrate(name: str) -> int:
    """0 when the database is at the newest revision, 1 when a migration failed, 2 when it cannot be tried."""
    try:
        application = load_application()
        database: Database = named(application.databases, name, "database")
        binding = bindings.find(database.directory, database.variable)
        redactor = logs.Redactor()
        redactor.add(binding.secrets())
        logs.configure(identity(f"migrate-{name}"), redactor, os.environ.get("SAMPAN_LOG_LEVEL", "INFO"))
        directory = find_directory(database.migrations, name) if database.migrations else None
        bound = SqlDatabase(name, binding)
    except (StartError, BindingError) as error:
        return cannot_start(f"migrate {name}", error)
    return run(_main(bound, binding, directory))


def find_directory(migrations: str, name: str) -> Path:
    """The script directory, relative to the working directory or, for an installed system, to the import path."""
    for root in (".", *sys.path):
        if (Path(root, migrations) / "versions").is_dir():
            return Path(root, migrations)
    raise StartError(f"migrations of database {name!r}: there is no directory {migrations}/versions")


async def _main(database: SqlDatabase, binding: Binding, directory: Path | None) -> int:
    try:
        await bring_up_to_date(database.engine, binding, directory)
    except Exception as error:
        log.error("migration failed: %s", error, exc_info=error)
        await _say_where(database)
        return 1
    finally:
        await database.close()
    return 0


async def _say_where(database: SqlDatabase) -> None:
    """After a failure: where the database stands now, and whether the failed step left something behind."""
    with contextlib.suppress(Exception):
        extra = {"revision": ", ".join(await current_revision(database)) or "none"}
        if database.dialect == "mysql":
            log.error(
                "this engine commits every CREATE, ALTER and DROP at once: what the failed revision did before its "
                "error is still there; undo it, or make the revision pass over it, before the next attempt",
                extra=extra,
            )
        else:
            log.error("the failed revision was rolled back", extra=extra)


async def bring_up_to_date(engine: AsyncEngine, binding: Binding, directory: Path | None) -> None:
    """Wait for the database, take its lock, and run what it lacks. Raises what the database or a migration raises."""
    started = time.perf_counter()
    if binding.type == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    await _wait(engine)
    async with _lock(engine):
        async with engine.begin() as connection:
            await connection.run_sync(tables.create)
        if directory is not None:
            async with engine.connect() as connection:
                revision = await connection.run_sync(_upgrade, directory)
                await connection.commit()
            log.info("database is at revision %s", revision, extra={"seconds": time.perf_counter() - started})


async def current_revision(database: SqlDatabase) -> list[str]:
    """The revisions the database is at; empty before the first migration."""
    try:
        found = await database.all(str, "SELECT version_num FROM alembic_version")
    except StatementError:  # no such table
        return []
    return sorted(found)


class Expected:
    """What the scripts of this code lead to; read at its first use, for Alembic is slow to import."""

    def __init__(self, migrations: str, name: str) -> None:
        self.migrations, self.name = migrations, name
        self.met = False

    @functools.cached_property
    def script(self) -> Any:
        return _script(find_directory(self.migrations, self.name))[1]

    async def check(self, database: SqlDatabase) -> None:
        """Raises RuntimeError while the database is behind this code; asks no more once it is not.

        A revision this code has never heard of is no fault: during a release the database is migrated before the last
        process of the old code has ended.
        """
        if self.met:
            return
        current, heads = await current_revision(database), sorted(self.script.get_heads())
        known = {revision.revision for revision in self.script.walk_revisions()}
        if current != heads and known.issuperset(current):
            raise RuntimeError(f"revision {', '.join(current) or 'none'}, code expects {', '.join(heads) or 'none'}")
        self.met = True


def status(name: str) -> int:
    """Print where a database stands: 0 when it needs no migration, 1 when it does, 2 when it cannot be told."""
    try:
        database: Database = named(load_application().databases, name, "database")
        binding = bindings.find(database.directory, database.variable)
        bound = SqlDatabase(name, binding)
        expected = Expected(database.migrations, name) if database.migrations else None
        heads = [] if expected is None else sorted(expected.script.get_heads())
    except (StartError, BindingError) as error:
        return cannot_start(f"migrate {name}", error)
    return run(_status(bound, heads))


async def _status(database: SqlDatabase, heads: list[str]) -> int:
    try:
        current = await current_revision(database)
    except DatabaseError as error:
        print(f"database {database.name}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 2
    finally:
        await database.close()
    words = "up to date" if current == heads else "migration needed"
    print(f"database {database.name}: at {', '.join(current) or 'none'}, newest {', '.join(heads) or 'none'}: {words}")  # noqa: T201
    return 0 if current == heads else 1


async def _wait(engine: AsyncEngine) -> None:
    give_up, pause, said = time.monotonic() + _WAIT_SECONDS, 0.05, False
    while True:
        try:
            async with asyncio.timeout(5), engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            return
        except (
            SQLAlchemyError,
            DatabaseError,
            OSError,
            TimeoutError,
            RuntimeError,
        ) as error:  # asyncmy's own for a broken connection
            if time.monotonic() > give_up:
                raise
            if not said:
                cause = error.orig if isinstance(error, DBAPIError) else error
                log.info("waiting for the database: %s", cause or type(error).__name__)
                said = True
        await asyncio.sleep(pause)
        pause = min(2.0, pause * 1.5)


@contextlib.asynccontextmanager
async def _lock(engine: AsyncEngine) -> AsyncIterator[None]:
    """One at a time. The lock belongs to a connection (or file), so that it ends with its holder."""
    if engine.dialect.name == "sqlite":
        with Path(f"{engine.url.database}.migrate-lock").open("w") as file:
            give_up = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise TimeoutError("another migration holds the lock") from None
                    await asyncio.sleep(0.05)
            yield
        return
    async with engine.connect() as connection:
        if engine.dialect.name == "mysql":
            name = f"{_LOCK_NAME}_{engine.url.database}"[:64]
            taken = await connection.scalar(
                text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": _LOCK_SECONDS}
            )
            if taken != 1:
                raise TimeoutError("another migration holds the lock")
            release: Any = (text("SELECT RELEASE_LOCK(:name)"), {"name": name})
        else:
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _POSTGRES_KEY})
            release = (text("SELECT pg_advisory_unlock(:key)"), {"key": _POSTGRES_KEY})
        try:
            yield
        finally:
            with contextlib.suppress(SQLAlchemyError):
                await connection.execute(*release)


def _script(directory: Path) -> tuple[Any, Any]:
    """Alembic's configuration and script directory."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(directory.resolve()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)


def _upgrade(connection: Connection, directory: Path) -> str:
    """Alembic's `upgrade head` on our connection; the revision reached, or "none" without any."""
    from alembic.runtime.environment import EnvironmentContext

    config, script = _script(directory)
    heads = script.get_heads()
    if not heads:
        return "none"

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("heads", revision)

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(
            connection=connection,
            transaction_per_migration=True,
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with environment.begin_transaction():
            environment.run_migrations()
    return ", ".join(heads)
