"""A directory with its own cluster, driven as a user drives it: the command line, kubectl, HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


LOADED = 4  # times as long as on idle cores is what a machine with other work may take


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until `condition` is true and give its value; fail with `what` where it takes `LOADED` times `seconds`."""
    seconds *= LOADED
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def accepts(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def listeners(address: str) -> list[int]:
    """Process ids of those that listen at the IPv4 `address`: of a pod, those inside it."""
    packed = socket.inet_aton(address)[::-1].hex().upper()
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].startswith(f"{packed}:") and row[3] == "0A"}
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and any(str(link.readlink()) in inodes for link in (entry / "fd").iterdir()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kubectl_of(version: str) -> str | None:
    """The kubectl of a minor version, if this machine has it."""
    found = shutil.which(f"kubectl.{version}")
    default = shutil.which("kubectl")
    if found or default is None:
        return found
    beside = Path(default).resolve().parent / f"kubectl.{version}"
    return str(beside) if beside.is_file() else None


class System:
    """A directory with its own cluster, driven through the `sampan` command and kubectl."""

    def __init__(self, directory: Path, program: str = "kubectl") -> None:
        self.directory = directory
        self.program = program

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "KUBECONFIG": str(self.directory / ".sampan/kubeconfig"),
            "KUBECACHEDIR": str(self.directory / "kube-cache"),  # what kubectl learnt of another cluster at this port
        }

    def sampan(self, *arguments: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sampan", *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"sampan {' '.join(arguments)} ended {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def run_kubectl(
        self, *arguments: str, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """How `kubectl arguments` ended, whatever its exit code."""
        if not shutil.which(self.program):
            pytest.skip(f"{self.program} is not on this machine")
        return subprocess.run(
            [self.program, *arguments],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            input=stdin,
        )

    def kubectl(self, *arguments: str, check: bool = True, timeout: float = 60, stdin: str | None = None) -> str:
        done = self.run_kubectl(*arguments, timeout=timeout, stdin=stdin)
        if check and done.returncode:
            pytest.fail(f"kubectl {' '.join(arguments)} ended {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", *arguments, "-o", "json"))["items"]
        return items

    @property
    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / ".sampan/cluster.json").read_text())
        return found

    @property
    def url(self) -> str:
        return str(self.info["ingress"]).rstrip("/")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return json.load(reply)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json", **headers},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def processes(self) -> list[int]:
        """Ids of processes that have this directory in their command line or environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(self.directory / ".sampan").encode() in text:
                found.append(int(entry.name))
        return found

    @contextlib.contextmanager
    def up(self, *what: str) -> Iterator[System]:
        """`sampan up WHAT --detach`; at the end it is stopped and nothing of it runs."""
        try:
            self.sampan("up", *what, "--detach")
            yield self
        finally:
            self.sampan("down", check=False)
            until(lambda: not self.processes(), 15, "every process of the cluster has ended")

    def kill_cluster(self) -> None:
        os.kill(int(self.info["pid"]), signal.SIGKILL)


@contextlib.contextmanager
def running(system: System, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A kubectl that goes on until the end of the block."""
    process = subprocess.Popen(
        [system.program, *arguments],
        env=system.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@contextlib.contextmanager
def small_system(name: str, system: str, web: str) -> Iterator[System]:
    """An application of two modules, NAME/system.py and NAME/web.py, in a directory that goes at the end. Not started;
    stopped at the end."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-test-", dir="/var/tmp"))  # every pod has a /tmp of its own
    (directory / name).mkdir()
    for module, text in (("__init__", ""), ("system", system), ("web", web)):
        (directory / f"{name}/{module}.py").write_text(text)
    made = System(directory)
    try:
        yield made
    finally:
        made.sampan("down", check=False)
        until(lambda: not made.processes(), 15, "every process has ended")
        shutil.rmtree(directory)
