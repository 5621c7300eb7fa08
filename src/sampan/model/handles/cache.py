"""Caches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from msgspec import Struct

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sampan.model.bound import BoundCache

T = TypeVar("T")


class Local(Struct, frozen=True):
    """A level of the cache inside each process: at most `entries` values of `bytes` together, each for at most
    `seconds`. A change is told to every replica within milliseconds; while that news cannot come, the level is empty.
    """

    entries: int = 10_000
    seconds: float = 5.0
    bytes: int = 64 * 2**20


class Cache(Handle):
    """A key-value cache that speaks the Redis protocol; with `local`, a level in the process is in front of it.

    It fails soft: while the server is away a read is a miss and a write does nothing. Values are bytes; with `type`
    they are decoded from JSON, and what is neither bytes nor str is stored as JSON. `ttl` is in seconds; None keeps
    the entry until the server evicts it.
    """

    kind = "cache"
    access = ("read", "read_write")

    def __init__(self, name: str, *, local: Local | None = None) -> None:
        super().__init__(name)
        self.local = local

    def read(self) -> Grant:
        return self._grant("read")

    def read_write(self) -> Grant:
        return self._grant("read_write")

    @overload
    async def get(self, key: str) -> bytes | None: ...
    @overload
    async def get(self, key: str, *, type: type[T]) -> T | None: ...
    async def get(self, key: str, *, type: Any = None) -> Any:
        """The value; None when there is none, when it does not fit `type`, or while the server is away."""
        bound: BoundCache = self._need()
        return await bound.get(key, type=type)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        bound: BoundCache = self._need()
        await bound.set(key, value, ttl)

    async def delete(self, *keys: str) -> None:
        """A load of these keys that is under way will not be stored. An outage leaves old values to their ttl."""
        bound: BoundCache = self._need()
        await bound.delete(*keys)

    @overload
    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]: ...
    @overload
    async def get_many(self, keys: Iterable[str], *, type: type[T]) -> dict[str, T]: ...
    async def get_many(self, keys: Iterable[str], *, type: Any = None) -> Any:
        """Those of `keys` that are there."""
        bound: BoundCache = self._need()
        return await bound.get_many(keys, type=type)

    async def set_many(self, values: Mapping[str, Any], ttl: float | None = None) -> None:
        bound: BoundCache = self._need()
        await bound.set_many(values, ttl)

    async def add(self, key: str, value: Any, ttl: float | None = None) -> bool:
        """Store unless something is there. False when it is, and while the server is away."""
        bound: BoundCache = self._need()
        return await bound.add(key, value, ttl)

    async def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int | None:
        """Add to a counter, which begins at 0 and then lasts `ttl`. Its new value; None while the server is away."""
        bound: BoundCache = self._need()
        return await bound.increment(key, by, ttl)

    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Awaitable[bytes | str | None]],
        ttl: float | None = None,
        *,
        missing: float = 5.0,
    ) -> bytes | None: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Awaitable[T | None]],
        ttl: float | None = None,
        *,
        type: type[T],
        missing: float = 5.0,
    ) -> T | None: ...
    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Awaitable[Any]],
        ttl: float | None = None,
        *,
        type: Any = None,
        missing: float = 5.0,
    ) -> Any:
        """The cached value, or that of `load()`, which is then kept for `ttl`, less up to a tenth.

        Of many callers, in however many replicas, one loads and the others wait for it. A value that is much asked for
        is loaded again in the background shortly before it expires. None, "there is no such thing", is remembered
        for `missing` seconds (0: not at all). What `load` raises is raised to all who waited for it, and not kept.
        """
        bound: BoundCache = self._need()
        return await bound.get_or_load(key, load, ttl, type=type, missing=missing)
