"""Bytes to a server over TLS, and whatever it answers, read with no mercy for the server's faults."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.kubernetes.wire import Wire

PATIENCE = 20.0
"""Seconds within which every request is answered, however busy the machine."""
GLANCE = 0.05
"""Seconds spent on the body of an answer that has no end, such as a watch."""


class Broken(Exception):
    """The answer is no HTTP, or there is none; the text says which."""


@dataclass
class Answer:
    """`whole` is False for a stream that was left before its end."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    whole: bool = True


class Address:
    """Where the server of a kubeconfig is, and how to be its administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        wire = Wire(kubeconfig)
        self.host, self.port = wire.server.hostname or "127.0.0.1", wire.server.port or 443
        self.context: ssl.SSLContext = wire.context
        self.headers = tuple((k.encode(), v.encode()) for k, v in wire.headers.items() if k == "Authorization")

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            self.host, self.port, ssl=self.context, limit=1 << 20, ssl_handshake_timeout=PATIENCE
        )


class Peer:
    """One kept connection, made anew when the server closes it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, raw: bytes, *, head: bool = False, endless: bool = False) -> Answer:
        """Send one whole request. Raises Broken, TimeoutError when no answer comes."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            for attempt in (1, 2):
                fresh = self._writer is None
                if fresh:
                    self._reader, self._writer = await self.address.open()
                try:
                    answer = await self._exchange(raw, head=head, endless=endless)
                    break
                except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError) as error:
                    self.close()
                    # A kept connection may have been closed by the server just then; on a new one it must answer.
                    if fresh or attempt == 2:
                        raise Broken(f"no answer: {error!r}") from None
        answer.seconds = time.monotonic() - began
        if not answer.whole or "close" in answer.headers.get("connection", "").lower():
            self.close()
        return answer

    async def _exchange(self, raw: bytes, *, head: bool, endless: bool) -> Answer:
        assert self._reader is not None and self._writer is not None
        self._writer.write(raw)
        with contextlib.suppress(ConnectionError):  # it may have answered and closed before it read everything
            await self._writer.drain()
        return await read_answer(self._reader, head=head, endless=endless)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False, endless: bool = False) -> Answer:
    """Raises Broken for what is no HTTP answer, ConnectionError and IncompleteReadError for one cut short."""
    while True:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw[:-4].split("\r\n")
        version, _, rest = first.partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdigit():
            raise Broken(f"not an HTTP answer: {first[:80]!r}")
        code = int(rest[:3])
        if code != 100:
            break
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise Broken(f"not a header: {line[:80]!r}")
        headers[name.lower()] = value.strip()
    answer = Answer(code, headers)
    if head or code in {101, 204, 304}:
        answer.whole = code != 101
    elif headers.get("transfer-encoding") == "chunked":
        if endless:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GLANCE):
                    answer.body = await _chunked(reader)
                    return answer
            answer.whole = False
        else:
            answer.body = await _chunked(reader)
    else:
        answer.body = await reader.readexactly(int(headers["content-length"]))
    return answer


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(parts)
