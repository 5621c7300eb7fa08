"""Where backups are kept: a directory, or a bucket by its URL (credentials from the environment, as for any bucket)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sampan.model.handles.bucket import ObjectError
from sampan.service.bindings import Binding, BindingError
from sampan.service.data.backup import SUFFIX, BackupError
from sampan.service.objects.bucket import open_bucket
from sampan.service.telemetry.metrics import Registry


def surplus(names: Iterable[str], database: str, keep: int) -> list[str]:
    """Backups of `database` beyond the newest `keep`; names sort by time. 0 keeps all."""
    stem = f"{database}-"
    ours = sorted(
        name
        for name in names
        if name.startswith(stem) and name.endswith(SUFFIX) and len(name) == len(stem) + 16 + len(SUFFIX)
    )
    return ours[:-keep] if keep > 0 else []


def prune(directory: Path, database: str, keep: int) -> list[str]:
    gone = surplus((path.name for path in directory.iterdir()), database, keep)
    for name in gone:
        (directory / name).unlink()
    return gone


class Store:
    """A bucket, or a folder in one, by its URL. BackupError for an address that names none."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._bucket = open_bucket("backups", Binding("backups", urlsplit(url).scheme, self.url), Registry())
        except BindingError as error:
            raise BackupError(f"{url} names no bucket: {error}") from None

    async def put(self, path: Path) -> str:
        """Store a file under its name; its address."""
        with self._said():
            await self._bucket.put(path.name, path)
        return f"{self.url}/{path.name}"

    async def prune(self, database: str, keep: int) -> list[str]:
        with self._said():
            gone = surplus([found.key async for found in self._bucket.scan(f"{database}-")], database, keep)
            await self._bucket.delete_many(gone)
        return gone

    async def get(self, name: str, target: Path) -> None:
        with self._said(), target.open("wb") as file:
            async for chunk in self._bucket.stream(name):
                file.write(chunk)

    async def close(self) -> None:
        await self._bucket.close()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except ObjectError as error:
            raise BackupError(f"{self.url}: {error}") from None


async def fetch(url: str, directory: Path) -> Path:
    base, _, name = url.rpartition("/")
    target, store = directory / name, Store(base)
    try:
        await store.get(name, target)
    finally:
        await store.close()
    return target
