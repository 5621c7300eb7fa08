"""How the cluster process begins: its command line, lock, log and addresses, and the child that makes certificates.

Little is imported here, so that the child is at work while this process imports what assembles and serves.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import functools
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sampan.cluster.address import Slice, acquire
from sampan.cluster.apiserver.access.pki import Pki

log = logging.getLogger("sampan.cluster")

_PR_SET_PDEATHSIG = 1
COLLECT = (10_000, 20, 20)
"""The collector's thresholds: a request makes hundreds of containers, none of them in a cycle."""
AUTO, PODS, LOOPBACK = MODES = ("auto", "pods", "loopback")
"""What pods have for a network."""


class AlreadyRunning(Exception):
    """Another process holds the lock of the directory."""


class Phases:
    """Names what start-up spent its time on."""

    def __init__(self) -> None:
        self.began = _started()
        self._last = self.began
        self.rows: list[tuple[str, float]] = []

    def done(self, name: str) -> None:
        present = time.time()
        self.rows.append((name, 1000 * (present - self._last)))
        self._last = present

    def report(self, title: str) -> None:
        parts = ", ".join(f"{name} {took:.0f}" for name, took in self.rows)
        log.info("start-up: %s after %.0f ms (%s)", title, 1000 * (self._last - self.began), parts)


def _started() -> float:
    """When the command was given, if it says so; else when this process was started."""
    with contextlib.suppress(ValueError):
        return float(os.environ.pop("SAMPAN_STARTED", ""))
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - (uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def lock(directory: Path) -> int:
    """Take the directory's lock for the life of this process; the descriptor. Raises AlreadyRunning."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Whoever only asks whether we run holds a shared lock for an instant: try again before believing it.
    for attempt in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if attempt == 19:
                pid = os.pread(descriptor, 32, 0).decode().strip()
                os.close(descriptor)
                raise AlreadyRunning(f"a cluster already runs in {directory} (process {pid})") from None
            time.sleep(0.005)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


class Certificates:
    """Those of a cluster, made where they are missing by a child that imports what that takes: on another core, and
    not for the life of this process. To be begun while there is no thread and no loop."""

    def __init__(self, directory: Path, owned: Slice) -> None:
        self.pki = Pki(directory)
        self._names = ("127.0.0.1", owned.node, f"127.{owned.number}.128.1", f"10.{owned.number}.0.1")
        self._child = 0
        if self.pki.is_whole(self._names):
            return
        self._child = os.fork()
        if self._child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            try:
                self.pki.ensure(self._names)
            finally:
                os._exit(0)  # what went wrong goes wrong again where it can be told

    def wait(self) -> None:
        """Until they are there. Raises what prevents it."""
        if self._child:
            os.waitpid(self._child, 0)
        self.pki.ensure(self._names)


def _log_to(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    handler = logging.StreamHandler(os.fdopen(descriptor, "a"))
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def main(argv: Sequence[str] | None = None) -> int:
    """0 after a signal, 1 when it could not start, 2 when a cluster already runs there."""
    # The width is said because argparse imports an archiver to find out the terminal's.
    style = functools.partial(argparse.HelpFormatter, width=100)
    parser = argparse.ArgumentParser(
        prog="python -m sampan.cluster", description="Run a cluster in a directory.", formatter_class=style
    )
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--network", choices=MODES, default=AUTO, help="what pods have (see the guide)")
    parser.add_argument("--warm", action="store_true", help="have Python's libraries ready before the first pod comes")
    parser.add_argument("--with-parent", action="store_true", help="stop when the process that started this ends")
    arguments = parser.parse_args(argv)
    if arguments.with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() == 1:
            return 1
    phases = Phases()
    gc.set_threshold(*COLLECT)
    directory: Path = arguments.directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    _log_to(directory / "cluster.log")
    try:
        held = lock(directory)
    except AlreadyRunning as error:
        sys.stderr.write(f"{error}\n")
        return 2
    phases.done("interpreter")
    try:
        owned = acquire(directory)
        certificates = Certificates(directory / "pki", owned)
        from sampan.cluster import process  # while the child works

        cluster = process.Cluster(
            directory, phases, held, owned, certificates, network=arguments.network, warm=arguments.warm
        )
        return process.run(cluster)
    except Exception:
        log.exception("the cluster could not start")
        return 1
    finally:
        os.close(held)
