"""Where backups are kept: a directory, or a bucket by its URL (credentials as obstore finds them)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sampan.service.data.backup import SUFFIX, BackupError


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
    """A bucket, or a folder in one. BackupError for an address that names none."""

    def __init__(self, url: str) -> None:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        self._obstore, self._error, self.url = obstore, BaseError, url.rstrip("/")
        try:
            self._store = from_url(self.url)
        except (BaseError, ValueError) as error:
            raise BackupError(f"{url} names no bucket: {error}") from None

    async def put(self, path: Path) -> str:
        """Store a file under its name; its address."""
        try:
            await self._obstore.put_async(self._store, path.name, path)
        except self._error as error:
            raise BackupError(f"{self.url} does not take the backup: {error}") from None
        return f"{self.url}/{path.name}"

    async def prune(self, database: str, keep: int) -> list[str]:
        listed = [item["path"] for page in self._obstore.list(self._store) for item in page]
        gone = surplus(listed, database, keep)
        if gone:
            await self._obstore.delete_async(self._store, gone)
        return gone

    async def get(self, name: str, target: Path) -> None:
        try:
            reply = await self._obstore.get_async(self._store, name)
            with target.open("wb") as file:
                async for chunk in reply.stream():
                    file.write(chunk)
        except self._error as error:
            raise BackupError(f"{self.url}/{name} cannot be read: {error}") from None


async def fetch(url: str, directory: Path) -> Path:
    base, _, name = url.rpartition("/")
    target = directory / name
    await Store(base).get(name, target)
    return target
