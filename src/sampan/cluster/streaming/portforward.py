"""port-forward: pairs of SPDY streams (`data`, `error`), one pair per forwarded connection."""

from __future__ import annotations

import asyncio
import contextlib

from sampan.cluster.runtime import ByteStream, NodeRuntime
from sampan.cluster.streaming.spdy import SpdySession, SpdyStream
from sampan.cluster.streaming.websocket import WebSocket
from sampan.kube.errors import ApiError, bad_request

PROTOCOL = "portforward.k8s.io"
TUNNEL = "SPDY/3.1+portforward.k8s.io"
WEBSOCKET_PROTOCOLS = (TUNNEL, "v4.channel.k8s.io", "")
"""A client that offers none gets binary channels, as of upstream."""


def ports_of(texts: list[str]) -> list[int]:
    """The ports of a query, each of which may hold several. Raises ApiError 400."""
    words = [word.strip() for text in texts for word in text.split(",")]
    if bad := next((word for word in words if _port(word) is None), None):
        raise bad_request(f"unable to parse {bad!r} as a port: a port is a number from 1 to 65535")
    return [int(word) for word in words]


def _port(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return number if 0 < number < 1 << 16 else None


async def serve(session: SpdySession, runtime: NodeRuntime, namespace: str, pod: str) -> None:
    """Forward until the client hangs up."""
    pairs: dict[str, dict[str, SpdyStream]] = {}
    tasks: set[asyncio.Task[None]] = set()
    try:
        while (stream := await session.accepted.get()) is not None:
            number = stream.headers.get("requestid", str((stream.number - 1) // 4))
            pair = pairs.setdefault(number, {})
            pair[stream.headers.get("streamtype", "")] = stream
            if {"data", "error"} <= pair.keys():
                del pairs[number]
                task = asyncio.create_task(_forward(session, pair["data"], pair["error"], runtime, (namespace, pod)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
    finally:
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    session: SpdySession, data: SpdyStream, errors: SpdyStream, runtime: NodeRuntime, pod: tuple[str, str]
) -> None:
    with contextlib.suppress(OSError):
        try:
            port = _port(data.headers.get("port", ""))
            if port is None:
                await errors.write(b"the port header is missing, or no port")
            else:
                await _copy(data, await runtime.dial(*pod, port))
        except ApiError as error:
            await errors.write(f"error forwarding port to pod {pod[1]}: {error.message}".encode())
        await data.close()
        await errors.close()
    await session.forget(data, errors)


async def _copy(data: SpdyStream, connection: ByteStream) -> None:
    async def upload() -> None:
        with contextlib.suppress(OSError):
            while chunk := await data.read():
                await connection.write(chunk)
            await connection.write_eof()

    async def download() -> None:
        with contextlib.suppress(OSError):
            while chunk := await connection.read():
                await data.write(chunk)

    uploading = asyncio.create_task(upload())
    try:
        await download()
    finally:
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        await connection.close()


async def serve_channels(socket: WebSocket, ports: list[int], runtime: NodeRuntime, namespace: str, pod: str) -> None:
    """The older WebSocket form: channels 2i (data) and 2i+1 (error) for the i-th port of the query, each beginning
    with a message holding the port as two little-endian bytes."""
    connections: dict[int, ByteStream] = {}
    tasks: list[asyncio.Task[None]] = []

    async def download(channel: int, connection: ByteStream) -> None:
        with contextlib.suppress(OSError):
            while chunk := await connection.read():
                await socket.send(bytes([channel]) + chunk)
        await socket.close()

    try:
        for index, port in enumerate(ports):
            for channel in (2 * index, 2 * index + 1):
                await socket.send(bytes([channel]) + port.to_bytes(2, "little"))
            try:
                connections[2 * index] = await runtime.dial(namespace, pod, port)
                tasks.append(asyncio.create_task(download(2 * index, connections[2 * index])))
            except ApiError as error:
                await socket.send(bytes([2 * index + 1]) + error.message.encode())
        while (message := await socket.receive()) is not None:
            if message and message[0] in connections:
                await connections[message[0]].write(message[1:])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections.values():
            await connection.close()
