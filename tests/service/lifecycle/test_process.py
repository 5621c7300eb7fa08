"""Whole processes: signals, a stuck event loop, parts that hang or fail, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.base import free_port, until

SYSTEM = """
from sampan import Application, Every, Job, Service

web = Service("web", asgi="web:app", background=["parts:crashes", Every(0.05, "parts:beat")],
              readiness_checks=["parts:licence"])
hangs = Service("hangs", asgi="web:app", background=["parts:stubborn"])
fails = Service("fails", asgi="web:app", background=["parts:good", "parts:bad"])
slow = Service("slow", asgi="web:app", background=["parts:late"])
app = Application("p", services=[web, hangs, fails, slow], jobs=[
    Job("swallows", run="parts:swallows"), Job("thread", run="parts:thread")])
"""
PARTS = """
import asyncio, time
from sampan.service.lifecycle import readiness_check

beats = 0

async def crashes():
    raise ValueError("crash")

async def beat():
    global beats
    beats += 1

def licence():
    pass

@readiness_check("warm", required=False)
async def warm():
    raise RuntimeError("cold")

async def swallows():
    print('{"part": "begun"}', flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

def thread():
    print('{"part": "begun"}', flush=True)
    time.sleep(60)

class Part:
    async def start(self): print('{"part": "started"}', flush=True)
    async def stop(self): print('{"part": "stopped"}', flush=True)

class Stubborn(Part):
    async def stop(self):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

class Bad(Part):
    async def start(self):
        await asyncio.sleep(0.05)
        raise LookupError("no such thing")

class Late(Part):
    async def start(self):
        await super().start()
        await asyncio.sleep(60)

good, stubborn, bad, late = Part(), Stubborn(), Bad(), Late()
"""
WEB = """
import asyncio, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["path"] == "/stuck":
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.01)
    if scope["path"] == "/blocks":
        time.sleep(0.6)
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


