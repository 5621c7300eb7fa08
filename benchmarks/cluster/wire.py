"""The load's client: requests made beforehand, sent over TLS connections kept alive, answers counted and not decoded.

It costs some 20 us a request, so that what is measured is the server. Both sides get the very same bytes but for the
address and the credentials.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from sampan.kube import kubeconfig
from sampan.kube.https import tls_context


@dataclass
class Reply:
    """`body` is empty unless it was asked for; `size` is in bytes."""

    code: int
    size: int
    body: bytes


@dataclass
class Measured:
    """`rate` per second, `p99` in milliseconds."""

    rate: float
    p99: float


class Connection(asyncio.Protocol):
    """One connection, one request at a time; or one watch, whose events it counts."""

    def __init__(self) -> None:
        self.events = 0
        self.streaming = False
        self.keep = False
        self._size = 0
        self._kept: list[bytes] = []
        self._last = b""
        self._waiting: asyncio.Future[Reply] | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self.on_event: asyncio.Event | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self.streaming:
            # An event is one line of JSON; a line's last brace and its end may come in two pieces.
            self.events += data.count(b"}\n") + (data[:1] == b"\n" and self._last == b"}")
            self._last = data[-1:]
        elif self.keep:
            self._kept.append(data)

    def on_headers_complete(self) -> None:
        if self.streaming:
            self._answer()

    def on_message_complete(self) -> None:
        self._answer()

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Reply(self._parser.get_status_code(), self._size, b"".join(self._kept)))

    async def ask(self, request: bytes, *, keep: bool = False) -> Reply:
        self.keep, self._size, self._kept = keep, 0, []
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        self._transport.write(request)
        return await waiting

    def close(self) -> None:
        self._transport.abort()


class Wire:
    """Requests to one API server, with its administrator's credentials."""

    def __init__(self, config: Path) -> None:
        access = kubeconfig.load(config)
        address = urlsplit(access.server)
        self.host, self.port = str(address.hostname), int(address.port or 443)
        self.tls: ssl.SSLContext = tls_context(access)
        self.name = access.server_name
        authorization = access.authorization()
        self._head = f"Host: {self.host}:{self.port}\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
        if authorization:
            self._head += f"Authorization: {authorization}\r\n"

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> bytes:
        data = b"" if body is None else msgspec.json.encode(body)
        head = f"{method} {path} HTTP/1.1\r\n{self._head}"
        if body is not None:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(data)}\r\n"
        return f"{head}\r\n".encode() + data

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self.host, self.port, ssl=self.tls, server_hostname=self.name or self.host
        )
        return connection

    async def connections(self, count: int) -> list[Connection]:
        return [await self.connect() for _ in range(count)]


async def load(connections: Iterable[Connection], requests: list[bytes], code: int) -> Measured:
    """Send every request once, each connection one after another. Raises RuntimeError for an answer but `code`."""
    latencies: list[float] = []
    waiting = iter(requests)
    clock = time.perf_counter

    async def worker(connection: Connection) -> None:
        for request in waiting:
            began = clock()
            reply = await connection.ask(request)
            latencies.append(clock() - began)
            if reply.code != code:
                again = await connection.ask(request, keep=True)
                raise RuntimeError(f"{reply.code}, not {code}, for {request[:200]!r}: {again.body[:500]!r}")

    began = clock()
    await asyncio.gather(*(worker(connection) for connection in connections))
    return Measured(len(requests) / (clock() - began), 1000 * percentile(latencies))


def percentile(values: list[float], share: float = 0.99) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]
