"""The one ASGI middleware: trace context, deadline, server span, RED metrics and access log in a single pass.

What a request leaves behind is one record (`record.Span`); it is turned into text later, off the request path.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from sampan.service.http.errors import InvalidResponse
from sampan.service.http.fastapi import Telemetry
from sampan.service.http.ready import Ready
from sampan.service.http.record import Span, access_line, server_spans
from sampan.service.http.refusal import Message, Receive, Refusal, Scope, Send, refuse, refuse_socket
from sampan.service.http.routes import Routes, watch_django
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import (
    ALL,
    B3,
    B3_FLAGS,
    B3_SAMPLED,
    B3_SPAN,
    B3_TRACE,
    BAGGAGE,
    CURRENT,
    REQUEST_ID,
    SAMPLER,
    TIMEOUT_MS,
    TRACEPARENT,
    TRACESTATE,
    Context,
    arrived,
    new_ids,
    new_span_id,
    parse_timeout,
    passed_on,
)
from sampan.service.telemetry.logs import Output
from sampan.service.telemetry.metrics import MAX_SERIES, Labels, Registry, Series

if TYPE_CHECKING:
    from sampan.service.telemetry.export import Exporter

log = logging.getLogger("sampan.http")

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]
Endpoint = Callable[[Scope], Awaitable[tuple[int, str, bytes]]]  # -> status, content type, body

_READ: Final = (TRACEPARENT, TRACESTATE, BAGGAGE, REQUEST_ID, TIMEOUT_MS, B3, B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS)
_WANTED: Final = {name.encode(): name for name in (*_READ, "user-agent", "host")}
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
_REFUSED: Final = "(refused)"  # the path label of what a guard refused, before any route was looked for
_FLUSH_SECONDS: Final = 0.05
_FLUSH_COUNT: Final = 16  # records written in one go: some 60 us, a fraction of a request
_CLIENT_LEFT: Final = 499  # the client left before there was an answer


class Guard(Protocol):
    """Decides before the application runs, and hears of the end. What one `enter` refused, it does not `leave`.

    `enter` answers at once where it can and returns an awaitable where it must ask somebody. It may put what it found
    into `scope` (the caller: `scope["sampan.caller"]`). It is asked of websockets, too (their `method` is GET).
    """

    def enter(self, scope: Scope, context: Context) -> Refusal | Awaitable[Refusal | None] | None: ...

    def leave(self, scope: Scope, context: Context, status: int, seconds: float) -> None: ...


def leave_nothing(self: Any, scope: Scope, context: Context, status: int, seconds: float) -> None:
    """`leave` of a guard that has nothing to do at the end: it is not called."""


class Middleware:
    """Wraps the user's `app`; `endpoints` (path -> handler) answer in front of it and are neither traced nor logged."""

    def __init__(
        self,
        app: App,
        registry: Registry,
        output: Output | None = None,
        identity: dict[str, str] | None = None,
        endpoints: dict[str, Endpoint] | None = None,
    ) -> None:
        self.app, self.output = app, output
        self.identity = tuple((identity or {}).items())
        self.endpoints = endpoints or {}
        self.guards = ()
        self.receivers: tuple[Callable[[Scope, Receive], Receive], ...] = ()  # wrap `receive` of requests with a body
        self.response_headers: tuple[tuple[bytes, bytes], ...] = ()  # added to responses that have not set them
        self.exporter: Exporter | None = None  # of server spans
        self.draining = False
        self.active = registry.gauge("http_requests_active", "Requests being served.")
        self.requests = registry.counter("http_requests_total", "Requests served.", ("method", "path", "status"))
        self.durations = registry.histogram(
            "http_request_duration_seconds", "Time from request to end of response.", ("method", "path")
        )
        self.sockets = registry.counter("websocket_connections_total", "Websockets ended.", ("path", "status"))
        self.open_sockets = registry.gauge("websocket_connections_active", "Websockets open.")
        self.routes = Routes(app)
        self._ready: tuple[Headers, Ready] | None = None
        self.spans: deque[Span] = deque(maxlen=512)  # the latest written, to look at
        self._known: dict[tuple[str, str], tuple[Series, dict[int, Labels]]] = {}  # what a route's requests have alike
        self._pending: list[Span] = []
        self._timed: asyncio.AbstractEventLoop | None = None  # on which a timer runs that will flush
        self._in_flight = 0
        self._quiet: bool | None = None
        watch_django()

    @property
    def guards(self) -> tuple[Guard, ...]:
        return self._guards

    @guards.setter
    def guards(self, guards: tuple[Guard, ...]) -> None:
        self._guards = guards
        self._enters = tuple(guard.enter for guard in guards)
        self._leaves = tuple(
            (number, guard.leave) for number, guard in enumerate(guards) if type(guard).leave is not leave_nothing
        )

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await self._socket(scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        endpoint = self.endpoints.get(scope["path"])
        if endpoint is not None and scope["method"] in ("GET", "HEAD"):
            await self._answer(endpoint, scope, send)
            return

        started, clock = time.time(), time.perf_counter()
        context, agent, host = self._context(scope)
        CURRENT.set(context)
        if self._quiet or (self._quiet is None and self._decide_quiet()):
            scope["fastapi.telemetry"] = None
        status, error = 0, ""
        held: list[Message] = []  # the start of a 500, until it is known whether an exception deserves another answer

        async def sending(message: Message) -> None:
            nonlocal status
            if held:
                held.append(message)
                if len(held) == 2:
                    return
                for kept in held[:-1]:
                    await send(kept)
                held.clear()
            elif message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(scope, message, context.request_id.encode("latin-1"))
                if status == 500:
                    held.append(message)
                    return
            await send(message)

        self._in_flight += 1
        entered = 0
        try:
            for enter in self._enters:
                refusal = enter(scope, context)
                if refusal is not None and not isinstance(refusal, Refusal):
                    refusal = await refusal
                if refusal is not None:
                    scope["sampan.refused"] = True
                    await refuse(refusal, sending)
                    for kept in held:
                        await send(kept)
                    return
                entered += 1
            if self.receivers:
                for wrap in self.receivers:
                    receive = wrap(scope, receive)
            if context.deadline is None:
                await self.app(scope, receive, sending)
            else:
                # a caller that says how long it waits is one that does not want the work once it is gone
                async with asyncio.timeout(context.remaining()) as limit:
                    scope["sampan.limit"] = limit
                    await self.app(scope, receive, sending)
            for kept in held:
                await send(kept)
        except Exception as failure:
            if "sampan.left" in scope and type(failure) is TimeoutError:
                error = "cancelled"
                return
            if isinstance(failure, InvalidResponse):
                status = 0  # nothing of what it said was sent
            late = type(failure) is TimeoutError and context.overdue()
            answer = 504 if late else getattr(failure, "http_status", 500)
            unsent = not status or (bool(held) and answer != 500)
            if unsent:
                held.clear()
            for kept in held:
                await send(kept)
            held.clear()
            error = await self._failed(failure, answer, sending if unsent else None)
            for kept in held:  # a 500 of our own
                await send(kept)
        except BaseException:
            error = "cancelled"
            raise
        finally:
            self._in_flight -= 1
            seconds = time.perf_counter() - clock
            status = status or _CLIENT_LEFT
            for number, leave in self._leaves:
                if number < entered:
                    leave(scope, context, status, seconds)
            self._account(scope, context, (agent, host), status, (started, seconds), error)

    def _add_headers(self, scope: Scope, message: Message, request_id: bytes) -> None:
        """Add the request id, and `response_headers` save those that the application has set itself."""
        ready = self._ready
        if ready is None or ready[0] is not self.response_headers:
            ready = self._ready = self.response_headers, Ready(self.response_headers)
        if "sampan.peer" in scope:  # our own protocol writes them as they are
            message["sampan.head"], message["sampan.line"] = ready[1], b"x-request-id: %b\r\n" % request_id
            if self.draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            return
        headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
        present = {name.lower() for name, _ in headers}
        headers += [header for header in self.response_headers if header[0] not in present]
        if self.draining:
            headers.append((b"connection", b"close"))
        message["headers"] = headers

    def _decide_quiet(self) -> bool:
        """Whether FastAPI's own OpenTelemetry is to be silent, which would make every span twice: unless the
        application has a TracerProvider of its own, and so wants it."""
        trace = sys.modules.get("opentelemetry.trace")
        provider = getattr(trace, "_TRACER_PROVIDER", None)
        self._quiet = provider is None or type(provider).__module__.startswith("sampan.")
        Telemetry.wanted |= not self._quiet
        return self._quiet

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A connection is one span; 101 is the status of one that was accepted, 403 of one that was not."""
        started, clock = time.time(), time.perf_counter()
        context, agent, host = self._context(scope)
        CURRENT.set(context)
        scope["method"] = "GET"  # for the guards; applications know a websocket by its having none
        if self._quiet or (self._quiet is None and self._decide_quiet()):
            scope["fastapi.telemetry"] = None
        status, error, entered = 0, "", 0

        async def sending(message: Message) -> None:
            nonlocal status
            if not status:
                kind = message["type"]
                if kind == "websocket.accept":
                    status = 101
                    message["headers"] = headers = [*message.get("headers", ())]
                    headers.append((b"x-request-id", context.request_id.encode("latin-1")))
                else:
                    status = message.get("status", 403)
            await send(message)

        self.open_sockets.add()
        try:
            for enter in self._enters:
                refusal = enter(scope, context)
                if refusal is not None and not isinstance(refusal, Refusal):
                    refusal = await refusal
                if refusal is not None:
                    scope["sampan.refused"] = True
                    await refuse_socket(scope, refusal, receive, sending)
                    return
                entered += 1
            del scope["method"]
            await self.app(scope, receive, sending)
        except Exception as failure:
            error = type(failure).__name__
            status = status or 500
            raise
        finally:
            self.open_sockets.add(amount=-1)
            scope["method"] = "GET"
            seconds, status = time.perf_counter() - clock, status or _CLIENT_LEFT
            for number, leave in self._leaves:
                if number < entered:
                    leave(scope, context, status, seconds)
            route = self._route(scope, status)
            self.sockets.add(route, _STATUS[status])
            self._record(self._span(scope, context, (agent, host), ("GET", route), (status, error), (started, seconds)))

    def _account(  # noqa: PLR0917
        self,
        scope: Scope,
        context: Context,
        peer: tuple[str, str],
        status: int,
        times: tuple[float, float],
        error: str,
    ) -> None:
        """Counter, histogram and record of one request; `peer` is agent and host, `times` start and duration."""
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = self._route(scope, status)
        # what Counter.add and Histogram.observe do, without their calls
        known = self._known.get((method, route))
        if known is None:
            known = self.durations.child((method, route)), {}
            if len(self._known) < MAX_SERIES:
                self._known[method, route] = known
        series, keys = known
        key = keys.get(status)
        if key is None or key not in self.requests.values:
            key = keys[status] = (method, route, _STATUS.get(status) or str(status))
            self.requests.add(*key)
        else:
            self.requests.values[key] += 1
        bucket = bisect_left(self.durations.buckets, times[1])
        series.counts[bucket] += 1
        series.sum += times[1]
        if context.sampled:
            series.exemplars[bucket] = (context.trace_id, times[1], times[0])
        self._record(self._span(scope, context, peer, (method, route), (status, error), times))

    def _route(self, scope: Scope, status: int) -> str:
        return _REFUSED if "sampan.refused" in scope else self.routes.of(scope, status)

    def _span(  # noqa: PLR0917
        self,
        scope: Scope,
        context: Context,
        peer: tuple[str, str],
        named: tuple[str, str],
        end: tuple[int, str],
        times: tuple[float, float],
    ) -> Span:
        client, caller = scope.get("client"), scope.get("sampan.caller")
        inner, context.span, context.joined = context.span, None, None  # no cycle for the collector of garbage
        kept = context.sampled
        if context.held is not None:
            kept = self._settle(context, end[0] >= 500, times[1])
        return Span(
            context,
            *named,
            scope["path"],
            end[0],
            *times,
            client[0] if client else "",
            peer[0],
            end[1],
            scope.get("scheme", "http"),
            scope.get("http_version", "1.1"),
            peer[1],
            getattr(caller, "subject", "") if caller is not None else "",
            kept,
            inner,
        )

    def _settle(self, context: Context, failed: bool, seconds: float) -> bool:
        """Whether a request whose trace is not sampled is kept, and with it what happened below it."""
        held, context.held = context.held or [], None
        kept = SAMPLER.worth_keeping(failed, seconds)
        if kept:
            for span in held:
                tracing.emit(span)
        held.clear()  # children that go on share the list
        return kept

    def _context(self, scope: Scope) -> tuple[Context, str, str]:
        """What travels with the request, and its headers User-Agent and Host."""
        found: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in _WANTED:
                key = _WANTED[name]
                found[key] = f"{found[key]},{value.decode('latin-1')}" if key in found else value.decode("latin-1")
        agent, host = found.pop("user-agent", ""), found.pop("host", "")
        if not found:
            trace, own = new_ids()
            context = Context(trace, own, "", SAMPLER.bound == ALL or SAMPLER.sampled(trace, None), "", "", trace)
        else:
            trace, parent, sampled = arrived(found)
            request_id = found.get(REQUEST_ID, "")
            if not request_id or len(request_id) > 128 or not request_id.isprintable():
                request_id = trace
            context = Context(
                trace,
                new_span_id(),
                parent,
                sampled,
                *passed_on(found, parent),
                request_id,
                parse_timeout(found[TIMEOUT_MS]) if TIMEOUT_MS in found else None,
            )
            context.remote = bool(parent)
        if not context.sampled and SAMPLER.keep:
            context.hold()
        return context, agent, host

    async def _failed(self, failure: Exception, status: int, sending: Send | None) -> str:
        """Log `failure`, and answer it if nothing has been sent. What it is called in span and log."""
        if status == 500:
            log.error("request failed: %s", failure, exc_info=failure)
        else:
            log.warning("request not served: %s", failure or "deadline exceeded")
        if sending is not None:
            body = msgspec.json.encode({"error": _ANSWERS.get(status, "internal server error")})
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            if status == 503:
                headers.append((b"retry-after", b"1"))
            await sending({"type": "http.response.start", "status": status, "headers": headers})
            await sending({"type": "http.response.body", "body": body})
        return type(failure).__name__

    async def _answer(self, endpoint: Endpoint, scope: Scope, send: Send) -> None:
        status, kind, body = await endpoint(scope)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _record(self, span: Span) -> None:
        pending = self._pending
        pending.append(span)
        count = len(pending)
        if count == 1:  # to know the running loop is a call of the system; it is told once for all of them
            loop = asyncio.get_running_loop()
            if self._timed is not loop:
                self._timed = loop
                loop.call_later(_FLUSH_SECONDS, self._time_over)
        elif count >= _FLUSH_COUNT:
            self.flush()

    def _time_over(self) -> None:
        self._timed = None
        self.flush()

    def flush(self) -> None:
        """Write the access log of what was served since the last flush, and hand its spans to the exporter."""
        spans, self._pending = self._pending, []
        if not spans:
            return
        self.spans.extend(spans)
        if self.output is not None:
            self.output.write([access_line(span, self.identity) for span in spans])
        exporter = self.exporter
        if exporter is not None:
            kept = [span for span in spans if span.kept]
            room = exporter.room()
            if len(kept) > room:  # what would be dropped is not encoded first
                exporter.drop("queue_full", len(kept) - room)
                kept = kept[:room]
            exporter.offer_all(server_spans(kept, exporter.redactor))

    def exposed(self) -> None:
        """Bring gauges up to date before an exposition."""
        self.active.set(self._in_flight)


_ANSWERS: Final = {503: "a service or store this request needs is not available", 504: "deadline exceeded"}
_STATUS: Final = {code: str(code) for code in range(100, 600)}
