"""What leaves the cluster: connections of pods to other addresses, carried on by sockets of this machine.

TCP to anywhere, as this machine would connect; the router's address stands for this machine's 127.0.0.1; DNS (UDP too)
by its name server. Other UDP and ICMP end at the router: they would need privileges on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path
from typing import cast

from sampan.cluster.network.pods import PodNetwork
from sampan.cluster.network.router import DNS_PORT, GATEWAY_PORT

_SO_ORIGINAL_DST = 80
_CHUNK = 1 << 16
DNS_FAR_PORT = 53
_DNS_SECONDS = 5.0


class Gateway:
    """Serves until `stop`."""

    def __init__(self, network: PodNetwork) -> None:
        self._network = network
        self._server: asyncio.Server | None = None
        self._names: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        listener = self._network.socket(listen=("0.0.0.0", GATEWAY_PORT))  # noqa: S104 - of the router's namespace
        self._server = await asyncio.start_server(self._carry, sock=listener, limit=_CHUNK)
        names = self._network.socket(listen=(self._network.router, DNS_PORT), kind=socket.SOCK_DGRAM)
        loop = asyncio.get_running_loop()
        self._names, _ = await loop.create_datagram_endpoint(lambda: _Names(self._tasks), sock=names)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._names is not None:
            self._names.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        accepted = writer.get_extra_info("socket")
        raw = accepted.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
        port, host = struct.unpack_from("!H", raw, 2)[0], socket.inet_ntoa(raw[4:8])
        if host == self._network.router:
            host = name_server() if port == DNS_PORT else "127.0.0.1"
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port, limit=_CHUNK)
        except OSError:
            # The pod sees a connection that is reset where the machine itself would have been refused.
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, far_writer))
                group.create_task(copy(far_reader, writer))
        except* OSError:
            pass
        finally:
            far_writer.transport.abort() if far_writer.is_closing() else far_writer.close()
            writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything that is read, and then the end."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        with contextlib.suppress(OSError):
            writer.write_eof()


def name_server() -> str:
    """The first IPv4 name server of this machine."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and "." in words[1]:
                return words[1]
    return "127.0.0.1"


class _Names(asyncio.DatagramProtocol):
    """Passes questions on to the machine's name server, and its answers back."""

    def __init__(self, tasks: set[asyncio.Task[None]]) -> None:
        self._tasks = tasks
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is none by name

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if len(self._tasks) < 1000:
            task = asyncio.get_running_loop().create_task(self._ask(data, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, data: bytes, address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far, contextlib.suppress(OSError, TimeoutError):
            far.setblocking(False)
            far.connect((name_server(), DNS_FAR_PORT))
            await loop.sock_sendall(far, data)
            async with asyncio.timeout(_DNS_SECONDS):
                answer = await loop.sock_recv(far, _CHUNK)
            if self._transport is not None:
                self._transport.sendto(answer, address)
