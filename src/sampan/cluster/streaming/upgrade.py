"""The door: which protocol a client asks for, and who serves it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from sampan.cluster.runtime import ExecRequest, ExecStreams, NodeRuntime
from sampan.cluster.streaming import portforward, remotecommand
from sampan.cluster.streaming.spdy import SpdySession
from sampan.cluster.streaming.websocket import WebSocket
from sampan.kube.errors import ApiError, bad_request


class UpgradeRequest(Protocol):
    """What is needed of an HTTP request."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def values(self, name: str) -> list[str]: ...

    def hijack(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]: ...


async def serve_upgrade(
    request: UpgradeRequest, subresource: str, namespace: str, pod: str, runtime: NodeRuntime
) -> None:
    """Serve `exec`, `attach` or `portforward` until it ends; the caller closes the connection. Raises ApiError, before
    the connection is taken over, when no protocol is shared."""
    upgrade = request.headers.get("upgrade", "").lower()
    if upgrade == "websocket":
        await _websocket(request, subresource, namespace, pod, runtime)
    elif upgrade == "spdy/3.1":
        await _spdy(request, subresource, namespace, pod, runtime)
    else:
        raise bad_request("Upgrade request required")


def exec_request(request: UpgradeRequest) -> ExecRequest:
    def flag(name: str) -> bool:
        return (request.values(name) or ["false"])[-1].lower() in ("true", "1")

    tty = flag("tty")
    return ExecRequest(
        container=next(iter(request.values("container")), "") or None,
        command=tuple(request.values("command")),
        stdin=flag("stdin"),
        stdout=flag("stdout"),
        stderr=flag("stderr") and not tty,
        tty=tty,
    )


def _runner(
    subresource: str, asked: ExecRequest, namespace: str, pod: str, runtime: NodeRuntime
) -> Callable[[ExecStreams], Awaitable[int]]:
    if subresource == "exec" and (not asked.command or any("\0" in word for word in asked.command)):
        raise bad_request("you must specify at least 1 command for the container, without NUL characters")

    async def run(streams: ExecStreams) -> int:
        if subresource == "exec":
            return await runtime.exec(namespace, pod, asked, streams)
        await runtime.attach(namespace, pod, asked, streams)
        return 0  # how the container ended is in its status, not in the session's

    return run


def _offered(request: UpgradeRequest, header: str) -> list[str]:
    return [word.strip() for word in request.headers.get(header, "").split(",") if word.strip()]


async def _websocket(request: UpgradeRequest, subresource: str, namespace: str, pod: str, runtime: NodeRuntime) -> None:
    offered = _offered(request, "sec-websocket-protocol")
    forwarding = subresource == "portforward"
    supported = portforward.WEBSOCKET_PROTOCOLS if forwarding else remotecommand.WEBSOCKET_PROTOCOLS
    protocol = next((p for p in offered or [""] if p in supported), None)
    if protocol is None or "sec-websocket-key" not in request.headers:
        raise ApiError(400, "BadRequest", f"unable to upgrade: none of the protocols {offered} is supported")
    ports = portforward.ports_of(request.values("ports")) if forwarding and protocol != portforward.TUNNEL else []
    run = None if forwarding else _runner(subresource, exec_request(request), namespace, pod, runtime)
    socket = WebSocket(*request.hijack())
    await socket.accept(request.headers, protocol)
    if run is not None:
        await remotecommand.serve_websocket(socket, run)
        return
    if protocol != portforward.TUNNEL:
        await portforward.serve_channels(socket, ports, runtime, namespace, pod)
        return
    session = SpdySession(socket.send)

    async def receive() -> bytes:
        while (message := await socket.receive()) == b"":
            pass
        return message or b""

    await _with_session(session, receive, portforward.serve(session, runtime, namespace, pod))
    await socket.close()


async def _spdy(request: UpgradeRequest, subresource: str, namespace: str, pod: str, runtime: NodeRuntime) -> None:
    offered = _offered(request, "x-stream-protocol-version")
    supported = (portforward.PROTOCOL,) if subresource == "portforward" else remotecommand.SPDY_PROTOCOLS
    protocol = next((p for p in offered if p in supported), None)
    if protocol is None:
        raise ApiError(403, "Forbidden", f"unable to upgrade: none of the protocols {offered} is supported")
    asked = exec_request(request)
    run = None if subresource == "portforward" else _runner(subresource, asked, namespace, pod, runtime)
    reader, writer = request.hijack()
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
    writer.write(("\r\n".join([*lines, f"X-Stream-Protocol-Version: {protocol}"]) + "\r\n\r\n").encode())
    await writer.drain()

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    async def receive() -> bytes:
        return await reader.read(1 << 16)

    session = SpdySession(send)
    if run is None:
        serving = portforward.serve(session, runtime, namespace, pod)
    else:
        wanted = {"stdin": asked.stdin, "stdout": asked.stdout, "stderr": asked.stderr, "resize": asked.tty}
        expected = {"error"} | {name for name, present in wanted.items() if present}
        serving = remotecommand.serve_spdy(session, expected, run)
    await _with_session(session, receive, serving)


async def _with_session(
    session: SpdySession, receive: Callable[[], Awaitable[bytes]], serving: Awaitable[None]
) -> None:
    """Feed the session while it is served."""

    async def pump() -> None:
        try:
            with contextlib.suppress(OSError, ValueError):
                while data := await receive():
                    await session.feed(data)
        finally:
            session.end()

    pumping = asyncio.create_task(pump())
    try:
        await serving
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
