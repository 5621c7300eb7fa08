"""The one ASGI middleware: trace context, deadline, server span, RED metrics and access log in a single pass.

What a request leaves behind is one tuple (`Span`); it is turned into text later, off the request path.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from sampan.service.telemetry.context import (
    B3,
    B3_SAMPLED,
    B3_SPAN,
    B3_TRACE,
    BAGGAGE,
    CURRENT,
    REQUEST_ID,
    TIMEOUT_MS,
    TRACEPARENT,
    TRACESTATE,
    Context,
    new_span_id,
    new_trace_id,
    parse_b3,
    parse_timeout,
    parse_traceparent,
)
from sampan.service.telemetry.logs import Output, timestamp
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.http")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Endpoint = Callable[[Scope], Awaitable[tuple[int, str, bytes]]]  # -> status, content type, body

_READ: Final = (TRACEPARENT, TRACESTATE, BAGGAGE, REQUEST_ID, TIMEOUT_MS, B3, B3_TRACE, B3_SPAN, B3_SAMPLED)
_WANTED: Final = {name.encode(): name for name in (*_READ, "user-agent")}
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
_IDENTIFIER: Final = re.compile(r"/(?:\d+|[0-9a-fA-F-]{8,}|[^/]{40,})(?=/|$)")
_MAX_PATHS: Final = 200  # different path labels of an application without route templates
_FLUSH_SECONDS: Final = 0.05
_FLUSH_COUNT: Final = 512


class Span(NamedTuple):
    """One request served. Times in seconds."""

    context: Context
    method: str
    route: str
    path: str
    status: int
    start: float
    duration: float
    client: str
    user_agent: str
    error: str


class Refusal(NamedTuple):
    """What a guard answers in place of the application: a JSON body and further headers."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard(Protocol):
    """Decides before the application runs, and hears of the end. What one `enter` refused, it does not `leave`.

    `enter` answers at once where it can and returns an awaitable where it must ask somebody. It may put what it found
    into `scope` (the caller: `scope["sampan.caller"]`).
    """

    def enter(self, scope: Scope, context: Context) -> Refusal | Awaitable[Refusal | None] | None: ...

    def leave(self, scope: Scope, context: Context, status: int, seconds: float) -> None: ...


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
        self.identity = identity or {}
        self.endpoints = endpoints or {}
        self.guards: tuple[Guard, ...] = ()
        self.receivers: tuple[Callable[[Scope, Receive], Receive], ...] = ()  # wrap `receive` of requests with a body
        self.response_headers: tuple[tuple[bytes, bytes], ...] = ()  # added to every response
        self.draining = False
        self.active = registry.gauge("http_requests_active", "Requests being served.")
        self.active.set(0)
        self.requests = registry.counter("http_requests_total", "Requests served.", ("method", "path", "status"))
        self.durations = registry.histogram(
            "http_request_duration_seconds", "Time from request to end of response.", ("method", "path")
        )
        self.spans: deque[Span] = deque(maxlen=2048)  # the latest, for exporters
        self._pending: list[Span] = []
        self._in_flight = 0
        self._paths: set[str] = set()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                CURRENT.set(self._context(scope)[0])
            await self.app(scope, receive, send)
            return
        endpoint = self.endpoints.get(scope["path"])
        if endpoint is not None and scope["method"] in ("GET", "HEAD"):
            await self._answer(endpoint, scope, send)
            return

        started, clock = time.time(), time.perf_counter()
        context, agent = self._context(scope)
        CURRENT.set(context)
        status, error = 0, ""
        request_id = (b"x-request-id", context.request_id.encode("latin-1"))

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
                headers = [*message.get("headers", ()), request_id, *self.response_headers]
                if self.draining:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
                if status == 500:
                    held.append(message)
                    return
            await send(message)

        self._in_flight += 1
        entered = 0
        try:
            for guard in self.guards:
                refusal = guard.enter(scope, context)
                if refusal is not None and not isinstance(refusal, Refusal):
                    refusal = await refusal
                if refusal is not None:
                    await _refuse(refusal, sending)
                    return
                entered += 1
            for wrap in self.receivers:
                receive = wrap(scope, receive)
            if context.deadline is None:
                await self.app(scope, receive, sending)
            else:
                async with asyncio.timeout(context.remaining()):
                    await self.app(scope, receive, sending)
            for kept in held:
                await send(kept)
        except Exception as failure:
            overdue = context.deadline is not None and context.deadline <= time.monotonic()
            answer = 504 if overdue and type(failure) is TimeoutError else getattr(failure, "http_status", 500)
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
            for guard in self.guards[:entered]:
                guard.leave(scope, context, status or 499, seconds)
            # 499: the client left before there was an answer
            self._account(scope, context, agent, status or 499, (started, seconds), error)

    def _account(  # noqa: PLR0917
        self, scope: Scope, context: Context, agent: str, status: int, times: tuple[float, float], error: str
    ) -> None:
        """Counter, histogram and span of one request; `times` are its start and duration."""
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = self._route(scope, status)
        # what Counter.add and Histogram.observe do, without their calls
        key = (method, route, _STATUS.get(status) or str(status))
        values = self.requests.values
        values[key] = values.get(key, 0.0) + 1
        series = self.durations.child((method, route))
        series[bisect_left(self.durations.buckets, times[1])] += 1
        series[-1] += times[1]
        client = scope.get("client")
        self._record(
            Span(context, method, route, scope["path"], status, *times, client[0] if client else "", agent, error)
        )

    def _context(self, scope: Scope) -> tuple[Context, str]:
        found: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in _WANTED:
                found[_WANTED[name]] = value.decode("latin-1")
        if not found:
            trace = new_trace_id()
            return Context(trace, new_span_id(), request_id=trace), ""
        parsed = parse_traceparent(found[TRACEPARENT]) if TRACEPARENT in found else None
        if parsed is None and (B3 in found or B3_TRACE in found):
            parsed = parse_b3(found)
        trace, parent, sampled = parsed or (new_trace_id(), "", True)
        request_id = found.get(REQUEST_ID, "")
        if not request_id or len(request_id) > 128 or not request_id.isprintable():
            request_id = trace
        return (
            Context(
                trace,
                new_span_id(),
                parent,
                sampled,
                found.get(TRACESTATE, "") if parsed else "",
                found.get(BAGGAGE, ""),
                request_id,
                parse_timeout(found[TIMEOUT_MS]) if TIMEOUT_MS in found else None,
            ),
            found.get("user-agent", ""),
        )

    def _route(self, scope: Scope, status: int) -> str:
        """The route template; where the application names none, the path with identifiers replaced, limited."""
        route = scope.get("route")
        template: str | None = getattr(route, "path", None) if route is not None else None
        if template is not None:
            mounted = scope.get("root_path", "")
            return mounted + template if mounted and mounted != scope.get("app_root_path", mounted) else template
        if status == 404:
            return "(unmatched)"
        path = _IDENTIFIER.sub("/{id}", scope["path"])
        if path not in self._paths:
            if len(self._paths) >= _MAX_PATHS:
                return "(other)"
            self._paths.add(path)
        return path

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
        if len(pending) == 1:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        elif len(pending) >= _FLUSH_COUNT:
            self.flush()

    def flush(self) -> None:
        """Write the access log of what was served since the last flush."""
        spans, self._pending = self._pending, []
        if not spans:
            return
        self.spans.extend(spans)
        if self.output is not None:
            for span in spans:
                self.output.later(access_line(span, self.identity))
            self.output.flush()

    def exposed(self) -> None:
        """Bring gauges up to date before an exposition."""
        self.active.set(self._in_flight)


