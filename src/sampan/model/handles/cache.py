"""Caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from sampan.model.bound import BoundCache


class Cache(Handle):
    """A key-value cache that speaks the Redis protocol."""

    kind = "cache"
    access = ("read", "read_write")

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    async def get(self, key: str) -> bytes | None:
        bound: BoundCache = self._need()
        return await bound.get(key)

    async def set(self, key: str, value: bytes | str, ttl: float | None = None) -> None:
        """Store `value` for `ttl` seconds; without `ttl` until it is evicted."""
        bound: BoundCache = self._need()
        await bound.set(key, value, ttl)

    async def delete(self, key: str) -> None:
        bound: BoundCache = self._need()
        await bound.delete(key)
