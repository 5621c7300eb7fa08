"""The cluster process: ready quickly, alone in its directory, recovered after kill -9, gone after SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.https import HttpsTransport

Start = Callable[[Path], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[subprocess.Popen[bytes]] = []

    def run(directory: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "sampan.cluster", "--directory", str(directory)]
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        children.append(child)
        return child

    yield run
    for child in children:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(5)


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return value


def ready(directory: Path, child: subprocess.Popen[bytes]) -> dict[str, Any]:
    def look() -> Any:
        assert child.poll() is None, (directory / "cluster.log").read_text()
        try:
            info = json.loads((directory / "cluster.json").read_text())
        except (OSError, ValueError):
            return None
        return info if info["pid"] == child.pid else None

    found: dict[str, Any] = until(look, 20, "the API is ready")
    return found


def running(directory: Path) -> list[str]:
    """Command lines of processes that work in or for the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(directory) in command or str((entry / "cwd").readlink()).startswith(str(directory)):
                found.append(command)
        except OSError:
            continue
    return found


def call(directory: Path, action: Callable[[Client], Any]) -> Any:
    async def run() -> Any:
        transport = HttpsTransport.from_kubeconfig(directory / "kubeconfig")
        try:
            return await action(Client(transport))
        finally:
            await transport.close()

    return asyncio.run(run())


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {}}


def test_a_life_with_a_sudden_death_in_it(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    (directory / "port").write_text("16600\n")  # where no other cluster begins to look: none takes it between two lives
    child = start(directory)
    info = ready(directory, child)
    assert set(info) >= {"pid", "server", "ingress", "slice", "version", "started"}
    assert stat.S_IMODE((directory / "kubeconfig").stat().st_mode) == 0o600
    call(directory, lambda client: client.create(kinds.CONFIG_MAP, config_map("kept")))
    until(lambda: "all running" in (directory / "cluster.log").read_text(), 20, "the node runs")

    second = start(directory)
    assert second.wait(10) == 2

    os.kill(child.pid, signal.SIGKILL)
    child.wait(5)
    until(lambda: not running(directory), 5, "what it had started died with it")

    child = start(directory)
    again = ready(directory, child)
    assert (again["slice"], again["server"]) == (info["slice"], info["server"])
    found = call(directory, lambda client: client.get(kinds.CONFIG_MAP, "kept", "default"))
    assert found["metadata"]["name"] == "kept"
    until(lambda: (directory / "cluster.log").read_text().count("all running") == 2, 20, "the node runs")

    child.terminate()
    assert child.wait(15) == 0
    assert not (directory / "cluster.json").exists()
    until(lambda: not running(directory), 5, "nothing is left")


def test_several_directories_at_once_and_a_stop_while_starting(tmp_path: Path, start: Start) -> None:
    one, two = start(tmp_path / "one"), start(tmp_path / "two")
    first, second = ready(tmp_path / "one", one), ready(tmp_path / "two", two)
    for field in ("slice", "server", "ingress"):
        assert first[field] != second[field]
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    one.send_signal(signal.SIGINT)  # as soon as the API answers: the node is still starting
    two.terminate()
    assert (one.wait(15), two.wait(15)) == (0, 0)
    until(lambda: not running(tmp_path), 5, "nothing is left")


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path, start: Start) -> None:
    (tmp_path / "cluster.db").write_bytes(b"this is no database " * 500)
    child = start(tmp_path)
    assert child.wait(15) == 1
    assert "could not start" in (tmp_path / "cluster.log").read_text()
    until(lambda: not running(tmp_path), 5, "nothing is left")


def test_a_cluster_ends_with_its_directory(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "state"
    child = start(directory)
    ready(directory, child)
    shutil.rmtree(directory, ignore_errors=True)  # it may still be writing
    shutil.rmtree(directory, ignore_errors=True)
    child.wait(30)
    until(lambda: not running(directory), 5, "nothing is left")
