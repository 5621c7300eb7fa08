"""A small HTTP/1.1 server over TLS: limits, time-outs, streaming answers, upgrades. Knows nothing of Kubernetes.

A handler gets an `HttpRequest` and either returns a `Response`, returns a `StreamResponse`, or calls `hijack()` and
speaks another protocol from there on. Whatever a client sends, it gets a whole HTTP answer or a closed connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

import httptools
from msgspec import Struct, field

MAX_BODY = 3 * 1024 * 1024
MAX_HEADERS = 64 * 1024
READ_SIZE = 1 << 20
BACKLOG = 1024
HEADER_TIMEOUT = 10.0
"""Seconds from a request's first byte to the end of its headers."""
BODY_TIMEOUT = 30.0
"""Seconds for a whole body."""
IDLE_TIMEOUT = 180.0
WRITE_TIMEOUT = 30.0
"""Seconds a client may leave our answer unread."""
EASY = 64 * 1024
"""Bytes not yet taken by the system for which nobody need wait."""
LINGER, LINGER_BYTES = 2.0, 16 * 1024 * 1024
"""How long, and how far, a refused request is read on."""

REASONS = {status.value: status.phrase for status in HTTPStatus}


class HttpError(Exception):
    """A request that never reaches the handler; answered with `code` and the connection closed."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Response(Struct):
    """A whole answer."""

    code: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)


class StreamResponse(Struct):
    """An answer whose body is not known yet: each chunk is sent at once. Ends when the iterator does."""

    chunks: AsyncIterator[bytes]
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)
    code: int = 200


class HttpRequest:
    """One request, body read in full. `headers` have lower-case names; repeated ones are joined with ", "."""

    __slots__ = (
        "_connection",
        "body",
        "extra",
        "headers",
        "hijacked",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_query",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.method = "GET"
        self.path = ""
        self.raw_query = ""
        self.query: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.body = b""
        self.keep_alive = True
        self.hijacked = False
        self.extra: dict[str, Any] = {}

    def values(self, name: str) -> list[str]:
        """Every value of a query parameter (`command` of exec is repeated)."""
        return [value for key, value in self.query if key == name]

    def value(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.query if key == name), default)

    @property
    def is_upgrade(self) -> bool:
        return "upgrade" in self.headers.get("connection", "").lower() and "upgrade" in self.headers

    @property
    def peer_certificate(self) -> dict[str, Any]:
        """The verified client certificate as `ssl.SSLSocket.getpeercert()` gives it; empty without one."""
        return self._connection.peer_certificate

    def hijack(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Take over the connection: nothing has been answered yet, not even `101`. What the client sent after the
        request's headers is in the reader. When the handler returns the connection is closed."""
        self.hijacked = True
        return self._connection.hand_over()


Handler = Callable[[HttpRequest], Awaitable["Response | StreamResponse | None"]]


