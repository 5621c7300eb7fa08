"""SPDY/3.1, the server's half, as far as Kubernetes clients use it: streams opened by the client, no flow control.

Frames come from anywhere (a TCP connection, WebSocket messages) through `feed` and leave through the `send` given.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Awaitable, Callable

# fmt: off
_WORDS = (
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding",
    "accept-language", "accept-ranges", "age", "allow", "authorization", "cache-control", "connection", "content-base",
    "content-encoding", "content-language", "content-length", "content-location", "content-md5", "content-range",
    "content-type", "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "last-modified", "location", "max-forwards", "pragma",
    "proxy-authenticate", "proxy-authorization", "range", "referer", "retry-after", "server", "te", "trailer",
    "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning", "www-authenticate", "method", "get",
    "status", "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin",
)
# fmt: on
_CODES = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
_TEXT = (
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug "
    "Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack("!I", len(w)) + w.encode() for w in _WORDS) + (_CODES + _TEXT).encode()
"""The compression dictionary of the specification (section 2.6.10.1)."""

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN = 1
MAX_DATA = 1 << 16
MAX_HEADERS = 1 << 16
MAX_STREAMS = 2048
"""Open at once in one session; `kubectl port-forward` opens two for each connection."""
QUEUED = 64

Send = Callable[[bytes], Awaitable[None]]


class SpdyStream:
    """One stream. `read` gives b"" at its end."""

    def __init__(self, session: SpdySession, number: int, headers: dict[str, str]) -> None:
        self.number = number
        self.headers = headers
        self._session = session
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue(QUEUED)
        self._ended = False
        self._closed = False

    async def read(self) -> bytes:
        if self._ended and self._incoming.empty():
            return b""
        return await self._incoming.get()

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            await self._session.send_data(self.number, data[start : start + MAX_DATA])

    async def close(self) -> None:
        """Say that nothing more is coming."""
        if not self._closed:
            self._closed = True
            await self._session.send_data(self.number, b"", fin=True)

    async def take(self, data: bytes, fin: bool) -> None:
        if self._ended:
            return
        if data:
            await self._incoming.put(data)
        if fin:
            self.end()

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._incoming.empty():
                self._incoming.put_nowait(b"")  # wakes a reader


class SpdySession:
    """One connection. `accepted` holds the streams the client has opened, each already replied to; None at the end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = asyncio.Lock()
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._streams: dict[int, SpdyStream] = {}
        self.accepted: asyncio.Queue[SpdyStream | None] = asyncio.Queue()

    async def feed(self, data: bytes) -> None:
        """Bytes from the client. Raises ValueError for what is not SPDY."""
        self._buffer += data
        while len(self._buffer) >= 8:
            length = int.from_bytes(self._buffer[5:8], "big")
            if len(self._buffer) < 8 + length:
                return
            head, body = bytes(self._buffer[:8]), bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if head[0] & 0x80:
                await self._control(int.from_bytes(head[2:4], "big"), head[4], body)
            elif stream := self._streams.get(int.from_bytes(head[:4], "big")):
                await stream.take(body, bool(head[4] & FIN))

    def end(self) -> None:
        """The connection is gone."""
        for stream in self._streams.values():
            stream.end()
        self.accepted.put_nowait(None)

    async def _control(self, kind: int, flags: int, body: bytes) -> None:
        if kind == SYN_STREAM:
            number = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
            stream = SpdyStream(self, number, self._headers(body[10:]))
            if len(self._streams) >= MAX_STREAMS:
                raise ValueError(f"more than {MAX_STREAMS} SPDY streams at once")
            self._streams[number] = stream
            if flags & FIN:
                stream.end()
            await self._reply(number)
            self.accepted.put_nowait(stream)
        elif kind == PING:
            await self._control_frame(PING, body)
        elif kind == RST_STREAM:
            if stream_or_none := self._streams.pop(int.from_bytes(body[:4], "big"), None):
                stream_or_none.end()
        elif kind == HEADERS:
            self._headers(body[4:])  # keeps the decompressor in step

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            raw = self._inflate.decompress(block, MAX_HEADERS)
            if self._inflate.unconsumed_tail:
                raise ValueError(f"a SPDY header block of more than {MAX_HEADERS} bytes")
            (count,), offset = struct.unpack_from("!I", raw), 4
            words = []
            for _ in range(2 * count):
                (length,) = struct.unpack_from("!I", raw, offset)
                words.append(raw[offset + 4 : offset + 4 + length].decode())
                offset += 4 + length
        except (zlib.error, struct.error) as error:
            raise ValueError(f"bad SPDY header block: {error}") from error
        return {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=True)}

    async def _reply(self, number: int) -> None:
        async with self._lock:  # compression and sending must happen in the same order
            block = self._deflate.compress(struct.pack("!I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            await self._send(_control_head(SYN_REPLY, 4 + len(block)) + struct.pack("!I", number) + block)

    async def _control_frame(self, kind: int, body: bytes) -> None:
        async with self._lock:
            await self._send(_control_head(kind, len(body)) + body)

    async def send_data(self, number: int, data: bytes, fin: bool = False) -> None:
        async with self._lock:
            head = struct.pack("!I", number) + bytes([FIN if fin else 0]) + len(data).to_bytes(3, "big")
            await self._send(head + data)

    async def forget(self, *streams: SpdyStream) -> None:
        """Both sides are done with these."""
        for stream in streams:
            self._streams.pop(stream.number, None)


def _control_head(kind: int, length: int, flags: int = 0) -> bytes:
    return struct.pack("!HHB", 0x8003, kind, flags) + length.to_bytes(3, "big")
