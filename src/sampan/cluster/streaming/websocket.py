"""A WebSocket connection, server's side, over a connection taken from the HTTP server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Mapping

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

MAX_MESSAGE = 16 * 1024 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class WebSocket:
    """Binary messages in both directions."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = Connection(ConnectionType.SERVER)
        self._lock = asyncio.Lock()
        self._messages: list[bytes] = []
        self._part = b""
        self._open = True

    async def accept(self, headers: Mapping[str, str], protocol: str) -> None:
        """Answer the handshake (RFC 6455, section 4.2.2); `protocol` may be "", for a client that offers none."""
        key = headers["sec-websocket-key"].strip().encode()
        proof = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Accept: {proof}"] + ([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else [])
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self._writer.drain()

    async def receive(self) -> bytes | None:
        """The next message; None once the client has closed or gone."""
        while not self._messages and self._open:
            try:
                data = await self._reader.read(1 << 16)
            except OSError:
                data = b""
            if not data:
                self._open = False
                break
            try:
                self._connection.receive_data(data)
                await self._handle()
            except (RemoteProtocolError, LocalProtocolError):
                self._open = False
        return self._messages.pop(0) if self._messages else None

    async def _handle(self) -> None:
        for event in self._connection.events():
            if isinstance(event, (BytesMessage, TextMessage)):
                self._part += event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
                if len(self._part) > MAX_MESSAGE:
                    raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE} bytes")
                if event.message_finished:
                    self._messages.append(self._part)
                    self._part = b""
            elif isinstance(event, Ping):
                await self._write(self._connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                with contextlib.suppress(LocalProtocolError, OSError):
                    await self._write(self._connection.send(event.response()))
                self._open = False

    async def send(self, data: bytes) -> None:
        async with self._lock:
            with contextlib.suppress(LocalProtocolError):  # after a close nothing more is owed
                await self._write(self._connection.send(BytesMessage(data=data)))

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self, code: int = 1000) -> None:
        """Close, and give the client a moment to close as well, so that it reads everything first."""
        with contextlib.suppress(LocalProtocolError, OSError):
            await self._write(self._connection.send(CloseConnection(code=code)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await self.receive() is not None:
                    pass
