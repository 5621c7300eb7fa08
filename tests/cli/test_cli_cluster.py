"""`sampan up` and what follows, on a real cluster: two small services, without database or broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SYSTEM = """
from sampan import Application, Service
web = Service("web", asgi="tiny.web:app", public="/")
api = Service("api", asgi="tiny.api:app", public="/api")
tiny = Application("tiny", services=[web, api])
"""
APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%s"})
"""


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


class Site:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sampan", *arguments]
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=timeout, check=False)

    def write(self, service: str, answer: str, first_line: str = "") -> None:
        (self.directory / f"tiny/{service}.py").write_text(first_line + APP % answer)

    def fetch(self, path: str) -> str:
        info = json.loads((self.directory / ".sampan/cluster.json").read_text())
        try:
            with urllib.request.urlopen(info["ingress"] + path, timeout=5) as reply:
                return str(reply.read().decode())
        except urllib.error.URLError as error:
            return str(error)

    def pods(self) -> dict[str, str]:
        """Ready pods: name -> service."""
        found = json.loads(self.run("status", "--json").stdout)
        return {pod["name"]: pod["name"].split("-")[0] for pod in found["pods"] if pod["ready"]}

    def processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                except OSError:
                    continue
                if str(self.directory / ".sampan").encode() in text:
                    found.append(entry.name)
        return found


@pytest.fixture
def site() -> Iterator[Site]:
    # Not under /tmp: every pod has a /tmp of its own.
    directory = Path(tempfile.mkdtemp(prefix="sampan-test-", dir="/var/tmp"))
    (directory / "tiny").mkdir()
    (directory / "tiny/__init__.py").touch()
    (directory / "tiny/system.py").write_text(SYSTEM)
    made = Site(directory)
    made.write("web", "web one")
    made.write("api", "api one")
    yield made
    made.run("down")
    until(lambda: not made.processes(), 10, "every process has ended")
    shutil.rmtree(directory)


def said(site: Site) -> str:
    return (site.directory / "up.txt").read_text()


