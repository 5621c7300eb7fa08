"""Messages between the cluster, the zygote and the supervisors: a length, JSON, and file descriptors beside it."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")


def send(sock: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one message; blocks until the kernel has it. Raises OSError when the other side is gone."""
    body = json.dumps(message).encode()
    data = _LENGTH.pack(len(body)) + body
    sent = socket.send_fds(sock, [data], fds or [])
    if sent < len(data):
        sock.sendall(data[sent:])


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors; None at end of stream. Blocks."""
    header, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, 8)
    if not header:
        return None
    header += _exactly(sock, _LENGTH.size - len(header))
    body = _exactly(sock, _LENGTH.unpack(header)[0])
    return json.loads(body), fds


def _exactly(sock: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = sock.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("the stream ended inside a message")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
