"""SQLite: its own online backup, compressed; put back through the same, in one transaction of the file it lives in."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from sampan.service.data.backup import BackupError, Contents, Summing, compare
from sampan.service.data.database import SqlDatabase

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"


class SQLiteDump:
    def __init__(self, database: SqlDatabase) -> None:
        self.database = database
        self.path = Path(database.url.database or "")

    async def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    async def tables(self) -> list[str]:
        return await self.database.all(str, _TABLES) if self.path.exists() else []

    async def dump(self, path: Path) -> dict[str, Contents]:
        if not self.path.exists():
            raise BackupError(f"there is no database at {self.path}")
        return await asyncio.to_thread(self._dump, path)

    def _dump(self, path: Path) -> dict[str, Contents]:
        copy = path.with_suffix(".db")
        with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
            found = contents(target)
        with copy.open("rb") as plain, gzip.open(path, "wb", 6) as packed:
            shutil.copyfileobj(plain, packed)
        copy.unlink()
        return found

    def _unpacked(self, path: Path) -> Path:
        copy = path.with_suffix(".db")
        with gzip.open(path, "rb") as packed, copy.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        return copy

    async def restore(self, path: Path, tables: Mapping[str, Contents], *, replace: bool) -> None:
        compare(tables, await self.rehearse(path), "nothing was touched")
        await asyncio.to_thread(self._restore, path)

    def _restore(self, path: Path) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (
            closing(sqlite3.connect(self._unpacked(path))) as source,
            closing(sqlite3.connect(self.path, timeout=30)) as target,
        ):
            source.backup(target)  # one transaction: readers see the old contents, then the new

    async def rehearse(self, path: Path) -> dict[str, Contents]:
        return await asyncio.to_thread(self._rehearse, path)

    def _rehearse(self, path: Path) -> dict[str, Contents]:
        try:
            with closing(sqlite3.connect(self._unpacked(path))) as copy:
                if (fault := copy.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                    raise BackupError(f"the backup is damaged: {fault}; nothing was touched")
                return contents(copy)
        except (sqlite3.Error, OSError, EOFError) as error:
            raise BackupError(f"the backup cannot be read: {error}; nothing was touched") from None


def contents(connection: sqlite3.Connection) -> dict[str, Contents]:
    found = {}
    for (table,) in connection.execute(_TABLES).fetchall():
        summing = Summing()
        quoted = table.replace('"', '""')
        for row in connection.execute(f'SELECT * FROM "{quoted}"'):  # noqa: S608  # quoted
            summing.add(repr(row))
        found[table] = summing.contents()
    return found
