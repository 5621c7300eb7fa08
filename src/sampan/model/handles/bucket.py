"""Object storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sampan.model.bound import BoundBucket


class Bucket(Handle):
    """Objects by key."""

    kind = "bucket"
    access = ("read", "read_write")

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    async def get(self, key: str) -> bytes | None:
        bound: BoundBucket = self._need()
        return await bound.get(key)

    async def put(self, key: str, data: bytes, content_type: str | None = None) -> None:
        bound: BoundBucket = self._need()
        await bound.put(key, data, content_type)

    async def delete(self, key: str) -> None:
        bound: BoundBucket = self._need()
        await bound.delete(key)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys that start with `prefix`."""
        bound: BoundBucket = self._need()
        async for key in bound.list(prefix):
            yield key
