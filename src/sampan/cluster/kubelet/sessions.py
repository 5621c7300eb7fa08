"""Streams into running containers: exec, attach, and connections to their ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sampan.cluster.kubelet.zygote import Container
from sampan.cluster.runtime import ExecRequest, ExecStreams
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.cluster.network.pods import PodNetwork

CHUNK = 65536


class SocketStream:
    """A connection into a pod (`ByteStream`)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def dial(ip: str, port: int, network: PodNetwork | None, namespace: int) -> SocketStream:
    """Connect to the pod's address, else to 127.0.0.1, where a program may listen on its own account."""
    for host in (ip, "127.0.0.1"):
        try:
            async with asyncio.timeout(10):
                if network is not None:
                    return SocketStream(*await network.connect(host, port, inside=namespace))
                return SocketStream(*await asyncio.open_connection(host, port))
        except OSError:
            continue
    raise ApiError(500, "InternalError", f"connection refused: nothing in the pod listens on port {port}")


async def run_exec(container: Container, request: ExecRequest, streams: ExecStreams) -> int:
    """Run the command to its end; its exit code. Cancelling kills it."""
    if request.tty:
        return await _exec_tty(container, request, streams)
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    ours = {stdin_write, out_read, err_read}
    try:
        try:
            session = await container.exec(request.command, (stdin_read, out_write, err_write))
        except OSError as error:
            raise ApiError(500, "InternalError", f"error executing command in container: {error}") from error
        finally:
            for fd in (stdin_read, out_write, err_write):
                os.close(fd)
        ours.discard(stdin_write)
        feeding = asyncio.create_task(_feed(stdin_write, streams if request.stdin else None))
        ours -= {out_read, err_read}
        outputs = [
            asyncio.create_task(_drain(out_read, streams.write_stdout)),
            asyncio.create_task(_drain(err_read, streams.write_stderr)),
        ]
        try:
            code = await session.wait()
            await asyncio.wait(outputs, timeout=2)
            return code
        finally:
            session.close()
            await _cancel(feeding, *outputs)
    finally:
        for fd in ours:
            os.close(fd)


async def _exec_tty(container: Container, request: ExecRequest, streams: ExecStreams) -> int:
    master, slave = os.openpty()
    try:
        session = await container.exec(request.command, (slave, slave, slave), tty=True)
    except asyncio.CancelledError:
        os.close(master)
        raise
    except OSError as error:
        os.close(master)
        raise ApiError(500, "InternalError", f"error executing command in container: {error}") from error
    finally:
        os.close(slave)
    tasks = [asyncio.create_task(_resize(master, streams))]
    if request.stdin:
        tasks.append(asyncio.create_task(_type(master, streams)))
    output = asyncio.create_task(_drain(os.dup(master), streams.write_stdout))
    try:
        code = await session.wait()
        await asyncio.wait([output], timeout=1)
        return code
    finally:
        session.close()
        await _cancel(output, *tasks)
        os.close(master)


async def run_attach(container: Container, request: ExecRequest, streams: ExecStreams) -> int:
    """Follow the container's own output until it ends."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    # A reader that stalls must not stall the container: what does not fit is dropped for it.
    os.set_blocking(out_write, False)
    os.set_blocking(err_write, False)
    await container.command({"op": "attach", "stdin": request.stdin}, [out_write, err_write, in_read])
    for fd in (out_write, err_write, in_read):
        os.close(fd)
    tasks = [
        asyncio.create_task(_drain(out_read, streams.write_stdout)),
        asyncio.create_task(_drain(err_read, streams.write_stderr)),
    ]
    extra = [asyncio.create_task(_feed(in_write, streams if request.stdin else None))]
    if request.tty:
        extra.append(asyncio.create_task(_resize_container(container, streams)))
    try:
        code = await container.wait()
        await asyncio.wait(tasks, timeout=1)
        return code
    finally:
        await _cancel(*tasks, *extra)


async def _drain(fd: int, write: Callable[[bytes], Awaitable[None]]) -> None:
    """Everything from a pipe or terminal to the client. Owns `fd`."""
    if os.isatty(fd):
        await _drain_terminal(fd, write)
        return
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        while data := await reader.read(CHUNK):
            await write(data)
    finally:
        transport.close()


async def _drain_terminal(fd: int, write: Callable[[bytes], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    try:
        while True:
            await _readable(loop, fd)
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                return  # the terminal's last user is gone
            if not data:
                return
            await write(data)
    finally:
        os.close(fd)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def _feed(fd: int, streams: ExecStreams | None) -> None:
    """The client's stdin into a pipe, then its end. Owns `fd`."""
    if streams is None:
        os.close(fd)
        return
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        while data := await streams.read_stdin():
            writer.write(data)
            await writer.drain()
    except (OSError, ConnectionError):
        pass  # the command does not read its stdin to the end
    finally:
        transport.close()


async def _type(master: int, streams: ExecStreams) -> None:
    while data := await streams.read_stdin():
        with contextlib.suppress(OSError):
            await asyncio.to_thread(os.write, master, data)
    with contextlib.suppress(OSError):
        os.write(master, b"\x04")


async def _resize(master: int, streams: ExecStreams) -> None:
    while True:
        columns, rows = await streams.read_resize()
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetwinsize(master, (rows, columns))


async def _resize_container(container: Container, streams: ExecStreams) -> None:
    while True:
        columns, rows = await streams.read_resize()
        await container.command({"op": "resize", "rows": rows, "columns": columns})


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
