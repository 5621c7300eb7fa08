"""What goes wrong between two processes: a TCP proxy whose behaviour is changed while connections pass through it.

It runs on a thread and an event loop of its own, so that synchronous and asynchronous tests use it alike:

    with FaultProxy(("127.0.0.1", 5432)) as proxy:
        connect("127.0.0.1", proxy.port)
        proxy.latency = 0.2          # at once, for present and new connections
        proxy.reset_all()

Duplicates and reordering are faults of messages, not of a byte stream, and are made elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pytest

HOST: Final = "127.0.0.1"
_CHUNK: Final = 64 * 1024
_SLICE: Final = 0.01  # how soon a changed knob is seen by bytes on their way, seconds
_RESET: Final = struct.pack("ii", 1, 0)  # linger of no time: closing sends RST


class FaultProxy:
    """A proxy on 127.0.0.1:`port` in front of `target` (host, port), which need not listen yet.

    Knobs, plain attributes: `latency` (seconds, each direction), `bandwidth` (bytes a second and direction, None: no
    limit), `blackhole` (bytes of both directions are swallowed while connections stay: half-open). `connections`
    counts those accepted so far, `bytes` what was delivered, both directions together.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.latency = 0.0
        self.bandwidth: float | None = None
        self.blackhole = False
        self.connections = self.bytes = 0
        self.allowance: int | None = None  # bytes towards clients until the reset; see reset_after
        self._refuse = False
        self._links: set[_Link] = set()
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._run(self._deafen())
        self._run(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def refuse(self) -> bool:
        """Whether new connections are refused; present ones stay. The port stays ours meanwhile."""
        return self._refuse

    @refuse.setter
    def refuse(self, value: bool) -> None:
        if value != self._refuse:
            self._refuse = value
            self._run(self._deafen(again=True) if value else self._listen())

    def reset_all(self) -> None:
        """RST on every connection, on both sides."""
        self._run(self._end_all())

    def reset_after(self, count: int) -> None:
        """`reset_all`, once, when `count` more bytes have been delivered to clients."""
        self.allowance = count

    def close_half(self) -> None:
        """FIN to every client, as a server does that has said all; what clients send still passes."""
        self._run(self._each(_Link.close_half))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._socket.listen(1024)
        self._loop.add_reader(self._socket, self._accept)

    async def _deafen(self, *, again: bool = False) -> None:
        await self._take_waiting()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if again:
            self._socket = _bound(self.port)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # until there is none
            while True:
                link = _Link(self, self._socket.accept()[0])
                self.connections += 1
                self._links.add(link)
                link.task = self._loop.create_task(link.run())

    async def _take_waiting(self) -> None:
        """Connections that clients hold already and nobody has accepted yet are present ones too."""
        self._accept()
        await asyncio.sleep(0)

    async def _end_all(self) -> None:
        await self._each(_Link.reset)
        ending = [link.task for link in self._links if link.task is not None]
        await asyncio.gather(*ending, return_exceptions=True)

    async def _each(self, what: Callable[[_Link], None]) -> None:
        await self._take_waiting()
        for link in list(self._links):
            what(link)

    def ended(self, link: _Link) -> None:
        self._links.discard(link)

    def delivered(self, count: int, *, to_client: bool) -> None:
        self.bytes += count
        if to_client and self.allowance is not None:
            self.allowance -= count
            if self.allowance <= 0:
                self.allowance = None
                for link in self._links:
                    link.reset()


class _Link:
    """One client's connection and its counterpart towards the target."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self.proxy, self.client = proxy, client
        self.server: socket.socket | None = None
        self.task: asyncio.Task[None] | None = None
        self.half = self.dead = False

    def reset(self) -> None:
        self.dead = True
        self._linger()
        if self.task is not None:
            self.task.cancel()

    def _linger(self) -> None:
        for end in (self.client, self.server):
            if end is not None:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def close_half(self) -> None:
        if not self.half:
            self.half = True
            self.client.shutdown(socket.SHUT_WR)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.client.setblocking(False)
        try:
            self.server = server = socket.socket()
            server.setblocking(False)
            for end in (self.client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(server, self.proxy.target)
            async with asyncio.TaskGroup() as tasks:
                for source, sink in ((self.client, server), (server, self.client)):
                    # reads go on while earlier bytes wait for their time: latency does not limit the rate
                    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
                    tasks.create_task(self._read(source, waiting))
                    tasks.create_task(self._deliver(waiting, sink, to_client=sink is self.client))
        except* OSError:  # the target is not there, or one side reset: the other learns it
            self._linger()
        finally:
            self.client.close()
            if self.server is not None:
                self.server.close()
            self.proxy.ended(self)

    async def _read(self, source: socket.socket, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop, data = asyncio.get_running_loop(), b" "
        while data:
            data = await loop.sock_recv(source, _CHUNK)
            await waiting.put((loop.time(), data))

    async def _deliver(
        self, waiting: asyncio.Queue[tuple[float, bytes]], sink: socket.socket, *, to_client: bool
    ) -> None:
        loop, proxy = asyncio.get_running_loop(), self.proxy
        while True:
            arrived, data = await waiting.get()
            while (left := arrived + proxy.latency - loop.time()) > 0:  # noqa: ASYNC110  # the knob may turn any time
                await asyncio.sleep(min(left, _SLICE))
            if not data:
                break
            while data and not self.dead:
                rate, room = proxy.bandwidth, proxy.allowance if to_client else None
                size = len(data) if rate is None else max(1, min(len(data), int(rate * _SLICE)))
                if room is not None:
                    size = max(1, min(size, room))
                part, data = data[:size], data[size:]
                if rate is not None:
                    await asyncio.sleep(len(part) / rate)
                if not proxy.blackhole and not (to_client and self.half):
                    await loop.sock_sendall(sink, part)
                    proxy.delivered(len(part), to_client=to_client)
        if not proxy.blackhole and not (to_client and self.half):
            sink.shutdown(socket.SHUT_WR)


def _bound(port: int) -> socket.socket:
    """A socket that holds the port; until it listens, connections to it are refused."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setblocking(False)
    made.bind((HOST, port))
    return made


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """A file system of `size` (as `mount -o size=` has it) at `place`; skips where nobody may mount one. Whoever owns
    the directory above owns it."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    owner = place.parent.stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(ballast: Path, leave: int = 0) -> None:
    """Write a file until `leave` bytes of its file system are free."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(ballast).free - leave) > 0:
            file.write(b"x" * min(free, 65536))
