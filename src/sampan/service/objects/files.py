"""Objects as files of a directory.

An object is written to `.sampan/` of the same directory, synced, and renamed into its place: whole or not at all, also
when the process or the machine dies. Content type, metadata and SHA-256 go with it as extended attributes; where the
file system has none (and outside Linux) they are not kept, and the type is guessed from the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import mimetypes
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, ParamSpec, TypeVar

import msgspec

from sampan.model import ObjectConflict, ObjectError, ObjectInfo, ObjectMissing
from sampan.service.objects.port import RESERVED, New

P = ParamSpec("P")
R = TypeVar("R")

_ATTRIBUTE: Final = "user.sampan"
_LEFT_SECONDS: Final = 24 * 3600.0  # what a killed process left behind is removed after that
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class Beside(msgspec.Struct):
    """What the extended attribute holds."""

    content_type: str = ""
    metadata: dict[str, str] = {}


class Files:
    """Implements `port.Store` on the directory `root`, which may be shared by processes of one machine."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root.resolve()
        self.attributes: Mapping[str, Any] = {"sampan.bucket": name, "sampan.bucket.store": "file"}
        self._work = self.root / RESERVED
        self._work.mkdir(parents=True, exist_ok=True)
        oldest = time.time() - _LEFT_SECONDS
        for left in self._work.glob("new-*"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < oldest:
                    left.unlink()

    async def _do(self, work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        try:
            return await asyncio.to_thread(work, *arguments, **named)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> ObjectError:
        if error.errno in _ABSENT:
            return ObjectMissing(f"bucket {self.name}: no such object")
        failed = ObjectError(f"bucket {self.name}: {error.strerror or error}")
        failed.kind = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EACCES: "denied", errno.EROFS: "denied"}.get(
            error.errno or 0, "unavailable"
        )
        return failed

    # ------------------------------------------------------------------ reading

    async def read(self, key: str, start: int | None, end: int | None, match: str | None) -> tuple[bytes, ObjectInfo]:
        def work() -> tuple[bytes, ObjectInfo]:
            with (self.root / key).open("rb") as file:  # one version, whoever replaces it meanwhile
                info = self._info(key, file)
                if match is not None and info.etag != match:
                    raise ObjectConflict(f"bucket {self.name}: the object was replaced")
                if start is None:
                    return file.read(), info
                file.seek(start)
                return file.read(-1 if end is None else max(0, end - start)), info

        return await self._do(work)

    async def head(self, key: str) -> ObjectInfo:
        def work() -> ObjectInfo:
            with (self.root / key).open("rb") as file:
                return self._info(key, file)

        return await self._do(work)

    def _info(self, key: str, file: BinaryIO) -> ObjectInfo:
        try:
            beside = msgspec.json.decode(os.getxattr(file.fileno(), _ATTRIBUTE), type=Beside)
        except (OSError, AttributeError, msgspec.DecodeError):
            beside = Beside(mimetypes.guess_type(key)[0] or "application/octet-stream")
        return _info(key, os.fstat(file.fileno()), beside)

    async def scan(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        found = self._walk(prefix)

        def some() -> list[ObjectInfo]:
            return list(itertools.islice(found, 1000))

        while page := await self._do(some):
            for info in page:
                yield info

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """In the order of keys as S3 has it, a directory at a time."""

        def under(folder: str) -> Iterator[ObjectInfo]:
            try:
                with os.scandir(self.root / folder) as entries:
                    inside = [(f"{folder}{entry.name}" + "/" * entry.is_dir(), entry) for entry in entries]
            except OSError as error:
                if error.errno in _ABSENT:
                    return
                raise
            for path, entry in sorted(inside, key=lambda pair: pair[0]):
                if path.endswith("/"):
                    wanted = path.startswith(prefix) or prefix.startswith(path)
                    if wanted and path != f"{RESERVED}/":
                        yield from under(path)
                elif path.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):
                        yield _info(path, entry.stat())

        yield from under("")

    # ------------------------------------------------------------------ writing

    async def write(self, new: New, data: bytes) -> str:
        return await self._do(self._write, new, [data])

    async def write_parts(self, new: New, parts: AsyncIterator[bytes], size: int) -> str:
        temporary = await self._do(self._open)
        try:
            async for part in parts:
                await self._do(temporary.write, part)
            return await self._do(self._finish, new, temporary)
        finally:
            await asyncio.shield(asyncio.to_thread(_discard, temporary))

    def _write(self, new: New, parts: Iterable[bytes]) -> str:
        temporary = self._open()
        try:
            for part in parts:
                temporary.write(part)
            return self._finish(new, temporary)
        finally:
            _discard(temporary)

    def _open(self) -> BinaryIO:
        self._work.mkdir(parents=True, exist_ok=True)
        return (self._work / f"new-{os.urandom(12).hex()}").open("xb")

    def _finish(self, new: New, file: BinaryIO) -> str:
        file.flush()
        beside = msgspec.json.encode(Beside(new.content_type, dict(new.metadata)))
        with contextlib.suppress(OSError, AttributeError):  # a file system without them; too long for it
            os.setxattr(file.fileno(), _ATTRIBUTE, beside)
        os.fsync(file.fileno())
        etag = _etag(os.fstat(file.fileno()))
        path, temporary = self.root / new.key, Path(file.name)
        self._make(path.parent)
        if new.absent:
            try:
                os.link(temporary, path)
            except FileExistsError as error:
                raise ObjectConflict(f"bucket {self.name}: there is such an object") from error
        elif new.match is not None:
            with self._alone():
                self._expect(path, new.match)
                temporary.rename(path)
        else:
            with self._alone():  # so that a conditional put sees it before or after
                temporary.rename(path)
        _sync(path.parent)
        return etag

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ObjectError(f"bucket {self.name}: as files, a key and keys below it cannot both exist") from error

    def _expect(self, path: Path, etag: str) -> None:
        try:
            present = _etag(path.stat())
        except FileNotFoundError:
            present = ""
        if present != etag:
            raise ObjectConflict(f"bucket {self.name}: the object was replaced")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._work / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    async def delete(self, keys: Sequence[str]) -> None:
        def work() -> None:
            for key in keys:
                path = self.root / key
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    path.unlink()
                self._prune(path.parent)

        await self._do(work)

    def _prune(self, folder: Path) -> None:
        """A directory is there only for its objects."""
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    async def copy(self, key: str, to: str) -> None:
        def work() -> None:
            with (self.root / key).open("rb") as file:
                info = self._info(key, file)
                new = New(to, info.content_type, info.metadata)
                self._write(new, iter(lambda: file.read(2**20), b""))

        await self._do(work)

    async def sign(self, key: str, method: str, seconds: float) -> str:
        raise ObjectError(f"bucket {self.name} is a directory: nothing serves its objects, so they have no URL")

    async def check(self) -> None:
        if not os.access(self.root, os.R_OK):
            raise ConnectionError("directory not readable")

    async def close(self) -> None: ...


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _info(key: str, stat: os.stat_result, beside: Beside | None = None) -> ObjectInfo:
    modified = datetime.fromtimestamp(stat.st_mtime, UTC)
    more = beside or Beside()
    return ObjectInfo(key, stat.st_size, _etag(stat), modified, more.content_type, more.metadata)


def _discard(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # what it could not write then it cannot write now
        file.close()
    Path(file.name).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
