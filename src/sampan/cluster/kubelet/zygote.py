"""The cluster's side of container starts: the zygote process and a handle for each running container."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from sampan.cluster.kubelet import wire
from sampan.cluster.kubelet.supervisor import ContainerSpec

LIBRARIES = (
    "sampan.service.preload",  # the first, for what it does to FastAPI as that is imported
    "asyncio", "msgspec", "json", "logging", "ssl", "uvloop", "uvicorn", "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on", "httptools", "starlette.applications", "pydantic", "fastapi", "sqlalchemy",
    "sqlalchemy.ext.asyncio", "sqlalchemy.dialects.mysql.asyncmy", "sqlalchemy.dialects.sqlite.aiosqlite", "aiohttp",
    "nats", "redis.asyncio", "asyncmy", "aiosqlite", "alembic",
)  # fmt: skip


class Capabilities(msgspec.Struct, frozen=True):
    """What this system lets containers have; each an empty string, or the reason why not."""

    namespaces: str = ""
    bind: str = ""


class ExecSession:
    """A command started by `Container.exec`. Closing it kills the command."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def wait(self) -> int:
        """The exit code; 137 when the container ended first."""
        try:
            return int((await receive(self._reader))["exit"])
        except (asyncio.IncompleteReadError, OSError):
            return 137

    def close(self) -> None:
        self._writer.close()


class Container:
    """One running container. `pid` is its first process, seen from the host."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.pid = 0
        self.exit_code: int | None = None
        self.signal = 0
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._channel.dup())
        try:
            while True:
                message = await receive(reader)
                if "pid" in message:
                    self.pid = message["pid"]
                    self._started.set_result(None)
                elif "error" in message:
                    error = OSError(message["error"])
                    if self._started.done():
                        raise error
                    self._started.set_exception(error)
                elif "exit" in message:
                    self.exit_code, self.signal = message["exit"], message["signal"]
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            if not self._started.done():
                self._started.set_exception(OSError("the container's supervisor ended"))
            self._started.exception()
            if self.exit_code is None:
                self.exit_code, self.signal = 137, 9
            self._channel.close()
            self._ended.set()

    async def started(self) -> None:
        """Returns when the program is about to run. Raises OSError with the reason it cannot."""
        await asyncio.shield(self._started)

    async def wait(self) -> int:
        """The exit code, 128 + signal for a signal."""
        await self._ended.wait()
        assert self.exit_code is not None
        return self.exit_code

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    async def command(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send the supervisor a command; one that comes too late is dropped."""
        if self.running:
            with contextlib.suppress(OSError):
                wire.send(self._channel, message, list(fds))

    async def kill(self, number: int) -> None:
        await self.command({"op": "signal", "signal": int(number)})

    async def exec(self, argv: Sequence[str], fds: tuple[int, int, int], tty: bool = False) -> ExecSession:
        """Run a command beside the container's program, in its namespaces and environment, on the three descriptors
        (which the caller still closes). Raises OSError when it cannot be started."""
        ours, theirs = socket.socketpair()
        try:
            await self.command({"op": "exec", "argv": list(argv), "tty": tty}, [theirs.fileno(), *fds])
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        session = ExecSession(reader, writer)
        try:
            answer = await receive(reader)
        except (asyncio.IncompleteReadError, OSError):
            session.close()
            raise OSError("the container is not running") from None
        except asyncio.CancelledError:  # which ends the command
            session.close()
            raise
        if "error" in answer:
            session.close()
            raise OSError(answer["error"])
        return session

    async def close(self) -> None:
        """Give the container up: its supervisor kills what is left of it."""
        if self.running:
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)
            await self._ended.wait()


class Zygote:
    """The parent of containers. It imports the libraries when told to (`warm`), or with the first container: until
    then it takes little memory."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._lock = threading.Lock()
        self._capabilities: Capabilities | None = None
        # Asked at once, so that it is answered before the imports begin.
        self._probe, theirs = socket.socketpair()
        self._send({"probe": True}, theirs.fileno())
        theirs.close()

    @classmethod
    def start(cls, libraries: Sequence[str] = LIBRARIES) -> Zygote:
        ours, theirs = socket.socketpair()
        # -P: a file in the directory the cluster was started from must not pass for a library.
        command = [sys.executable, "-P", "-m", "sampan.cluster.kubelet.nursery", str(theirs.fileno()), *libraries]
        # Its own session: a terminal's Ctrl-C must reach only the cluster, which stops pods gracefully.
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        return cls(process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    def warm(self) -> None:
        """Have the libraries imported from now on."""
        self._send({"prepare": True})

    def _send(self, message: dict[str, Any], *fds: int) -> None:
        with self._lock:
            wire.send(self._control, message, list(fds))

    def keeper(self, directories: list[str]) -> socket.socket:
        """Have these control groups removed when the socket is closed, by our end at the latest."""
        ours, theirs = socket.socketpair()
        self._send({"keep": directories}, theirs.fileno())
        theirs.close()
        return ours

    def router(self, number: int) -> socket.socket:
        """Start the router of the cluster whose slice is `number`; the channel for `network.pods.PodNetwork`."""
        ours, theirs = socket.socketpair()
        self._send({"router": number}, theirs.fileno())
        theirs.close()
        return ours

    async def spawn(self, spec: ContainerSpec, namespaces: Sequence[int] = ()) -> Container:
        """Start a container in the namespaces of these descriptors, the network's first, then its owner's, if it has
        one; await `started()` of the result. Raises OSError when the zygote is gone."""
        ours, theirs = socket.socketpair()
        try:
            # In a thread: a zygote busy with an import reads a little later, and the loop must not wait for it.
            await asyncio.to_thread(self._send, msgspec.to_builtins(spec), theirs.fileno(), *namespaces)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return Container(ours)

    async def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            reader, writer = await asyncio.open_connection(sock=self._probe)
            try:
                self._capabilities = msgspec.convert(await receive(reader), Capabilities)
            except (asyncio.IncompleteReadError, OSError):
                self._capabilities = Capabilities("the probe ended unexpectedly", "the probe ended unexpectedly")
            writer.close()
        return self._capabilities

    def stop(self) -> None:
        """End the zygote, and with it every container still there."""
        self._control.close()
        self._probe.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    """One message of `wire`, without descriptors. Raises IncompleteReadError at the end."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    message: dict[str, Any] = msgspec.json.decode(await reader.readexactly(length))
    return message
