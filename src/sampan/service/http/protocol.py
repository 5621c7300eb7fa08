"""HTTP/1.1 as our server speaks it: uvicorn's protocol over llhttp, made strict and bounded.

llhttp refuses by itself: Content-Length beside Transfer-Encoding, twice, or not a plain number; line ends and chunk
sizes that are not exactly so; folded lines; control characters. What it lets pass and another server in the chain may
read differently is refused here (RFC 9112): more or less than one Host; a coding other than `chunked`, or any in
HTTP/1.0; another protocol version; a fragment, or an authority that is not Host, in the target; an upgrade that
nobody makes, after which the connection ends. Trailers are dropped.

The limits cost a request a few assignments: what needs a clock is looked at once a second, for all connections.
"""

from __future__ import annotations

import contextlib
import http
import urllib.parse
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sampan.service.http.burst import Burst
from sampan.service.http.cycle import Cycle
from sampan.service.http.limits import Limits
from sampan.service.http.proxies import Proxies, scheme
from sampan.service.telemetry.metrics import Counter

IDLE, HEAD, BODY = 0, 1, 2  # what is expected next from the client

_SEEN: Final = frozenset({b"expect", b"content-length", b"transfer-encoding", b"x-forwarded-for", b"x-forwarded-proto"})
_default: list[Any] = [[], b""]  # uvicorn's default headers, and the lines of them


