"""Calls to another service under its policy: deadline, retries of what is safe, breaker, bulkhead, hedging, telemetry.

A call is a sequence of attempts. `send` takes a place in the bulkhead and keeps the deadline; `_sequence` decides what
is tried again; `_attempt` sends one request and is one span. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from typing import Any, Final, Protocol, Unpack

import aiohttp
from yarl import URL

from sampan.model import Policy
from sampan.model.bound import CallOptions
from sampan.service.http.pool import Pool
from sampan.service.http.reply import (
    BROKEN,
    CallError,
    CircuitOpen,
    DeadlineExceeded,
    HttpReply,
    StreamedReply,
    TooManyCalls,
    encode,
)
from sampan.service.resilience.breaker import CircuitBreaker
from sampan.service.resilience.budget import RetryBudget
from sampan.service.resilience.bulkhead import Bulkhead, BulkheadFull
from sampan.service.resilience.hedge import first_good
from sampan.service.resilience.limit import Timers
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, TIMEOUT_MS, outgoing_headers
from sampan.service.telemetry.metrics import Registry

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
OVERLOADED: Final = "x-envoy-overloaded"  # a 503 that says so is no failure of the callee: it protects itself
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_IDEMPOTENT: Final = _SAFE | {"PUT", "DELETE", "TRACE"}
_UNHEALTHY: Final = frozenset({502, 503, 504})  # a 500 is the verdict on one request, not on the service
_MOST_URLS: Final = 512
_NOT_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class Endpoints(Protocol):
    """Where the instances of a callee are (see `service/discovery`); a retry asks again and gets another."""

    def pick(self, tried: Collection[str] = ()) -> str:
        """The base URL to call next, none of `tried` where there is another. LookupError when no instance is known."""
        ...

    def report(self, url: str, ok: bool | None) -> bool | None:
        """How a call to what `pick` gave went, once for each pick. None is no verdict.

        True: the failure is that instance's alone, others are well, so that it says nothing of the callee.
        """
        ...


class _Call:
    """What stays the same over the attempts of one call. `deadline` is on the monotonic clock."""

    __slots__ = ("body", "cut", "deadline", "headers", "method", "params", "path", "safe", "sent", "stream", "tried")

    method: str
    path: str
    params: Mapping[str, Any] | None
    body: bytes | str | None
    headers: dict[str, str]
    safe: bool
    deadline: float
    cut: bool  # whether the deadline is that of the request being served
    sent: int  # attempts so far
    stream: contextlib.AsyncExitStack | None  # what keeps a streamed reply open
    tried: tuple[str, ...]  # instances it was sent to


class _Failed(Exception):
    """An attempt without a reply: the error to raise, what it is called, whether it may be tried again."""

    def __init__(self, error: CallError, reason: str, again: bool) -> None:
        super().__init__(reason)
        self.error, self.reason, self.again = error, reason, again


Reply = HttpReply | StreamedReply
Replying = Coroutine[Any, Any, HttpReply]


class HttpClient:
    """Implements `model.bound.ServiceClient` for one callee. `tls` is asked for the context of every https call,
    `token` for the Authorization to pass on where the policy says so."""

    def __init__(
        self,
        name: str,
        url: str,
        pool: Pool,
        registry: Registry,
        policy: Policy | None = None,
        *,
        endpoints: Endpoints | None = None,
        tls: Callable[[], ssl.SSLContext | None] | None = None,
        token: Callable[[], str | None] | None = None,
    ) -> None:
        self.name, self.url, self.pool = name, url.rstrip("/"), pool
        self.policy = policy = policy or Policy()
        self.endpoints, self.tls, self.token = endpoints, tls, token
        self.timers = Timers()
        self.bulkhead = Bulkhead(policy.concurrency, policy.waiting)
        self.budget = RetryBudget(policy.retry_budget, policy.retry_minimum)
        self.breaker = None if policy.breaker is None else CircuitBreaker(policy.breaker, self._breaker_changed)
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, str, str], tuple[URL, dict[str, tracing.Value]]] = {}
        counter, gauge = registry.counter, registry.gauge
        self.requests = counter("client_requests_total", "Attempts to call services.", ("service", "method", "status"))
        self.retries = counter("client_retries_total", "Calls that were repeated.", ("service", "reason"))
        self.exhausted = counter("client_budget_exhausted_total", "Retries that the budget refused.", ("service",))
        self.hedges = counter("client_hedges_total", "Calls sent a second time early.", ("service", "outcome"))
        self.rejected = counter("client_bulkhead_rejected_total", "Calls that found no place.", ("service", "reason"))
        self.durations = registry.histogram("client_request_duration_seconds", "Time per attempt.", ("service",))
        self.active = gauge("client_requests_active", "Calls to services in flight.", ("service",))
        self.state = gauge("client_breaker_state", "0 closed, 1 half-open, 2 open.", ("service",))
        self.opened = counter("client_breaker_opened_total", "Times a breaker opened.", ("service",))
        self.state.set(0, name)
        self.active.set(0, name)
        registry.before.append(lambda: self.active.set(self.bulkhead.active, name))

    def get(self, path: str, **options: Unpack[CallOptions]) -> Replying:
        return self.send("GET", path, **options)

    def post(self, path: str, **options: Unpack[CallOptions]) -> Replying:
        return self.send("POST", path, **options)

    def put(self, path: str, **options: Unpack[CallOptions]) -> Replying:
        return self.send("PUT", path, **options)

    def patch(self, path: str, **options: Unpack[CallOptions]) -> Replying:
        return self.send("PATCH", path, **options)

    def delete(self, path: str, **options: Unpack[CallOptions]) -> Replying:
        return self.send("DELETE", path, **options)

    def request(self, method: str, path: str, **options: Unpack[CallOptions]) -> Replying:
        """`send`, under the name of the protocol."""
        return self.send(method, path, **options)

    async def send(self, method: str, path: str, **options: Unpack[CallOptions]) -> HttpReply:
        """The reply, whatever its status. CallError when there is none: CircuitOpen, TooManyCalls, DeadlineExceeded,
        no connection. A call never takes longer than what the request being served has left.
        """
        call = self._call(method, path, **options)
        if not self.bulkhead.enter():
            await self._place(call)
        try:
            if self.policy.hedge is None or method not in _SAFE:
                reply = await self._sequence(call)
            else:
                reply = await first_good(
                    lambda number: self._sequence(call) if number == 0 else self._hedge(call),
                    self.policy.hedge,
                    self.policy.hedges,
                    lambda reply: reply.status not in self.policy.retry_on,
                    lambda outcome: self.hedges.add(self.name, outcome),
                )
        finally:
            self.bulkhead.leave()
        assert isinstance(reply, HttpReply)
        return reply

    @contextlib.asynccontextmanager
    async def stream(self, method: str, path: str, **options: Unpack[CallOptions]) -> AsyncIterator[StreamedReply]:
        """`async with client.stream("GET", "/export") as reply: async for part in reply: ...`

        Until its headers have come the reply is waited for, and tried again, like any other; its body may then take as
        long as the request being served has left. Takes a place in the bulkhead to its end.
        """
        call = self._call(method, path, **options)
        if not self.bulkhead.enter():
            await self._place(call)
        try:
            async with contextlib.AsyncExitStack() as stack:
                call.stream = stack
                reply = await self._sequence(call)
                assert isinstance(reply, StreamedReply)
                context = CURRENT.get()
                limit = asyncio.timeout(None if context is None else context.remaining())
                try:
                    async with limit:
                        yield reply
                except TimeoutError as error:
                    if limit.expired():
                        raise DeadlineExceeded(self.name, "the deadline passed within the body") from error
                    raise
        finally:
            self.bulkhead.leave()

    def _call(
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
    ) -> _Call:
        call = _Call()
        call.method, call.path, call.params, call.body = method, path, params, data
        call.sent, call.stream, call.tried = 0, None, ()
        call.headers = sending = dict(headers) if headers else {}
        if json is not None:
            call.body = encode(json)
            sending.setdefault("content-type", "application/json")
        if idempotency_key is not None:
            sending[IDEMPOTENCY_KEY] = idempotency_key
        if self.policy.forward_token and self.token is not None and (token := self.token()):
            sending.setdefault("authorization", token)
        call.safe = method in _IDEMPOTENT or idempotency_key is not None
        call.deadline = time.monotonic() + (self.policy.timeout if timeout is None else timeout)
        context = CURRENT.get()
        call.cut = context is not None and context.deadline is not None and context.deadline < call.deadline
        if call.cut:
            assert context is not None and context.deadline is not None
            call.deadline = context.deadline
        return call

    async def _place(self, call: _Call) -> None:
        """Wait for a place in the bulkhead."""
        try:
            await self.bulkhead.wait(max(0.0, call.deadline - time.monotonic()))
        except BulkheadFull:
            self.rejected.add(self.name, "full")
            raise TooManyCalls(
                self.name, f"{self.policy.concurrency} calls are in flight and {self.policy.waiting} wait"
            ) from None
        except TimeoutError:
            self.rejected.add(self.name, "timeout")
            raise DeadlineExceeded(self.name, "no place for it before its deadline") from None

    async def _sequence(self, call: _Call) -> Reply:
        """Attempts until one is good, none is left, or the next would come too late."""
        policy, attempt = self.policy, 0
        self.budget.called()
        while True:
            reply: Reply | None = None
            error: CallError | None = None
            least = 0.0
            try:
                reply = await self._attempt(call)
                if reply.status not in policy.retry_on:
                    return reply
                reason, again = str(reply.status), call.safe
                least = _retry_after(reply.headers)
                again = again and (least > 0 or OVERLOADED not in reply.headers)
            except _Failed as failure:
                error, reason, again = failure.error, failure.reason, failure.again
            wait = max(least, min(policy.backoff_most, policy.backoff * 2.0**attempt) * random.uniform(0.5, 1.5))
            again = again and attempt < policy.retries and time.monotonic() + wait < call.deadline
            if again and not self.budget.take():
                self.exhausted.add(self.name)
                again = False
            if not again:
                if reply is None:
                    assert error is not None
                    raise error
                return reply
            if call.stream is not None:
                await call.stream.aclose()
            attempt += 1
            self.retries.add(self.name, reason)
            await asyncio.sleep(wait)

    async def _hedge(self, call: _Call) -> Reply | None:
        """One more attempt beside the first; None when the budget refuses it."""
        if not self.budget.take():
            self.exhausted.add(self.name)
            return None
        try:
            return await self._attempt(call)
        except _Failed as failure:
            raise failure.error from failure

    async def _attempt(self, call: _Call) -> Reply:
        """One request and its reply. _Failed when there is none, CircuitOpen, DeadlineExceeded."""
        policy, method, breaker = self.policy, call.method, self.breaker
        left = call.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(self.name, "no time left")
        base = self.url if self.endpoints is None else self._pick(self.endpoints, call)
        if breaker is not None and not breaker.allow():
            if self.endpoints is not None:
                self.endpoints.report(base, None)
            self.requests.add(self.name, method, "open")
            raise CircuitOpen(self.name, "the circuit is open after repeated failures")
        limit = left if policy.attempt_timeout is None else min(left, policy.attempt_timeout)
        # a time-out says something about the callee only if it had most of the time that its policy gives
        verdict = not call.cut or limit >= min(policy.timeout, policy.attempt_timeout or policy.timeout) / 2
        started, status, good = time.perf_counter(), "cancelled", None
        resent, call.sent = call.sent, call.sent + 1
        try:
            url, attributes = self._urls.get((base, call.path, method)) or self._url(base, call.path, method)
            with tracing.span(method, tracing.CLIENT, attributes) as span:
                if resent:
                    span.attributes["http.request.resend_count"] = resent
                headers = outgoing_headers(span.context)
                headers[TIMEOUT_MS] = str(int(left * 1000) or 1)
                if call.headers:
                    headers.update(call.headers)
                with self.timers.limit(limit):
                    response = await self._opened().request(
                        method,
                        url,
                        data=call.body,
                        params=call.params,
                        headers=headers,
                        allow_redirects=False,
                        server_hostname=None if base is self.url else self.name,  # an instance shows its service's name
                        ssl=(self.tls() or True) if self.tls is not None else True,
                    )
                    if call.stream is None:
                        reply: Reply = HttpReply(response.status, response.headers, await response.read())
                    else:
                        call.stream.callback(response.close)
                        reply = StreamedReply(self.name, response)
                number = reply.status
                status = str(number)
                span.attributes["http.response.status_code"] = number
                if number >= 400:
                    span.fail(status)
                good = number not in _UNHEALTHY or OVERLOADED in reply.headers
                return reply
        except _NOT_SENT as error:
            status, good = "error", False
            raise _Failed(CallError(self.name, f"no connection: {error}"), "connect", True) from error
        except TimeoutError as error:
            status, good = "timeout", False if verdict else None
            raise _Failed(DeadlineExceeded(self.name, f"no reply within {limit:.3g} s"), status, call.safe) from error
        except aiohttp.InvalidURL as error:
            raise CallError(self.name, f"{call.path!r} makes no URL: {error}") from error
        except BROKEN as error:
            status, good = "error", False
            words = f"the connection broke: {type(error).__name__}: {error}"
            raise _Failed(CallError(self.name, words), "broken", call.safe) from error
        finally:
            self._learnt(base, good)
            self.requests.add(self.name, method, status)
            self.durations.observe(time.perf_counter() - started, self.name)

    def _opened(self) -> aiohttp.ClientSession:
        session = self._session
        if session is None or session.closed:
            session = self._session = self.pool.open(self.policy.connections, self.policy.connect_timeout)
        return session

    def _learnt(self, base: str, good: bool | None) -> None:
        """Tell breaker and endpoints how an attempt went; None is no verdict."""
        breaker = self.breaker
        alone = self.endpoints is not None and self.endpoints.report(base, good)
        if breaker is not None:
            breaker.settle(None if alone else good)

    def _pick(self, endpoints: Endpoints, call: _Call) -> str:
        """Where the next attempt goes: to an instance that has had none, if there is one."""
        try:
            base = endpoints.pick(call.tried)
            call.tried = (*call.tried, base)
            return base
        except LookupError as error:
            if self.breaker is not None:
                self.breaker.abandoned()
            self.requests.add(self.name, call.method, "unknown")
            raise _Failed(CallError(self.name, f"no instance is known: {error}"), "unknown", True) from error

    def _url(self, base: str, path: str, method: str) -> tuple[URL, dict[str, tracing.Value]]:
        """The URL, and the attributes of spans to it; the latest are kept."""
        try:
            url = URL(base + path)
            host, port = url.host or "", url.port or 0
        except ValueError as error:
            raise CallError(self.name, f"{base + path!r} is no URL: {error}") from error
        attributes: dict[str, tracing.Value] = {
            "http.request.method": method,
            "server.address": host,
            "server.port": port,
            "url.full": str(url.with_query(None).with_user(None)),
            "service.peer.name": self.name,
        }
        if len(self._urls) >= _MOST_URLS:
            del self._urls[next(iter(self._urls))]
        made = self._urls[base, path, method] = (url, attributes)
        return made

    def _breaker_changed(self, state: int) -> None:
        self.state.set(state, self.name)
        if state == 2:
            self.opened.add(self.name)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds a callee asks to wait; 0 when it does not say, or says it with a date."""
    value = headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
