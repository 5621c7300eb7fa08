"""Calls to another service: deadline, retries of what is safe, circuit breaker, trace context, metrics."""

from __future__ import annotations

import asyncio
import json as json_module
import random
import time
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from sampan.service.resilience.breaker import Breaker
from sampan.service.telemetry.context import CURRENT, TIMEOUT_MS, outgoing_headers
from sampan.service.telemetry.metrics import Registry

T = TypeVar("T")

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_RETRIED: Final = frozenset({502, 503, 504})
_TIMEOUT: Final = 10.0
_ATTEMPTS: Final = 4
_FIRST_WAIT, _LONGEST_WAIT = 0.025, 1.0
_CONNECTIONS: Final = 100


class CallError(Exception):
    """A call that brought no reply. `service` and `reason` say which and why; uncaught in a request it is a 503."""

    http_status = 503

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"call to service {service!r} failed: {reason}")
        self.service, self.reason = service, reason


class CircuitOpen(CallError):
    """The breaker of this service is open; nothing was sent."""


class DeadlineExceeded(CallError, TimeoutError):
    """The deadline passed before a reply came; uncaught in a request it is a 504."""

    http_status = 504


class HttpReply:
    """Implements `model.bound.Reply`. `headers` look names up without regard to case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self) -> str:
        return f"<reply {self.status}, {len(self.body)} bytes>"

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def decode(self, type: type[T]) -> T:
        """The body as `type`; msgspec.ValidationError when it does not fit."""
        validate = getattr(type, "model_validate_json", None)
        if validate is not None:
            model: T = validate(self.body)
            return model
        return msgspec.json.decode(self.body, type=type)


class Pool:
    """The one connection pool of a process, opened on first use."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # keep-alive shorter than that of the servers, so that a connection is not reused as it is being closed
            connector = aiohttp.TCPConnector(
                limit=0, limit_per_host=_CONNECTIONS, keepalive_timeout=15, ttl_dns_cache=5
            )
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True
            )
        return self._session

    async def start(self) -> None: ...

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def close(self) -> None:
        await self.stop()


class HttpClient:
    """Implements `model.bound.ServiceClient`."""

    def __init__(self, name: str, url: str, pool: Pool, registry: Registry, breaker: Breaker | None = None) -> None:
        self.name, self.url, self.pool = name, url.rstrip("/"), pool
        self.breaker = breaker or Breaker()
        self.requests = registry.counter("client_requests_total", "Calls to services.", ("service", "method", "status"))
        self.retries = registry.counter("client_retries_total", "Calls that were repeated.", ("service", "reason"))
        self.durations = registry.histogram("client_request_duration_seconds", "Time per attempt.", ("service",))
        self.state = registry.gauge("client_breaker_state", "0 closed, 1 half-open, 2 open.", ("service",))
        self.state.set(0, name)

    async def get(self, path: str, **options: Any) -> HttpReply:
        return await self.send("GET", path, **options)

    async def post(self, path: str, **options: Any) -> HttpReply:
        return await self.send("POST", path, **options)

    async def put(self, path: str, **options: Any) -> HttpReply:
        return await self.send("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> HttpReply:
        return await self.send("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> HttpReply:
        return await self.send("DELETE", path, **options)

    async def request(self, method: str, path: str, **options: Any) -> HttpReply:
        """`send`, under the name of the protocol."""
        return await self.send(method, path, **options)

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: bytes | str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> HttpReply:
        """The reply, whatever its status. CallError when there is none: CircuitOpen, DeadlineExceeded, no connection.

        `timeout` (10 s) covers all attempts and never exceeds what the request being served has left.
        """
        context = CURRENT.get()
        limit = _TIMEOUT if timeout is None else timeout
        remaining = context.remaining() if context is not None else None
        deadline = time.monotonic() + (limit if remaining is None else min(limit, remaining))
        sending = dict(headers or {})
        if json is not None:
            data = _encode(json)
            sending.setdefault("content-type", "application/json")
        if idempotency_key is not None:
            sending[IDEMPOTENCY_KEY] = idempotency_key
        safe = method in _IDEMPOTENT or idempotency_key is not None
        attempt = 0
        while True:
            attempt += 1
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(self.name, "no time left")
            if not self.breaker.allow():
                self.requests.add(self.name, method, "open")
                raise CircuitOpen(self.name, "the circuit is open after repeated failures")
            failure: CallError
            reply: HttpReply | None = None
            try:
                reply = await self._once(method, path, data, params, sending, left=left)
            except aiohttp.ClientConnectorError as error:  # nothing was sent
                failure, again, reason = CallError(self.name, f"no connection: {error}"), True, "connect"
            except TimeoutError:
                failure, again, reason = DeadlineExceeded(self.name, f"no reply within {limit:g} s"), False, "timeout"
            except (aiohttp.ClientError, OSError) as error:
                failure, again, reason = CallError(self.name, f"{type(error).__name__}: {error}"), safe, "broken"
            else:
                if reply.status not in _RETRIED:
                    return reply
                failure, again, reason = CallError(self.name, str(reply.status)), safe, str(reply.status)
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt) * random.random()
            if not again or attempt >= _ATTEMPTS or time.monotonic() + wait >= deadline:
                if reply is not None:
                    return reply
                raise failure
            self.retries.add(self.name, reason)
            await asyncio.sleep(wait)

    async def _once(
        self,
        method: str,
        path: str,
        data: bytes | str | None,
        params: Mapping[str, Any] | None,
        headers: dict[str, str],
        *,
        left: float,
    ) -> HttpReply:
        context = CURRENT.get()
        span = context.child() if context is not None else None
        started, status = time.perf_counter(), "error"
        try:
            async with self.pool.session().request(
                method,
                self.url + path,
                data=data,
                params=params,
                headers={**headers, **outgoing_headers(span), TIMEOUT_MS: str(max(1, int(left * 1000)))},
                timeout=aiohttp.ClientTimeout(total=left),
                allow_redirects=False,
            ) as response:
                reply = HttpReply(response.status, response.headers, await response.read())
            status = str(reply.status)
            if reply.status in _RETRIED:  # a 500 is the verdict on one request, not on the service
                self.breaker.failed()
            else:
                self.breaker.succeeded()
            return reply
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.breaker.failed()
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        finally:
            self.state.set(self.breaker.number, self.name)
            self.requests.add(self.name, method, status)
            self.durations.observe(time.perf_counter() - started, self.name)


def _encode(value: Any) -> bytes:
    dump = getattr(value, "model_dump_json", None)
    if dump is not None:
        encoded: bytes = dump().encode()
        return encoded
    try:
        return msgspec.json.encode(value)
    except TypeError:
        return json_module.dumps(value).encode()
