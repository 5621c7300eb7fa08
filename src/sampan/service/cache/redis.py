"""A cache over the Redis protocol that fails soft: an outage is a miss, a metric and a log line, not an error."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from sampan.service.bindings import Binding, require_type
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("sampan.cache")

_SECONDS: Final = 0.5  # a cache slower than this is worse than none
_PAUSE_SECONDS: Final = 1.0  # between attempts while the server is away


class RedisCache:
    """Implements `model.bound.BoundCache`. After a failure the server is left alone for a second."""

    def __init__(self, name: str, binding: Binding, registry: Registry) -> None:
        from redis.asyncio import Redis, RedisError
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        require_type(binding, ("redis", "rediss", "valkey"))
        self.name = name
        uri = "redis" + binding.uri.removeprefix("valkey") if binding.type == "valkey" else binding.uri
        credentials: dict[str, Any] = {
            key: binding.values[key] for key in ("username", "password") if key in binding.values
        }
        self.redis: Redis = Redis.from_url(
            uri,
            socket_timeout=_SECONDS,
            socket_connect_timeout=_SECONDS,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 1),  # once more, for a connection that a restart of the server has cut
            **credentials,
        )
        self._errors: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
        self._resume = 0.0
        self._loading: dict[str, asyncio.Future[bytes | None]] = {}
        self.requests = registry.counter("cache_requests_total", "Cache operations.", ("cache", "operation", "outcome"))

    async def _soft(self, operation: str, call: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
        if time.monotonic() < self._resume:
            self.requests.add(self.name, operation, "skipped")
            return False, None
        try:
            return True, await call()
        except self._errors as error:
            self._resume = time.monotonic() + _PAUSE_SECONDS
            self.requests.add(self.name, operation, "error")
            log.warning("cache %s: %s: %s", self.name, operation, error or type(error).__name__)
            return False, None

    async def get(self, key: str) -> bytes | None:
        good, value = await self._soft("get", lambda: self.redis.get(key))
        if good:
            self.requests.add(self.name, "get", "miss" if value is None else "hit")
        found: bytes | None = value
        return found

    async def set(self, key: str, value: bytes | str, ttl: float | None = None) -> None:
        milliseconds = None if ttl is None else max(1, int(ttl * 1000))
        good, _ = await self._soft("set", lambda: self.redis.set(key, value, px=milliseconds))
        if good:
            self.requests.add(self.name, "set", "ok")

    async def delete(self, key: str) -> None:
        """An outage leaves the old value to its ttl."""
        good, _ = await self._soft("delete", lambda: self.redis.delete(key))
        if good:
            self.requests.add(self.name, "delete", "ok")

    async def get_or_load(
        self, key: str, load: Callable[[], Awaitable[bytes | None]], ttl: float | None = None
    ) -> bytes | None:
        """The cached value, or that of `load()`, then stored unless None. Concurrent callers share one load."""
        value = await self.get(key)
        if value is not None:
            return value
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.ensure_future(self._load(key, load, ttl))
            loading.add_done_callback(lambda _: self._loading.pop(key, None))
        return await asyncio.shield(loading)

    async def _load(self, key: str, load: Callable[[], Awaitable[bytes | None]], ttl: float | None) -> bytes | None:
        value = await load()
        if value is not None:
            await self.set(key, value, ttl)
        return value

    async def check(self) -> None:
        await self.redis.ping()
        self._resume = 0.0

    async def close(self) -> None:
        await self.redis.aclose()
