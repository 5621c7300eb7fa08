"""Streams into running containers: exec, attach, and connections to their ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sampan.cluster.kubelet.descriptor import Descriptor
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
    stdin, out, err = Descriptor(stdin_write), Descriptor(out_read), Descriptor(err_read)
    tasks: list[asyncio.Task[None]] = []
    try:
        try:
            session = await container.exec(request.command, (stdin_read, out_write, err_write))
        except OSError as error:
            raise ApiError(500, "InternalError", f"error executing command in container: {error}") from error
        finally:
            for fd in (stdin_read, out_write, err_write):
                os.close(fd)
        outputs = [
            asyncio.create_task(_drain(out, streams.write_stdout)),
            asyncio.create_task(_drain(err, streams.write_stderr)),
        ]
        tasks = [*outputs, asyncio.create_task(_feed(stdin, streams if request.stdin else None))]
        try:
            code = await session.wait()
            await asyncio.wait(outputs, timeout=2)
            return code
        finally:
            session.close()
    finally:
        await _cancel(*tasks)
        for descriptor in (stdin, out, err):
            descriptor.close()


async def _exec_tty(container: Container, request: ExecRequest, streams: ExecStreams) -> int:
    master_fd, slave = os.openpty()
    master = Descriptor(master_fd)
    tasks: list[asyncio.Task[None]] = []
    try:
        try:
            session = await container.exec(request.command, (slave, slave, slave), tty=True)
        except OSError as error:
            raise ApiError(500, "InternalError", f"error executing command in container: {error}") from error
        finally:
            os.close(slave)
        output = asyncio.create_task(_drain(master, streams.write_stdout))
        tasks = [output, asyncio.create_task(_resize(master, streams))]
        if request.stdin:
            tasks.append(asyncio.create_task(_type(master, streams)))
        try:
            code = await session.wait()
            await asyncio.wait([output], timeout=1)
            return code
        finally:
            session.close()
    finally:
        await _cancel(*tasks)
        master.close()


async def run_attach(container: Container, request: ExecRequest, streams: ExecStreams) -> int:
    """Follow the container's own output until it ends."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    out, err, stdin = Descriptor(out_read), Descriptor(err_read), Descriptor(in_write)
    tasks: list[asyncio.Task[None]] = []
    try:
        # A reader that stalls must not stall the container: what does not fit is dropped for it.
        os.set_blocking(out_write, False)
        os.set_blocking(err_write, False)
        try:
            await container.command({"op": "attach", "stdin": request.stdin}, [out_write, err_write, in_read])
        finally:
            for fd in (out_write, err_write, in_read):
                os.close(fd)
        outputs = [
            asyncio.create_task(_drain(out, streams.write_stdout)),
            asyncio.create_task(_drain(err, streams.write_stderr)),
        ]
        tasks = [*outputs, asyncio.create_task(_feed(stdin, streams if request.stdin else None))]
        if request.tty:
            tasks.append(asyncio.create_task(_resize_container(container, streams)))
        code = await container.wait()
        await asyncio.wait(outputs, timeout=1)
        return code
    finally:
        await _cancel(*tasks)
        for descriptor in (out, err, stdin):
            descriptor.close()


async def _drain(source: Descriptor, write: Callable[[bytes], Awaitable[None]]) -> None:
    """Everything from a pipe or terminal to the client."""
    while data := await source.read():
        await write(data)


async def _feed(target: Descriptor, streams: ExecStreams | None) -> None:
    """The client's stdin into a pipe, then its end."""
    with contextlib.suppress(OSError):  # the command need not read its stdin to the end
        while streams is not None and (data := await streams.read_stdin()):
            await target.write(data)
    target.close()


async def _type(master: Descriptor, streams: ExecStreams) -> None:
    while data := await streams.read_stdin():
        with contextlib.suppress(OSError):
            await master.write(data)
    with contextlib.suppress(OSError):
        await master.write(b"\x04")


async def _resize(master: Descriptor, streams: ExecStreams) -> None:
    while True:
        columns, rows = await streams.read_resize()
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetwinsize(master.fd, (rows, columns))


async def _resize_container(container: Container, streams: ExecStreams) -> None:
    while True:
        columns, rows = await streams.read_resize()
        await container.command({"op": "resize", "rows": rows, "columns": columns})


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
