"""exec and attach: the channel protocols `v5.channel.k8s.io` and `v4.channel.k8s.io` over WebSocket or SPDY."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from sampan.cluster.runtime import ExecStreams
from sampan.cluster.streaming.spdy import SpdySession, SpdyStream
from sampan.cluster.streaming.websocket import WebSocket
from sampan.kube.errors import ApiError

WEBSOCKET_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v5.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CREATE_TIMEOUT = 30.0
SETTLE = 0.03
"""Seconds before anything is sent: kubectl 1.29 and 1.30 drop what arrives before they have set up their channels."""

Run = Callable[[ExecStreams], Awaitable[int]]


def success() -> dict[str, Any]:
    return {"metadata": {}, "status": "Success"}


def result(code: int) -> dict[str, Any]:
    """The `Status` that tells a client how its command ended."""
    if code == 0:
        return success()
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def _outcome(run: Run, streams: ExecStreams) -> bytes:
    try:
        status = result(await run(streams))
    except ApiError as error:
        status = error.status()
    return json.dumps(status).encode()


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        message = json.loads(data)
        return int(message["Width"]), int(message["Height"])
    except (ValueError, KeyError, TypeError):
        return None


class _WebSocketStreams:
    """`ExecStreams` over one WebSocket whose messages begin with a channel number."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue(64)
        self._sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    async def listen(self) -> None:
        """Until the client is gone."""
        while (message := await self._socket.receive()) is not None:
            if not message:
                continue
            channel, data = message[0], message[1:]
            if channel == STDIN and data:
                await self._stdin.put(data)
            elif channel == RESIZE and (size := _size(data)):
                self._sizes.put_nowait(size)
            elif channel == CLOSE and data[:1] == bytes([STDIN]):
                await self._stdin.put(b"")

    async def read_stdin(self) -> bytes:
        return await self._stdin.get()

    async def write_stdout(self, data: bytes) -> None:
        await self._socket.send(bytes([STDOUT]) + data)

    async def write_stderr(self, data: bytes) -> None:
        await self._socket.send(bytes([STDERR]) + data)

    async def read_resize(self) -> tuple[int, int]:
        return await self._sizes.get()


async def serve_websocket(socket: WebSocket, run: Run) -> None:
    """Run the command; a client that goes away ends it."""
    streams = _WebSocketStreams(socket)
    await asyncio.sleep(SETTLE)
    listening = asyncio.create_task(streams.listen())
    running = asyncio.create_task(_outcome(run, streams))
    try:
        await asyncio.wait([listening, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await socket.send(bytes([ERROR]) + running.result())
    finally:
        for task in (listening, running):
            task.cancel()
        await asyncio.gather(listening, running, return_exceptions=True)
    await socket.close()


class _SpdyStreams:
    """`ExecStreams` over the streams the client opened, by their `streamtype`."""

    def __init__(self, streams: dict[str, SpdyStream]) -> None:
        self._streams = streams
        self._resize = b""

    async def read_stdin(self) -> bytes:
        stream = self._streams.get("stdin")
        return await stream.read() if stream else b""

    async def write_stdout(self, data: bytes) -> None:
        if stream := self._streams.get("stdout"):
            await stream.write(data)

    async def write_stderr(self, data: bytes) -> None:
        if stream := self._streams.get("stderr"):
            await stream.write(data)

    async def read_resize(self) -> tuple[int, int]:
        stream = self._streams.get("resize")
        while stream is not None and (data := await stream.read()):
            if size := _size(data.splitlines()[-1]):
                return size
        await asyncio.Event().wait()  # no more sizes will come
        raise AssertionError


async def serve_spdy(session: SpdySession, expected: set[str], run: Run) -> None:
    """`expected`: the stream types the client opens (error, stdin, stdout, stderr, resize)."""
    streams: dict[str, SpdyStream] = {}
    async with asyncio.timeout(CREATE_TIMEOUT):
        while expected - streams.keys():
            stream = await session.accepted.get()
            if stream is None:
                return
            streams[stream.headers.get("streamtype", "")] = stream
    running = asyncio.create_task(_outcome(run, _SpdyStreams(streams)))
    gone = asyncio.create_task(session.accepted.get())
    try:
        await asyncio.wait([running, gone], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            with contextlib.suppress(OSError):
                await streams["error"].write(running.result())
                for stream in streams.values():
                    await stream.close()
                # The client hangs up when it has read all of it; closing first could cut it short.
                await asyncio.wait([gone], timeout=1)
    finally:
        for task in (running, gone):
            task.cancel()
        await asyncio.gather(running, gone, return_exceptions=True)
