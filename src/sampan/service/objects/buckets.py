"""Objects by key: in a directory (`file://`), or in S3 through obstore where that is installed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sampan.service.bindings import Binding, BindingError


class FileBucket:
    """Implements `model.bound.BoundBucket`; an object is written beside its place and renamed into it."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not key or path == self.root or not path.is_relative_to(self.root):
            raise ValueError(f"not a key of bucket {self.name!r}: {key!r}")
        return path

    async def get(self, key: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                return self._path(key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

        return await asyncio.to_thread(read)

    async def put(self, key: str, data: bytes, content_type: str | None = None) -> None:
        """The content type is not kept: a directory has no place for it."""

        def write() -> None:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
            try:
                with beside.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                beside.rename(path)
            finally:
                beside.unlink(missing_ok=True)

        await asyncio.to_thread(write)

    async def delete(self, key: str) -> None:
        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._path(key).unlink()

        await asyncio.to_thread(remove)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        def walk() -> list[str]:
            files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))
            return sorted(key for path in files if (key := path.relative_to(self.root).as_posix()).startswith(prefix))

        for key in await asyncio.to_thread(walk):
            yield key

    async def check(self) -> None:
        if not os.access(self.root, os.R_OK):
            raise ConnectionError("directory not readable")

    async def close(self) -> None: ...


class S3Bucket:
    """Implements `model.bound.BoundBucket` over obstore."""

    def __init__(self, name: str, binding: Binding) -> None:
        try:
            stores: Any = importlib.import_module("obstore.store")
        except ImportError as error:
            raise BindingError(f"bucket {name!r} is in S3: install the obstore package") from error
        names = {"access-key": "access_key_id", "secret-key": "secret_access_key", "region": "region"}
        options: dict[str, Any] = {to: binding.values[key] for key, to in names.items() if key in binding.values}
        endpoint = binding.values.get("endpoint")
        if endpoint:
            options |= {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
        self.name = name
        self.store: Any = stores.from_url(binding.uri, **options)

    async def get(self, key: str) -> bytes | None:
        try:
            reply = await self.store.get_async(key)
        except FileNotFoundError:
            return None
        return bytes(await reply.bytes_async())

    async def put(self, key: str, data: bytes, content_type: str | None = None) -> None:
        await self.store.put_async(key, data, attributes={"Content-Type": content_type} if content_type else None)

    async def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            await self.store.delete_async(key)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        async for batch in self.store.list(prefix=prefix or None):
            for item in batch:
                yield item["path"]

    async def check(self) -> None:
        async for _ in self.store.list(prefix=None, chunk_size=1):
            return

    async def close(self) -> None: ...


def open_bucket(name: str, binding: Binding) -> FileBucket | S3Bucket:
    """By the scheme of its uri."""
    if binding.type == "file":
        return FileBucket(name, Path(unquote(urlsplit(binding.uri).path)))
    return S3Bucket(name, binding)