class Connection:
    """One client connection: requests one after another; also the callbacks of the parser."""

    def __init__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.peer_certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
        self.busy = False
        self._rest = b""
        self._parser: Any = None
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._headers_done = False
        self._complete = False
        self._pipelined = False
        self._keep_alive = False
        self._method = "GET"
        self._fault: HttpError | None = None
        self._parser = httptools.HttpRequestParser(self)

    # -- parser callbacks: they note faults rather than raise, since the parser hides what is raised

    def on_message_begin(self) -> None:
        # A client that sends a second request before the first is answered gets that answer and a closed connection.
        self._pipelined = self._complete

    def on_url(self, url: bytes) -> None:
        if self._pipelined:
            return
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._pipelined:
            return
        self._count(len(name) + len(value) + 4)
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1").strip()))

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADERS:
            self._fault = HttpError(431, "the request's headers are too large")

    def on_headers_complete(self) -> None:
        if self._pipelined:
            return
        self._headers_done = True
        self._method = self._parser.get_method().decode("latin-1")
        headers = dict(self._headers)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > MAX_BODY:
            self._fault = HttpError(413, f"the request's body is larger than {MAX_BODY} bytes")
        elif "host" not in headers and self._parser.get_http_version() == "1.1":
            self._fault = HttpError(400, "missing required Host header")
        elif headers.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if self._pipelined:
            return
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY:
            self._fault = HttpError(413, f"the request's body is larger than {MAX_BODY} bytes")
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if not self._pipelined:
            self._complete = True
            self._keep_alive = bool(self._parser.should_keep_alive())

    # -- the life of a connection

    async def run(self) -> None:
        try:
            while not self.server.draining:
                request = await self._read_request()
                if request is None:
                    break
                self.busy = True
                keep = await self._answer(request)
                self.busy = False
                if not keep:
                    break
        except HttpError as error:
            with contextlib.suppress(Exception):
                await self._send(self.server.error_response(error.code, error.message), keep_alive=False)
                await self._linger()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, EOFError):
            pass
        finally:
            self.writer.close()

    async def _linger(self) -> None:
        """Read on for a moment: closing over unread bytes resets the connection, and the answer would be lost."""
        left = LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while left > 0 and (data := await self.reader.read(READ_SIZE)):
                    left -= len(data)

    async def _read_request(self) -> HttpRequest | None:
        """The next request; None when the client has gone or stays silent. Raises HttpError."""
        self._reset()
        loop = asyncio.get_running_loop()
        began: float | None = None
        while not self._complete:
            if self._rest:
                data, self._rest = self._rest, b""
            else:
                limit = IDLE_TIMEOUT
                if began is not None:
                    limit = began + (BODY_TIMEOUT if self._headers_done else HEADER_TIMEOUT) - loop.time()
                try:
                    async with asyncio.timeout(limit):
                        data = await self.reader.read(READ_SIZE)
                except TimeoutError:
                    if began is None:
                        return None
                    raise HttpError(408, "the request did not arrive in time") from None
                if not data:
                    return None
            began = began or loop.time()
            self._feed(data)
            if self._fault:
                raise self._fault
        return self._request()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = data[upgrade.args[0] :]
            self._complete = True
        except httptools.HttpParserError as error:
            if not self._fault:
                self._fault = HttpError(400, f"malformed HTTP request: {error}")

    def _request(self) -> HttpRequest:
        request = HttpRequest(self)
        request.method = self._method
        request.keep_alive = self._keep_alive and not self._pipelined
        for name, value in self._headers:
            request.headers[name] = f"{request.headers[name]}, {value}" if name in request.headers else value
        try:
            path, _, query = self._url.decode("ascii").partition("?")
            if path.startswith(("http://", "https://")):
                path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
            request.path = unquote(path, errors="strict")
            request.raw_query = query
            request.query = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=1000)
        except ValueError as error:
            raise HttpError(400, f"malformed request target: {error}") from None
        request.body = b"".join(self._body)
        return request

    def hand_over(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # The buffer was read empty, so what follows the headers is put back in its place in the stream.
        if self._rest:
            self.reader.feed_data(self._rest)
            self._rest = b""
        return self.reader, self.writer

    async def _answer(self, request: HttpRequest) -> bool:
        try:
            response = await self.server.handler(request)
        except Exception as error:
            if request.hijacked and isinstance(error, OSError):
                return False  # the other side went away
            self.server.on_error(error)
            response = self.server.error_response(500, "the request failed unexpectedly")
        if request.hijacked or response is None:
            return False
        keep = request.keep_alive and not self.server.draining and not self._rest
        head_only = request.method == "HEAD"
        if isinstance(response, StreamResponse):
            if head_only:
                await _close(response.chunks)
                await self._send(Response(response.code, b"", response.content_type), keep_alive=keep, head_only=True)
                return keep
            return await self._stream(response, keep)
        await self._send(response, keep_alive=keep, head_only=head_only)
        return keep

    @staticmethod
    def _head(code: int, content_type: str, headers: list[tuple[str, str]], keep_alive: bool, length: str) -> bytes:
        lines = [f"HTTP/1.1 {code} {REASONS.get(code, 'Status')}", f"Content-Type: {content_type}", length]
        lines += [f"{name}: {value}" for name, value in headers]
        if not keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")

    async def _send(self, response: Response, *, keep_alive: bool, head_only: bool = False) -> None:
        length = f"Content-Length: {len(response.body)}"
        head = self._head(response.code, response.content_type, response.headers, keep_alive, length)
        self.writer.write(head if head_only or response.code in {204, 304} else head + response.body)
        await self._drain()

    async def _drain(self) -> None:
        transport = self.writer.transport
        if transport.get_write_buffer_size() < EASY and not transport.is_closing():
            return  # as nearly always; the time-out alone costs more than the write
        async with asyncio.timeout(WRITE_TIMEOUT):
            await self.writer.drain()

    async def _stream(self, response: StreamResponse, keep: bool) -> bool:
        """Send chunks until the iterator ends or the client goes away, which only reading can tell."""
        # HTTP/1.0 has no chunks: there the end of the connection is the end of the answer.
        chunked = self._parser.get_http_version() != "1.0"
        keep = keep and chunked
        framing = "Transfer-Encoding: chunked" if chunked else "Cache-Control: no-store"
        self.writer.write(self._head(response.code, response.content_type, response.headers, keep, framing))
        sender = asyncio.ensure_future(self._send_chunks(response.chunks, chunked=chunked))
        watcher = asyncio.ensure_future(self.reader.read(READ_SIZE))
        self.server.streams.add(sender)
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if watcher.done():
                early = b"" if watcher.cancelled() or watcher.exception() else watcher.result()
                if not early:
                    return False
                self._rest += early
                await asyncio.wait({sender})
            await sender
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return False
        except (OSError, TimeoutError):
            return False
        except Exception as error:
            # Too late for a status: the missing last chunk tells the client that the answer is cut short.
            self.server.on_error(error)
            return False
        finally:
            self.server.streams.discard(sender)
            for task in (sender, watcher):
                task.cancel()
            await asyncio.gather(sender, watcher, return_exceptions=True)
        if watcher.done() and not watcher.cancelled() and not watcher.exception():
            self._rest = self._rest or watcher.result()
        return keep and not self._rest

    async def _send_chunks(self, chunks: AsyncIterator[bytes], *, chunked: bool) -> None:
        try:
            async for chunk in chunks:
                if chunk:
                    self.writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                    await self._drain()
        finally:
            await _close(chunks)
        if chunked:
            self.writer.write(b"0\r\n\r\n")
            await self._drain()


async def _close(chunks: AsyncIterator[bytes]) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


class HttpServer:
    """Listens, and runs `handler` for each request. `error_response(code, message)` words the server's own refusals;
    `on_error` is told of handlers that raised."""

    def __init__(
        self,
        handler: Handler,
        error_response: Callable[[int, str], Response],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.handler = handler
        self.error_response = error_response
        self.on_error = on_error
        self.draining = False
        self.streams: set[asyncio.Future[None]] = set()
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listen; the port taken. Raises OSError."""
        # A socket of our own: to bind one itself, the event loop imports how international names are written.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._server = await asyncio.start_server(
            self._connected,
            sock=listening,
            ssl=tls,
            limit=256 * 1024,
            backlog=BACKLOG,
            ssl_handshake_timeout=HEADER_TIMEOUT if tls else None,
            ssl_shutdown_timeout=1.0 if tls else None,
        )
        return int(self._server.sockets[0].getsockname()[1])

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        task = asyncio.ensure_future(connection.run())
        self._connections[task] = connection
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    async def stop(self, grace: float = 5.0) -> None:
        """Stop listening, end the streams, let requests under way finish for `grace` seconds."""
        self.draining = True
        if self._server:
            self._server.close()
        for stream in list(self.streams):
            stream.cancel()
        for task, connection in list(self._connections.items()):
            if not connection.busy:
                task.cancel()
        tasks = list(self._connections)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