class Fault(Exception):
    """The request is refused by the protocol, with this status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Protocol(HttpToolsProtocol):
    """A connection. `limits`, `proxies`, `refused`, `tls` and `burst` are those of the server, set on a subclass of
    its own."""

    limits = Limits()
    proxies = Proxies(())
    refused: Counter | None = None
    tls: Any = None  # connection -> the ASGI TLS extension
    burst = Burst()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.phase, self.seconds, self.stalled, self.unsent = IDLE, 0, 0, 0
        self.head_bytes = self.body_bytes = self.drained = 0
        self.broken = False
        self.small = min(self.limits.url, self.limits.headers)  # a head up to this is within every limit
        self.peer = self.client[0] if self.client else ""
        self.proxied = self.proxies.trusts(self.peer)
        self.extensions = None
        if self.scheme == "https" and self.tls is not None:
            self.extensions = {"tls": self.tls(transport.get_extra_info("ssl_object"))}

    def default_lines(self) -> bytes:
        """The lines that uvicorn adds to every answer, made anew when it has made its headers anew, each second."""
        headers = self.server_state.default_headers
        if headers is not _default[0]:
            _default[:] = headers, b"".join(b"%b: %b\r\n" % header for header in headers)
        lines: bytes = _default[1]
        return lines

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        cycle: Any = self.cycle
        if cycle is not None:
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.wake()
        if self.flow is not None:
            self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # type: ignore[assignment]
        if cycle is not None and not cycle.response_complete:
            scope = cycle.scope
            limit = scope.get("sampan.limit")  # of a caller with a deadline: it ends now
            if limit is not None:
                scope["sampan.left"] = True
                with contextlib.suppress(RuntimeError):  # it is over already
                    limit.reschedule(0)

    def data_received(self, data: bytes) -> None:
        self.burst.flush()
        limits = self.limits
        if self.broken:
            self.drained += len(data)
            if self.drained > limits.drain:
                self.transport.abort()
            return
        self.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            return
        except httptools.HttpParserError as error:
            fault = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
            self.fail(fault if isinstance(fault, Fault) else Fault(400, "the request is not valid HTTP"))
            return
        if self.phase == IDLE:
            self.head_bytes = 0
        elif self.phase == BODY:
            if self.head_bytes > limits.headers + limits.url + 8 * self.body_bytes:
                self.fail(Fault(400, "the body is mostly framing"))  # trailers, or chunks of a byte
        elif len(self.url) > limits.url:
            self.fail(Fault(414, "the URL is too long"))
        elif self.head_bytes > limits.headers + limits.url:
            self.fail(Fault(431, "the headers are too large"))

    def on_message_begin(self) -> None:
        self.url, self.expect_100_continue, self.phase = b"", False, HEAD
        self.headers = []
        self.scope = {  # type: ignore[typeddict-item]
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "root_path": self.root_path,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "sampan.peer": self.peer,
        }
        self.seconds = self.hosts = self.body_bytes = self.length = 0
        self.host = self.transfer = self.forwarded_for = self.forwarded_proto = b""
        if self.extensions is not None:
            self.scope["extensions"] = self.extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == BODY:
            return  # a trailer: it comes too late to be judged, so nobody gets to see it
        name = name.lower()
        if name == b"host":
            self.hosts += 1
            self.host = value
        elif name in _SEEN:
            self._seen(name, value)
        self.headers.append((name, value))

    def _seen(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self.length = int(value)
        elif name == b"transfer-encoding":
            self.transfer = self.transfer + b"," + value if self.transfer else value
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"x-forwarded-for":
            self.forwarded_for = self.forwarded_for + b"," + value if self.forwarded_for else value
        else:
            self.forwarded_proto = value

    def on_headers_complete(self) -> None:
        parser, scope, limits = self.parser, self.scope, self.limits
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if (
            version != "1.1"
            or self.hosts != 1
            or self.transfer
            or self.head_bytes > self.small
            or len(self.headers) > limits.header_count
        ):
            self._judge(version)
        keep_alive = version == "1.1" and parser.should_keep_alive()
        if version != "1.1":
            scope["http_version"] = version
        if self.proxied and (self.forwarded_for or self.forwarded_proto):
            self._forwarded()
        self._target()
        if parser.should_upgrade():
            if self._should_upgrade():
                return
            if self.length or self.transfer:
                raise Fault(400, "an upgrade has no body")
            keep_alive = False  # what follows belongs to a protocol we do not speak
        self.phase, self.seconds, self.head_bytes = BODY, 0, 0
        cycle = Cycle(self, keep_alive)
        if self.length > limits.body:
            cycle.too_large = True
            scope["sampan.too_large"] = True  # type: ignore[typeddict-unknown-key]
        existing, self.cycle = self.cycle, cycle
        if existing is None or existing.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """As uvicorn's, but the request ends its entry in `tasks` itself, which saves a turn of the loop."""
        self.burst.coming += 1
        cycle.task = task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)

    def _judge(self, version: str) -> None:
        limits = self.limits
        if version not in ("1.1", "1.0"):
            raise Fault(505, "version 1.1 of HTTP is spoken here")
        if self.hosts != 1 and (self.hosts or version == "1.1"):
            raise Fault(400, "a request has one Host")
        if self.transfer and (version != "1.1" or self.transfer.lower() != b"chunked"):
            raise Fault(400 if version != "1.1" else 501, "the only transfer coding understood is chunked")
        if len(self.url) > limits.url:
            raise Fault(414, "the URL is too long")
        if len(self.headers) > limits.header_count or (
            self.head_bytes > limits.headers
            and sum(len(name) + len(value) + 4 for name, value in self.headers) > limits.headers
        ):
            raise Fault(431, "the headers are too large")

    def _target(self) -> None:
        """The path and query of the request line: origin form, absolute form of this very host, or `*`."""
        url, scope = self.url, self.scope
        if b"#" in url:
            raise Fault(400, "a request target has no fragment")
        if not url.startswith(b"/") and url != b"*":
            parsed = httptools.parse_url(url)
            authority = (parsed.host or b"") + (b":%d" % parsed.port if parsed.port else b"")
            if not parsed.schema or authority.lower() != self.host.lower():
                raise Fault(400, "the request target names another host")
            url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
        raw_path, _, query = url.partition(b"?")
        path = raw_path.decode("ascii")
        if "%" in path:
            path = urllib.parse.unquote(path)
        scope["path"], scope["raw_path"], scope["query_string"] = self.root_path + path, raw_path, query

    def _forwarded(self) -> None:
        if self.forwarded_proto and (found := scheme(self.forwarded_proto)):
            self.scope["scheme"] = found
        if self.forwarded_for and (client := self.proxies.client(self.forwarded_for.decode("latin-1"))):
            self.scope["client"] = client

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        self.body_bytes += len(body)
        if self.body_bytes > self.limits.body and not cycle.too_large:
            cycle.too_large = True
            cycle.body = b""
            cycle.wake()
        if cycle.too_large or cycle.response_complete:
            self.drained += len(body)
            if self.drained > self.limits.drain:
                self.broken = True
                self.transport.close()
            return
        if not cycle.body:
            cycle.body = body
        elif type(cycle.body) is bytearray:
            cycle.body += body
        else:
            cycle.body = bytearray(cycle.body + body)
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        self.phase = IDLE
        self.drained = 0
        cycle: Any = self.cycle
        if (self.parser.should_upgrade() and self._should_upgrade()) or cycle.response_complete:
            return
        cycle.more_body = False
        cycle.wake()

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each answer: `tick` ends connections that stay idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.phase == IDLE:
            self.seconds = 0

    def eof_received(self) -> None:
        """The connection is about to be closed: there is nothing more to read from it."""
        self.burst.flush()

    def shutdown(self) -> None:
        self.burst.flush()
        super().shutdown()

    def tick(self) -> None:
        """Once a second: what takes too long is ended."""
        self.burst.flush()
        limits = self.limits
        if self.broken or self.transport.is_closing():
            return
        if not self.flow.read_paused:
            self.seconds += 1
            if self.phase == HEAD and self.seconds > limits.head_seconds:
                self.fail(Fault(408, "the request did not arrive in time"))
            elif self.phase == BODY and self._too_slow():
                self.fail(Fault(408, "the body did not arrive in time"))
            elif (
                self.phase == IDLE
                and (self.cycle is None or self.cycle.response_complete)
                and self.seconds > self.timeout_keep_alive
            ):
                self.transport.close()
        if self.flow.write_paused:
            unsent = self.transport.get_write_buffer_size()
            self.stalled = self.stalled + 1 if unsent == self.unsent else 0
            self.unsent = unsent
            if self.stalled > limits.stalled_seconds:
                self._count("stalled")
                self.transport.abort()

    def _too_slow(self) -> bool:
        """Whether a body comes slower than it must; one we have not asked for yet does not."""
        limits = self.limits
        if not limits.body_rate or self.cycle.waiting_for_100_continue:
            self.seconds = 0
            return False
        return self.seconds > limits.body_seconds + self.body_bytes / limits.body_rate

    def fail(self, fault: Fault) -> None:
        """Refuse what is being received. What was asked before on this connection is answered first."""
        self.broken = True
        self._count(str(fault.status))
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(fault)
        elif self.phase != BODY:
            cycle.keep_alive = False
        elif cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            self._refuse(fault)
            cycle.disconnected = True
            cycle.wake()

    def _refuse(self, fault: Fault) -> None:
        body = b'{"error":"%b"}' % fault.reason.encode()
        head = b"HTTP/1.1 %d %b\r\n" % (fault.status, http.HTTPStatus(fault.status).phrase.encode())
        fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(head + fields + body)
        # closed at once, with data of the client's unread, the connection would be reset and the answer with it
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self.limits.linger_seconds, self.transport.close)

    def _count(self, reason: str) -> None:
        if self.refused is not None:
            self.refused.add(reason)
