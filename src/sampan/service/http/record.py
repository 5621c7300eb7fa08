"""What a request leaves behind, and how it is written: the line of the access log and the server span of OTLP.

Both are made off the path of the request. Names follow OpenTelemetry's semantic conventions for HTTP server spans.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

import msgspec

from sampan.service.telemetry import otlp
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.logs import Redactor, timestamp
from sampan.service.telemetry.otlp import attribute, field, text
from sampan.service.telemetry.tracing import Span as InnerSpan
from sampan.service.telemetry.tracing import redact


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


def severity(status: int) -> str:
    return "ERROR" if status >= 500 and status != 503 else "INFO"


@functools.lru_cache(maxsize=2048)
def _opening(method: str, route: str, status: int) -> tuple[bytes, bytes]:
    """What the lines of a route have alike, before the path in the message, and after it up to the path again."""
    level = _encode(severity(status))
    return (
        b'","severity":%b,"message":"%b ' % (level, method.encode()),
        b' %d","attributes":{"http.request.method":"%b","http.route":%b,"http.response.status_code":%d,"url.path":"'
        % (status, method.encode(), _encode(route), status),
    )


@functools.lru_cache(maxsize=2048)
def _peer(client: str, agent: str) -> bytes:
    return b',"client.address":%b,"user_agent.original":%b,"request_id":' % (_encode(client), _encode(agent))


@functools.lru_cache(maxsize=4)
def _closing(identity: tuple[tuple[str, str], ...]) -> bytes:
    return (
        b'","logger":"sampan.access"'
        + b"".join(b",%b:%b" % (_encode(key), _encode(value)) for key, value in identity)
        + b"}"
    )


def access_line(span: Span, identity: tuple[tuple[str, str], ...]) -> bytes:
    """A JSON object; `identity` are fields that every line bears. Put together by hand: half the time of an encoder."""
    context = span.context
    before, after = _opening(span.method, span.route, span.status)
    path = _encode(span.path)[1:-1]
    parts = [
        b'{"time":"',
        timestamp(span.start + span.duration).encode(),
        before,
        path,
        after,
        path,
        b'","duration_ms":%.3f' % (span.duration * 1000),
        _peer(span.client, span.agent),
        _encode(context.request_id),
    ]
    if span.error:
        parts.append(b',"error.type":%b' % _encode(span.error))
    if span.caller:
        parts.append(b',"enduser.id":%b' % _encode(span.caller))
    parts += (
        b'},"trace_id":"',
        context.trace_id.encode(),
        b'","span_id":"',
        context.span_id.encode(),
        _closing(identity),
    )
    return b"".join(parts)


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


def server_spans(spans: Iterable[Span], redactor: Redactor) -> list[bytes]:
    """A field `spans` of ScopeSpans for each, without the secrets that `redactor` knows."""
    chunks = [_server_span(span) for span in spans]
    if redactor.finds(b"".join(chunks)):
        for span in spans:
            _redact(span, redactor)
        chunks = [_server_span(span) for span in spans]
    return chunks


def _redact(span: Span, redactor: Redactor) -> None:
    clean = redactor.clean_text
    span.path, span.agent, span.route = clean(span.path), clean(span.agent), clean(span.route)
    span.host, span.caller = clean(span.host), clean(span.caller)
    if span.inner is not None:
        redact(span.inner, redactor)


@functools.lru_cache(maxsize=2048)
def _from(client: str, agent: str) -> bytes:
    return attribute(74, "client.address", client) + attribute(74, "user_agent.original", agent)


_PATH: Final = b"\x0a\x08url.path\x12"  # the key of an attribute, and the tag of its value


def _path(path: str) -> bytes:
    """The attribute url.path; there is no use in remembering it."""
    value = text(path)
    size = len(value)
    if size > 100:
        return field(74, _PATH[:-1] + field(18, field(10, value)))
    return b"J%c%b%c\n%c%b" % (size + 14, _PATH, size + 2, size, value)


def _server_span(span: Span) -> bytes:
    context = span.context
    start = int(span.start * 1e9)
    ids = f"0a10{context.trace_id}1208{context.span_id}"  # fields 1 and 2, and below 4, of 16 and 8 bytes
    parts = [bytes.fromhex(f"{ids}2208{context.parent_id}" if context.parent_id else ids)]
    if context.tracestate:
        parts.append(field(26, text(context.tracestate)))
    inner = span.inner
    error = span.error or (inner.error if inner is not None else "")
    parts += (
        _repeated(span.method, span.route, span.status, span.scheme, span.version, span.host, error),
        otlp.times(57, start, 65, start + int(span.duration * 1e9)),
        _path(span.path),
        _from(span.client, span.agent),
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
