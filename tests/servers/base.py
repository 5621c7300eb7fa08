"""A program on a port, as tests start, kill and stop it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar


def free_port() -> int:
    """Of those that no outgoing connection is given by itself: one would keep a server from starting again on its port,
    or, made to that very port while the server is away, be answered by itself."""
    while True:
        port = random.randrange(12_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], Any], seconds: float = 15, what: str = "condition") -> Any:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds:g} s")


ServerT = TypeVar("ServerT", bound="Server")


class Server:
    """A program on a port. `kill` is kill -9; `start` starts it again on the same port and directory.

    `group`: it has children that must end with it, so it gets a session of its own, which is killed as a whole.
    """

    def __init__(
        self,
        command: list[str],
        port: int,
        log: Path,
        uri: str,
        *,
        environment: dict[str, str] | None = None,
        group: bool = False,
        seconds: float = 30,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self.command, self.port, self.log, self.uri = command, port, log, uri
        self.environment, self.group, self.seconds = environment, group, seconds
        self.ready = ready or (lambda: accepts(port))
        self.process: subprocess.Popen[bytes] | None = None
        self.proxy: Any = None  # a FaultProxy in front of it, where a fixture has put one there
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=self.group,
            )
        process = self.process
        try:
            until(lambda: process.poll() is not None or self.ready(), self.seconds, self.command[0])
            assert process.poll() is None, self.log.read_text(errors="replace")[-2000:]
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        assert self.process is not None
        if self.group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait(10)
        until(lambda: not accepts(self.port), 10, "the end of the listener")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        if self.process is not None and (self.group or self.process.poll() is None):
            self.kill()


@contextlib.contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    try:
        yield server
    finally:
        server.stop()


def running_again(server: ServerT) -> ServerT:
    """`server`, started once more if a test has killed it."""
    if server.process is None or server.process.poll() is not None:
        server.start()
    return server
