"""Backups: one file of one database, consistent, compressed, with a manifest by which it can be proved whole.

The file is a tar of `manifest.json` and `dump`. The manifest has the digest of the dump and, of every table, the
number of rows and a checksum of their contents that does not depend on their order. Restoring checks the digest before
it touches anything, loads the dump beside the present data, compares every table with the manifest, and only then puts
it in the place of what was there.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from sampan import __version__
from sampan.model.data import DatabaseError
from sampan.service.bindings import Binding
from sampan.service.data.database import SqlDatabase

SUFFIX: Final = ".sampan-backup"
_FORMAT: Final = 1
_CHUNK: Final = 1 << 20


class BackupError(Exception):
    """A backup cannot be made, read or restored; the message says why, and what has been touched."""


class Contents(msgspec.Struct):
    """Of one table. `checksum` is 16 hexadecimal digits."""

    rows: int
    checksum: str


class Manifest(msgspec.Struct, kw_only=True):
    format: int = _FORMAT
    database: str
    engine: str
    server: str
    sampan: str = __version__
    created: datetime
    revision: list[str]
    tables: dict[str, Contents]
    sha256: str = ""
    size: int = 0


class Engine(Protocol):
    """What differs between engines; `database` is the one to back up, or to restore into."""

    database: SqlDatabase

    async def version(self) -> str: ...

    async def dump(self, path: Path) -> dict[str, Contents]:
        """Write the database to `path`, and say what is in it, of one moment."""
        ...

    async def tables(self) -> list[str]: ...

    async def restore(self, path: Path, tables: Mapping[str, Contents], *, replace: bool) -> None:
        """Put what `path` holds in the place of what there is, at once or not at all."""
        ...

    async def rehearse(self, path: Path) -> dict[str, Contents]:
        """Restore into a scratch database, say what is in it, and drop it."""
        ...


def engine_for(database: SqlDatabase) -> Engine:
    if database.dialect == "mysql":
        from sampan.service.data.dump_mysql import MySQLDump

        return MySQLDump(database)
    if database.dialect == "postgresql":
        from sampan.service.data.dump_postgresql import PostgresDump

        return PostgresDump(database)
    from sampan.service.data.dump_sqlite import SQLiteDump

    return SQLiteDump(database)


class Summing:
    """The contents of a table while its rows pass by."""

    def __init__(self) -> None:
        self.rows = self.sum = 0

    def add(self, row: str) -> None:
        self.rows += 1
        self.sum += int.from_bytes(hashlib.sha256(row.encode("utf-8", "surrogatepass")).digest()[:8], "big")

    def contents(self) -> Contents:
        return Contents(self.rows, f"{self.sum % (1 << 64):016x}")


def file_name(database: str, moment: datetime) -> str:
    return f"{database}-{moment:%Y%m%dT%H%M%SZ}{SUFFIX}"


async def back_up(name: str, binding: Binding, directory: Path) -> tuple[Path, Manifest]:
    """Write a backup of the bound database into `directory`. BackupError, DatabaseError."""
    from sampan.service.migrate import current_revision

    database = SqlDatabase(name, binding)
    try:
        engine, moment = engine_for(database), datetime.now(UTC)
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".backup-") as made:
            dump = Path(made) / "dump"
            manifest = Manifest(
                database=name,
                engine=database.dialect,
                server=await engine.version(),
                created=moment,
                revision=await current_revision(database),
                tables=await engine.dump(dump),
            )
            manifest.sha256, manifest.size = digest(dump), dump.stat().st_size
            whole = Path(made) / "whole"
            _pack(whole, dump, manifest)
            target = directory / file_name(name, moment)
            whole.rename(target)
        return target, manifest
    finally:
        await database.close()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pack(whole: Path, dump: Path, manifest: Manifest) -> None:
    whole.touch(mode=0o600)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    with tarfile.open(whole, "w", format=tarfile.PAX_FORMAT) as tar:
        head = tarfile.TarInfo("manifest.json")
        head.size, head.mode, head.mtime = len(text), 0o600, int(manifest.created.timestamp())
        tar.addfile(head, io.BytesIO(text))
        body = tarfile.TarInfo("dump")
        body.size, body.mode, body.mtime = manifest.size, 0o600, head.mtime
        with dump.open("rb") as file:
            tar.addfile(body, file)


def unpack(path: Path, dump: Path) -> Manifest:
    """The manifest, with the dump written to `dump`. BackupError unless the file is whole."""
    try:
        with tarfile.open(path, "r:") as tar:
            head, body = tar.extractfile("manifest.json"), tar.extractfile("dump")
            if head is None or body is None:
                raise BackupError(f"{path} is damaged: it lacks a part")
            manifest = msgspec.json.decode(head.read(), type=Manifest)
            hashed, size = hashlib.sha256(), 0
            with dump.open("wb") as out:
                while chunk := body.read(_CHUNK):
                    hashed.update(chunk)
                    size += out.write(chunk)
    except (tarfile.TarError, KeyError, EOFError, msgspec.MsgspecError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise BackupError(f"there is no file {path}") from None
        raise BackupError(f"{path} is damaged, or no backup: {error}") from None
    if manifest.format != _FORMAT:
        raise BackupError(f"{path} has format {manifest.format}; this version reads {_FORMAT}")
    if (size, hashed.hexdigest()) != (manifest.size, manifest.sha256):
        raise BackupError(f"{path} is damaged: its contents do not match its manifest. Nothing was touched")
    return manifest


async def restore(name: str, binding: Binding, path: Path, *, replace: bool = False, verify: bool = False) -> Manifest:
    """Put a backup in the place of the database; with `verify` into a scratch database only, to prove it.

    Raises BackupError, DatabaseError; the data that were there are then there still.
    """
    database = SqlDatabase(name, binding)
    try:
        with tempfile.TemporaryDirectory(prefix="sampan-restore-") as made:
            dump = Path(made) / "dump"
            manifest = unpack(path, dump)
            engine = engine_for(database)
            if manifest.engine != database.dialect:
                raise BackupError(f"{path} is of {manifest.engine}, database {name!r} is {database.dialect}")
            if verify:
                compare(manifest.tables, await engine.rehearse(dump), "the scratch database has been dropped")
                return manifest
            present = await engine.tables()
            if present and not replace:
                raise BackupError(
                    f"database {name!r} is not empty ({', '.join(present[:5])}{', ...' * (len(present) > 5)}); "
                    f"--replace puts the backup in the place of everything in it"
                )
            await engine.restore(dump, manifest.tables, replace=replace)
            return manifest
    finally:
        await database.close()


def compare(wanted: Mapping[str, Contents], found: Mapping[str, Contents], state: str) -> None:
    """BackupError names the first table that is not as it was."""
    for table, contents in wanted.items():
        if table not in found:
            raise BackupError(f"table {table} is missing after loading; {state}")
        if found[table] != contents:
            raise BackupError(
                f"table {table} has {found[table].rows} rows of checksum {found[table].checksum} after loading, "
                f"not {contents.rows} of {contents.checksum}; {state}"
            )


def said(error: Exception) -> str:
    return str(error) if isinstance(error, BackupError | DatabaseError) else f"{type(error).__name__}: {error}"
