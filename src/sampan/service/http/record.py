"""What a request leaves behind, and how it is written: the line of the access log and the server span of OTLP.

Both are made off the path of the request. Names follow OpenTelemetry's semantic conventions for HTTP server spans.
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from sampan.service.telemetry import otlp
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.logs import Redactor, timestamp
from sampan.service.telemetry.otlp import attribute, field, text
from sampan.service.telemetry.tracing import Span as InnerSpan


class Span(msgspec.Struct, gc=False):
    """One request served, or one connection of a websocket. Times in seconds; `host` is the Host header.

    `inner` holds what the application added through `tracing.current()` or OpenTelemetry's API.
    """

    context: Context
    method: str
    route: str
    path: str
    status: int
    start: float
    duration: float
    client: str
    agent: str
    error: str
    scheme: str
    version: str
    host: str
    caller: str = ""
    kept: bool = True  # whether it is exported
    inner: InnerSpan | None = None


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
        "caller": "enduser.id",
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
    caller: str = ""


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


def severity(status: int) -> str:
    return "ERROR" if status >= 500 and status != 503 else "INFO"


def access_line(span: Span, identity: dict[str, str]) -> bytes:
    context, status = span.context, span.status
    attributes = _Attributes(
        span.method,
        span.route,
        span.path,
        status,
        round(span.duration * 1000, 3),
        span.client,
        span.agent,
        context.request_id,
        span.error,
        span.caller,
    )
    return _encode(
        _Line(
            timestamp(span.start + span.duration),
            severity(status),
            f"{span.method} {span.path} {status}",
            attributes,
            context.trace_id,
            context.span_id,
            "sampan.access",
            **identity,
        )
    )


_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@functools.lru_cache(maxsize=2048)
def _repeated(  # noqa: PLR0917  # positional because the cache is quicker so
    method: str, route: str, status: int, scheme: str, version: str, host: str, error: str
) -> bytes:
    """What many requests have alike: name, kind, the attributes of low cardinality, and the status."""
    address, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not address or not port.isdigit():
        address, port = host, ""
    named = route if not route.startswith("(") else ""
    parts = [
        field(42, text(f"{method} {named}" if named else method)),
        b"\x30\x02",
        attribute(74, "http.request.method", method if method != "OTHER" else "_OTHER"),
        attribute(74, "url.scheme", scheme),
        attribute(74, "network.protocol.version", version),
    ]
    if status:
        parts.append(attribute(74, "http.response.status_code", status))
    if scheme in ("ws", "wss"):
        parts.append(attribute(74, "network.protocol.name", "websocket"))
    if named:
        parts.append(attribute(74, "http.route", route))
    if host:
        parts.append(attribute(74, "server.address", address.strip("[]")))
        parts.append(attribute(74, "server.port", int(port) if port else _PORTS.get(scheme, 80)))
    if error or status >= 500:
        parts += (attribute(74, "error.type", error or str(status)), otlp.ERROR)
    return b"".join(parts)


def server_span(span: Span, redactor: Redactor | None = None) -> bytes:
    """A field `spans` of ScopeSpans, without the secrets that `redactor` knows."""
    chunk = _server_span(span)
    if redactor is not None and redactor.finds(chunk):
        clean = redactor.clean_text
        span.path, span.agent, span.route = clean(span.path), clean(span.agent), clean(span.route)
        span.host, span.caller = clean(span.host), clean(span.caller)
        if span.inner is not None:
            inner = span.inner
            inner.attributes = {key: redactor.clean_value(item) for key, item in inner.attributes.items()}
            inner.name, inner.description = clean(inner.name), clean(inner.description)
            inner.events = [(at, clean(name), redactor.clean_value(given)) for at, name, given in inner.events]
        chunk = _server_span(span)
    return chunk


def _server_span(span: Span) -> bytes:
    context = span.context
    start = int(span.start * 1e9)
    parts = [b"\x0a\x10", bytes.fromhex(context.trace_id), b"\x12\x08", bytes.fromhex(context.span_id)]
    if context.tracestate:
        parts.append(field(26, text(context.tracestate)))
    if context.parent_id:
        parts += (b"\x22\x08", bytes.fromhex(context.parent_id))
    inner = span.inner
    error = span.error or (inner.error if inner is not None else "")
    parts += (
        _repeated(span.method, span.route, span.status, span.scheme, span.version, span.host, error),
        otlp.times(57, start, 65, start + int(span.duration * 1e9)),
        attribute(74, "url.path", span.path),
        attribute(74, "client.address", span.client),
        attribute(74, "user_agent.original", span.agent),
    )
    if span.caller:
        parts.append(attribute(74, "enduser.id", span.caller))
    if inner is not None:
        parts.append(_added(inner))
    if context.remote:
        parts.append(otlp.REMOTE_SAMPLED if context.sampled else otlp.REMOTE_NOT_SAMPLED)
    else:
        parts.append(otlp.SAMPLED if context.sampled else otlp.NOT_SAMPLED)
    body = b"".join(parts)
    return b"\x12" + otlp.varint(len(body)) + body


def _added(inner: InnerSpan) -> bytes:
    """What the application added. Of a field that is given twice the later counts, so that its name and status win."""
    parts = [otlp.attributes(74, inner.attributes), otlp.extras(inner)]
    if inner.name:
        parts.append(field(42, text(inner.name)))
    if inner.description:
        parts.append(field(122, field(18, text(inner.description))))
    if inner.ok and not inner.error:
        parts.append(otlp.OK)
    return b"".join(parts)