def test_in_the_foreground_an_edit_rolls_one_service_and_ctrl_c_ends_it(site: Site) -> None:
    log = (site.directory / "up.txt").open("w")
    command = [sys.executable, "-m", "sampan", "up", "--timeout", "40"]
    child = subprocess.Popen(command, cwd=site.directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    log.close()
    try:
        until(lambda: "Ctrl-C stops it" in said(site) or child.poll() is not None, 50, "up is up")
        assert child.poll() is None, said(site)
        assert (site.fetch("/"), site.fetch("/api/x")) == ("web one", "api one")
        before = site.pods()
        time.sleep(0.5)
        site.write("web", "web two")
        until(lambda: site.fetch("/") == "web two", 30, "the edit is served")
        until(lambda: said(site).count("all Ready") == 2, 30, "the rolling update is over")
        after = site.pods()
        assert {name for name, of in before.items() if of == "api"} == {n for n, of in after.items() if of == "api"}
        assert {name for name, of in before.items() if of == "web"} != {n for n, of in after.items() if of == "web"}
        (site.directory / "tiny/system.py").write_text("this is not Python\n")
        until(lambda: "not updated" in said(site) or child.poll() is not None, 40, "the mistake is shown")
        assert "not updated" in said(site), said(site)
        assert site.fetch("/") == "web two"
        assert "up.txt" not in said(site)  # what it writes itself, into the directory it watches, is no source
    finally:
        child.send_signal(signal.SIGINT)
        code = child.wait(40)
    assert code == 130, said(site)
    until(lambda: not site.processes(), 5, "nothing is left running")
    assert (site.directory / ".sampan/cluster.db").exists()


def test_what_fails_is_told_at_once_and_its_mending_waits_for_nothing(site: Site) -> None:
    """Whether the first version fails, or one that is saved later. Its pod is tried again after 10 s, then ever more
    seldom, and it has 60 s to be Ready."""
    site.write("web", "web one", "import nosuch")
    log = (site.directory / "up.txt").open("w")
    command = [sys.executable, "-m", "sampan", "up", "--timeout", "60"]
    child = subprocess.Popen(command, cwd=site.directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    log.close()
    try:
        for times, broken in enumerate(("import nosuch", "1 / 0"), 1):
            until(lambda times=times: said(site).count(": web ended with exit code 2\n  | FATAL") == times, 15, "told")  # type: ignore[misc]
            told = said(site).rpartition(": web ended")[2]
            assert f'tiny/web.py", line 1, in <module>\n  |     {broken}\n' in told
            assert child.poll() is None and said(site).count("all Ready") == times - 1, said(site)
            seen = said(site).count("changed: ")
            site.write("web", f"web {times}")
            until(lambda seen=seen: said(site).count("changed: ") > seen, 8, "what was saved is seen")  # type: ignore[misc]
            until(lambda times=times: said(site).count("all Ready") == times, 40, "the mended version is up")  # type: ignore[misc]
            assert site.fetch("/") == f"web {times}"
            if times == 1:
                site.write("web", "broken", "1 / 0")
    finally:
        child.send_signal(signal.SIGINT)
        code = child.wait(40)
    assert code == 130, said(site)


def test_detached_updated_pruned_killed_and_gone(site: Site) -> None:
    up = site.run("up", "--detach", "--json", "--timeout", "40")
    assert up.returncode == 0, up.stdout + up.stderr
    events = [json.loads(line)["event"] for line in up.stdout.splitlines()]
    assert {"cluster", "applied", "pod", "ready", "route", "kubeconfig"} <= set(events)
    assert site.fetch("/") == "web one"
    assert "web-" in site.run("logs", "web").stdout

    (site.directory / "tiny/system.py").write_text(SYSTEM.replace("services=[web, api]", "services=[web]"))
    again = site.run("up", "--detach", "--timeout", "40")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "removed Deployment api" in again.stdout
    until(lambda: set(site.pods().values()) == {"web"}, 20, "the service that is gone has no pod")

    os.kill(json.loads((site.directory / ".sampan/cluster.json").read_text())["pid"], signal.SIGKILL)
    after = site.run("up", "--detach", "--timeout", "40")
    assert after.returncode == 0, after.stdout + after.stderr
    assert site.fetch("/") == "web one"

    assert site.run("down", "--delete").returncode == 0
    assert not (site.directory / ".sampan").exists()


def test_what_does_not_come_up_says_why(site: Site) -> None:
    manifest = site.directory / "alien.yaml"
    manifest.write_text(
        """
apiVersion: apps/v1
kind: Deployment
metadata: {name: alien}
spec:
  selector: {matchLabels: {app: alien}}
  template:
    metadata: {labels: {app: alien}}
    spec: {containers: [{name: main, image: "example.com/alien:1"}]}
"""
    )
    done = site.run("up", "alien.yaml", "--detach", "--timeout", "4")
    assert done.returncode == 1
    assert "example.com/alien:1" in done.stderr
    assert "not Ready within 4 s" in done.stderr
    manifest.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: 1, b: [2]}\n")
    refused = site.run("up", "alien.yaml", "--detach")
    assert refused.returncode == 2
    assert "ConfigMap c" in refused.stderr


def test_what_init_writes_runs(site: Site) -> None:
    shutil.rmtree(site.directory / "tiny")
    assert site.run("init").returncode == 0
    up = site.run("up", "--detach", "--timeout", "45")
    assert up.returncode == 0, up.stdout + up.stderr
    info = json.loads((site.directory / ".sampan/cluster.json").read_text())
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(info["ingress"] + "/api/notes", b'{"text": "hello"}', headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 201
    assert json.loads(site.fetch("/api/notes")) == [{"id": 1, "text": "hello"}]
    until(lambda: "note 1 was written" in site.run("logs", "notes").stdout, 10, "the event is consumed")