class Running:
    """`sampan serve NAME`, after `patch` has changed times that are too long for a test."""

    def __init__(self, directory: Path, name: str, patch: str, what: str, environment: dict[str, str]) -> None:
        self.port, self.log = free_port(), directory / f"{name}.log"
        program = f"import sys\nimport sampan.service.main as main, sampan.service.job as job\n{patch}\n"
        program += f"sys.exit({what}({name!r}))"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=directory,
                env={
                    **{key: value for key, value in os.environ.items() if not key.startswith("SAMPAN_")},
                    "SAMPAN_APP": "system:app",
                    "SAMPAN_POD_IP": "127.0.0.1",
                    "SAMPAN_DRAIN_SECONDS": "0.1",
                    "SERVICE_BINDING_ROOT": str(directory / "none"),
                    "PORT": str(self.port),
                    **environment,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def get(self, path: str, timeout: float = 10) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def up(self) -> Running:
        def look() -> bool:
            assert self.process.poll() is None, self.output()
            return self.get("/ready")[0] == 200

        until(look, 60, "ready")
        return self

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]

    def send(self, path: str) -> subprocess.Popen[bytes]:
        """A request whose answer nobody in this process waits for."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as u; print(u.urlopen({url!r}, timeout=90).read())"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    for name, text in (("system.py", SYSTEM), ("parts.py", PARTS), ("web.py", WEB)):
        (tmp_path / name).write_text(text)
    started: list[Running] = []

    def run(name: str, patch: str = "", what: str = "main.serve", **environment: str) -> Running:
        started.append(Running(tmp_path, name, patch, what, environment))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


def test_background_functions_and_checks_of_a_service(start: Start) -> None:
    service = start("web").up()
    until(lambda: b'outcome="ok"} 3' in service.get("/metrics")[1], what="periodic runs")
    body = json.loads(service.get("/ready?verbose")[1])
    assert body["status"] == "degraded"
    assert body["checks"]["background parts:crashes"]["answer"].startswith("ValueError: crash")
    assert body["checks"]["warm"]["answer"] == "RuntimeError: cold" and not body["checks"]["warm"]["required"]
    assert body["checks"]["parts:licence"]["answer"] == "ok" and body["checks"]["parts:licence"]["required"]
    until(lambda: b"event_loop_lag_seconds_bucket" in service.get("/metrics")[1], what="the lag of the loop")
    failed = next(line for line in service.lines() if "background parts:crashes failed" in line["message"])
    assert failed["trace_id"] and failed["attributes"]["exception.type"] == "ValueError"
    service.process.terminate()
    assert service.process.wait(20) == 0


def test_a_stuck_loop_is_noticed_with_its_stack_once_and_ends_by_its_deadline(start: Start) -> None:
    service = start("web", "main._BUDGET_SECONDS = 1.5", SAMPAN_STUCK_SECONDS="0.5").up()
    request = service.send("/stuck")
    until(lambda: "has not turned" in service.output(), what="noticed")
    assert service.get("/health", timeout=0.3)[0] == 0
    (line,) = (line for line in service.lines() if "has not turned" in line.get("message", ""))
    assert line["severity"] == "FATAL" and "web.py" in line["attributes"]["stack"]
    time.sleep(1)
    assert service.output().count("has not turned") == 1
    service.process.terminate()
    assert service.process.wait(20) == 1
    assert "not stopped in time" in service.output()
    request.wait(10)


def test_a_process_that_was_paused_is_not_stuck(start: Start) -> None:
    service = start("web", SAMPAN_STUCK_SECONDS="0.4").up()
    service.process.send_signal(signal.SIGSTOP)
    time.sleep(1.2)
    service.process.send_signal(signal.SIGCONT)
    until(lambda: service.get("/health")[0] == 200, what="going on")
    time.sleep(0.5)
    assert "has not turned" not in service.output()
    service.process.terminate()
    assert service.process.wait(20) == 0


def test_a_second_signal_ends_a_stuck_process_at_once(start: Start) -> None:
    service = start("web", SAMPAN_STUCK_SECONDS="0.5").up()
    request = service.send("/stuck")
    until(lambda: "has not turned" in service.output(), what="noticed")
    service.process.terminate()
    time.sleep(0.3)
    assert service.process.poll() is None
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(10) == 1
    request.wait(10)


def test_a_callback_that_blocks_is_shown_in_development_only(start: Start) -> None:
    service = start("web", SAMPAN_ENVIRONMENT="dev").up()
    assert service.get("/blocks")[0] == 200
    until(lambda: "blocks the event loop" in service.output(), what="shown")
    until(lambda: service.get("/blocks")[0] == 200, what="once more")
    lines = [line for line in service.lines() if "blocks the event loop" in line.get("message", "")]
    assert len(lines) == 1 and "time.sleep(0.6)" in lines[0]["attributes"]["stack"]
    other = start("web").up()
    assert other.get("/blocks")[0] == 200
    assert "blocks the event loop" not in other.output()


def test_requests_in_flight_end_well_and_what_hangs_is_left_behind(start: Start) -> None:
    service = start("hangs", "main.STOP_SECONDS = 12.0").up()
    slow = [service.send("/slow") for _ in range(3)]
    until(lambda: b"requests_active 3" in service.get("/metrics")[1], what="three in flight")
    service.process.terminate()
    assert service.process.wait(25) == 0
    assert [request.communicate(timeout=10)[0] for request in slow] == [b"b'ok'\n"] * 3
    assert "stopping background parts:stubborn took more than" in service.output()
    assert service.lines()[-1]["message"] == "stopped"


def test_a_failing_start_stops_what_was_started_and_says_why(start: Start) -> None:
    service = start("fails")
    assert service.process.wait(20) == 1
    lines = service.lines()
    assert [line["part"] for line in lines if "part" in line] == ["started", "stopped", "stopped"]
    assert any("cannot start: background parts:bad: no such thing" in line.get("message", "") for line in lines)


def test_a_signal_during_the_start_ends_it(start: Start) -> None:
    service = start("slow")
    until(lambda: '"part": "started"' in service.output(), what="starting")
    assert json.loads(service.get("/ready")[1]) == {"status": "starting"}
    service.process.terminate()
    assert service.process.wait(20) == 0
    assert '"part": "stopped"' in service.output()


def test_kill_leaves_nothing(start: Start) -> None:
    service = start("web").up()
    service.process.kill()
    service.process.wait(10)
    with pytest.raises(ProcessLookupError):
        os.killpg(service.process.pid, 0)
    assert service.get("/health")[0] == 0


@pytest.mark.parametrize(("name", "patch"), [("swallows", "job.STOP_SECONDS = 0.5"), ("thread", "")])
def test_a_job_that_would_not_stop_ends_all_the_same(name: str, patch: str, start: Start) -> None:
    running = start(name, patch, "job.run_job")
    until(lambda: "begun" in running.output(), what="begun")
    running.process.terminate()
    assert running.process.wait(20) == 143