async def _refuse(refusal: Refusal, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(refusal.body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": [*headers, *refusal.headers]})
    await send({"type": "http.response.body", "body": refusal.body})


_ANSWERS: Final = {503: "a service or store this request needs is not available", 504: "deadline exceeded"}
_STATUS: Final = {code: str(code) for code in range(100, 600)}
_encode = msgspec.json.Encoder().encode


class _Attributes(
    msgspec.Struct,
    omit_defaults=True,
    gc=False,
    rename={
        "method": "http.request.method",
        "route": "http.route",
        "path": "url.path",
        "status": "http.response.status_code",
        "client": "client.address",
        "user_agent": "user_agent.original",
        "error": "error.type",
    },
):
    method: str
    route: str
    path: str
    status: int
    duration_ms: float
    client: str
    user_agent: str
    request_id: str
    error: str = ""


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """A line of the access log; the last fields are those of `process.identity`."""

    time: str
    severity: str
    message: str
    attributes: _Attributes
    trace_id: str
    span_id: str
    logger: str
    service: str = ""
    version: str = ""
    pod: str = ""


def access_line(span: Span, identity: dict[str, str]) -> bytes:
    context, status = span.context, span.status
    attributes = _Attributes(
        span.method,
        span.route,
        span.path,
        status,
        round(span.duration * 1000, 3),
        span.client,
        span.user_agent,
        context.request_id,
        span.error,
    )
    return _encode(
        _Line(
            timestamp(span.start + span.duration),
            "ERROR" if status >= 500 and status != 503 else "INFO",
            f"{span.method} {span.path} {status}",
            attributes,
            context.trace_id,
            context.span_id,
            "sampan.access",
            **identity,
        )
    )
