"""The level that all replicas share, over the Redis protocol. It fails soft: what cannot be done in half a second, or
in what the request has left, is not done, counted and, once, logged; after a failure the server is left alone a second.

Gets that are wanted at the same moment travel together, as one MGET. Not for Redis Cluster and Sentinel.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sampan.service.bindings import Binding, require_type
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("sampan.cache")

SECONDS: Final = 0.5  # a cache slower than this is worse than none
_PAUSE_SECONDS: Final = 1.0  # between attempts while the server is away
_CONNECTIONS: Final = 16
_BATCH: Final = 200
_MISUSE: Final = ("WRONGTYPE", "value is not an integer")
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)

Result = tuple[bool, Any]  # whether it was done, and what came of it


class RedisLevel:
    """`run` does one operation softly; `get` is one that may share its way with others."""

    def __init__(self, name: str, binding: Binding, registry: Registry) -> None:
        from redis.asyncio import ConnectionPool, Redis, RedisError
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ResponseError

        require_type(binding, ("redis", "rediss", "valkey", "valkeys"))
        self.name = name
        options: dict[str, Any] = {
            key: binding.values[key] for key in ("username", "password") if key in binding.values
        }
        if "ca" in binding.values and binding.type in ("rediss", "valkeys"):
            options["ssl_ca_data"] = binding.values["ca"]
        uri = "redis" + binding.uri.removeprefix("valkey") if binding.type.startswith("valkey") else binding.uri
        options |= {"socket_connect_timeout": SECONDS, "socket_timeout": None}  # `run` limits the whole operation
        self.pool = ConnectionPool.from_url(
            uri,
            max_connections=_CONNECTIONS + 2,  # those of readiness come on top
            health_check_interval=15,
            retry=Retry(NoBackoff(), 1),  # once more, for a connection that a restart of the server has cut
            **options,
        )
        self.redis: Redis = Redis(connection_pool=self.pool)
        self._errors: tuple[type[Exception], ...] = (RedisError, OSError)
        self._answers = (ResponseError,)  # the server is there
        self._resume = 0.0
        self._turns = asyncio.Semaphore(_CONNECTIONS)
        self._getting = 0
        self._batch: dict[str, list[asyncio.Future[Result]]] | None = None
        parts = urlsplit(uri)
        self._attributes = {
            "db.system.name": "redis",
            "db.namespace": parts.path.strip("/") or "0",
            "server.address": parts.hostname or "localhost",
            "server.port": parts.port or 6379,
        }
        self._operations: dict[str, dict[str, Any]] = {}
        labels = ("cache", "level", "operation", "outcome")
        self.requests = registry.counter("cache_requests_total", "Cache operations.", labels)
        self.durations = registry.histogram(
            "cache_operation_duration_seconds", "Time per operation of the server.", ("cache", "operation"), _BUCKETS
        )

    def count(self, operation: str, outcome: str, amount: float = 1.0) -> None:
        self.requests.add(self.name, "redis", operation, outcome, amount=amount)

    def _span(self, operation: str) -> tracing.Span:
        attributes = self._operations.get(operation)
        if attributes is None:
            attributes = self._operations[operation] = {**self._attributes, "db.operation.name": operation}
        return tracing.span(operation, tracing.CLIENT, attributes)

    async def run(self, operation: str, call: Callable[[], Awaitable[Any]], *, late: bool = False) -> Result:
        """Do `call`, in a span of the name `operation`; (False, None) when it could not be done. `late`: though the
        request's time is over. ValueError for what does not suit the kind of value that is there."""
        started = time.monotonic()
        if started < self._resume:
            self.count(operation, "skipped")
            return False, None
        context = CURRENT.get()
        seconds = SECONDS
        if context is not None and context.deadline is not None and not late:
            seconds = min(SECONDS, context.deadline - started)
            if seconds <= 0:
                self.count(operation, "deadline")
                return False, None
        with self._span(operation) as span:
            try:
                async with asyncio.timeout(seconds), self._turns:
                    found = await call()
            except self._errors as error:
                span.fail(error)
                answered = isinstance(error, self._answers)
                if answered and any(text in str(error) for text in _MISUSE):
                    raise ValueError(f"cache {self.name}: {operation}: {error}") from error
                late = isinstance(error, TimeoutError) and seconds < SECONDS
                self._failed(operation, error, pause=not answered and not late)
                return False, None
        series = self.durations.child((self.name, operation))
        took = time.monotonic() - started
        series.counts[bisect_left(_BUCKETS, took)] += 1
        series.sum += took
        return True, found

    def _failed(self, operation: str, error: Exception, *, pause: bool) -> None:
        self.count(operation, "error")
        if pause:
            self._resume = time.monotonic() + _PAUSE_SECONDS
        log.warning("cache %s: %s: %s", self.name, operation, str(error) or f"no answer within {SECONDS:g} s")

    async def get(self, key: str) -> Result:
        """GET; together with others where there are others."""
        if self._getting == 0 and self._batch is None:
            self._getting += 1
            try:
                return await self.run("GET", lambda: self.redis.get(key))
            finally:
                self._getting -= 1
        loop = asyncio.get_running_loop()
        if self._batch is None:
            self._batch = {}
            loop.call_soon(self._send, context=contextvars.Context())  # no caller's deadline, nor its span
        future: asyncio.Future[Result] = loop.create_future()
        self._batch.setdefault(key, []).append(future)
        context = CURRENT.get()
        remaining = None if context is None else context.remaining()
        with self._span("GET"):
            try:
                async with asyncio.timeout(remaining) if remaining is not None else _NOTHING:
                    return await future
            except TimeoutError:
                self.count("GET", "deadline")
                return False, None

    def _send(self) -> None:
        batch, self._batch = self._batch or {}, None
        keys = list(batch)
        for start in range(0, len(keys), _BATCH):
            task = asyncio.ensure_future(self._get_all(keys[start : start + _BATCH], batch))
            _TASKS.add(task)
            task.add_done_callback(_TASKS.discard)

    async def _get_all(self, keys: list[str], batch: dict[str, list[asyncio.Future[Result]]]) -> None:
        self._getting += 1
        good, values = False, list[Any]()
        try:
            good, values = await self.run("MGET", lambda: self.redis.mget(keys))
        finally:
            self._getting -= 1
            for key, value in zip(keys, (values if good else None) or [None] * len(keys), strict=True):
                for future in batch[key]:
                    if not future.done():
                        future.set_result((good, value))

    async def get_many(self, keys: Iterable[str]) -> list[bytes | None]:
        wanted = list(keys)
        good, values = await self.run("MGET", lambda: self.redis.mget(wanted)) if wanted else (True, [])
        return list(values) if good else [None] * len(wanted)

    async def check(self) -> None:
        await self.redis.ping()
        self._resume = 0.0

    async def close(self) -> None:
        await self.redis.aclose()
        await self.pool.disconnect()


class _Nothing:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


_NOTHING: Final = _Nothing()
_TASKS: Final[set[asyncio.Task[None]]] = set()
