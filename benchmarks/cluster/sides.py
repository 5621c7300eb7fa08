"""The two that are measured: how each is started, asked, weighed and killed."""

from __future__ import annotations

import contextlib
import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import PeerMissing, environment
from benchmarks.cluster.wire import Wire
from tests.conformance.kubernetes.targets import Missing, Target, start_real


@dataclass
class Side:
    """One control plane over one directory, which outlives its processes."""

    name: str
    directory: Path
    starter: Callable[[Path], Target]
    target: Target | None = field(default=None)

    def up(self) -> float:
        """Start; seconds from the command until an authenticated read is answered. Raises PeerMissing."""
        self.directory.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            self.target = self.starter(self.directory)
        except Missing as error:
            raise PeerMissing(str(error)) from error
        answers(self.target.kubeconfig, "/api/v1/namespaces/kube-system")
        return time.monotonic() - began

    def kill(self) -> None:
        """kill -9, every process at once."""
        assert self.target is not None
        for process in self.target.processes:
            process.send_signal(signal.SIGKILL)
        for process in self.target.processes:
            process.wait(20)
        self.target = None

    def down(self) -> None:
        if self.target is not None:
            self.target.stop()
            self.target = None

    def wire(self) -> Wire:
        assert self.target is not None
        return Wire(self.target.kubeconfig)

    def memory(self, *, whole: bool = False) -> float:
        """MB (10^6) of what answers the API and runs the controllers: etcd, kube-apiserver and kube-controller-manager;
        of ours the one process that is all of that, and kubelet and proxy too. `whole`: with every child, which are
        ours alone: the zygote and Envoy. What several processes share counts once (PSS)."""
        assert self.target is not None
        return sum(_memory(process.pid, children=whole) for process in self.target.processes) / 1e6


def ours(directory: Path) -> Side:
    return Side("sampan", directory, _start_ours)


def real(directory: Path) -> Side:
    return Side("kube-apiserver + etcd", directory, start_real)


def _start_ours(directory: Path) -> Target:
    """The whole embedded cluster, controllers, kubelet and proxy included."""
    place = directory / "cluster"
    ready = place / "cluster.json"
    ready.unlink(missing_ok=True)  # a killed one leaves its own behind
    command = [sys.executable, "-m", "sampan.cluster", "--directory", str(place), "--with-parent"]
    with (directory / "output.log").open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment())
    target = Target("embedded", place / "kubeconfig", [process])
    give_up = time.monotonic() + 120
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > give_up:
            target.stop()
            raise RuntimeError(f"the embedded cluster did not start: {(directory / 'output.log').read_text()[-2000:]}")
        time.sleep(0.001)
    return target


def answers(kubeconfig: Path, path: str, seconds: float = 120) -> None:
    """Returns once `path` is answered with 200. Raises RuntimeError when it is not in time."""
    wire = Wire(kubeconfig)
    request = wire.request("GET", path).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in request[1:] if ": " in line)
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        connection = http.client.HTTPSConnection(wire.host, wire.port, context=wire.tls, timeout=30)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.002)
    raise RuntimeError(f"{path} was not answered within {seconds:g} s")


def _memory(pid: int, *, children: bool) -> int:
    """PSS in bytes of a process, and of all it started."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir() if children else ():
            for child in (task / "children").read_text().split():
                total += _memory(int(child), children=True)
    return total
