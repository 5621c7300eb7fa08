"""Whole processes: serve, run and migrate as a pod runs them, and as a fork of a warm parent."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

SYSTEM = """
from sampan import Application, Cache, Database, Job, Service
db = Database("work", engine="sqlite", migrations="migrations")
spare = Cache("spare")
web = Service("web", asgi="web:app", uses=[db.read_write()])
worker = Service("worker", calls=[web])
broken = Service("broken", asgi="web:missing")
sad = Service("sad", asgi="web:sad")
soft = Service("soft", uses=[spare.read()])
app = Application("p", services=[web, worker, broken, sad, soft], jobs=[
    Job("count", run="jobs:count", uses=[db.read_write()]), Job("plain", run="jobs:plain"), Job("bad", run="jobs:bad"),
    Job("long", run="jobs:long"),
])
"""
WEB = """
import asyncio
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    print('{"lifespan": "up"}', flush=True)
    app.get("/late")(slow)
    yield
    print('{"lifespan": "down"}', flush=True)

app = FastAPI(lifespan=lifespan)

@app.get("/slow")
async def slow() -> str:
    await asyncio.sleep(0.6)
    return "done"

@app.get("/ready")
async def ready() -> str:
    return "my own"

@app.get("/order")
async def order() -> list[str]:
    return [route.path for route in app.router.routes]

@asynccontextmanager
async def fails(app):
    raise RuntimeError("no luck")
    yield

sad = FastAPI(lifespan=fails)
"""
JOBS = """
import asyncio
from sqlalchemy import text
from system import db

async def count():
    async with db.transaction() as session:
        await session.execute(text("INSERT INTO things (id) VALUES (2)"))

def plain():
    print('{"plain": true}')

async def bad():
    raise ValueError("bad job")

async def long():
    print("begun", flush=True)
    await asyncio.sleep(60)
"""
REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "one", None
def upgrade():
    op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "migrations/versions").mkdir(parents=True)
    for name, text in {
        "system.py": SYSTEM,
        "web.py": WEB,
        "jobs.py": JOBS,
        "migrations/versions/one.py": REVISION,
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


@pytest.fixture
def environment(directory: Path, port: int) -> dict[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("SAMPAN_")},
        "SAMPAN_APP": "system:app",
        "SAMPAN_POD_IP": "127.0.0.1",
        "SAMPAN_DRAIN_SECONDS": "0.2",
        "SAMPAN_DATABASE_WORK_URI": f"sqlite:///{directory / 'data' / 'work.db'}",
        "SAMPAN_CACHE_SPARE_URI": "redis://127.0.0.1:1",
        "SERVICE_BINDING_ROOT": str(directory / "none"),
        "PORT": str(port),
    }


CALL = "import sys; from sampan.service.{0} import {1}; sys.exit({1}({2!r}))"
SERVE, JOB, MIGRATE = ("main", "serve"), ("job", "run_job"), ("migrate", "migrate")


def command(what: tuple[str, str], name: str) -> list[str]:
    return [sys.executable, "-c", CALL.format(*what, name)]


def ended(command: list[str], directory: Path, environment: dict[str, str]) -> tuple[int, str]:
    """The exit code of a command and what it wrote."""
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def finish(what: tuple[str, str], name: str, directory: Path, environment: dict[str, str]) -> tuple[int, str]:
    return ended(command(what, name), directory, environment)


class Running:
    started: ClassVar[list[Running]] = []

    def __init__(self, name: str, directory: Path, environment: dict[str, str]) -> None:
        self.port, self.log = int(environment["PORT"]), directory / "out.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command(SERVE, name), cwd=directory, env=environment, stdout=log, stderr=log
            )
        self.started.append(self)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def up(self) -> Running:
        give_up = time.monotonic() + 60
        while self.get("/health")[0] != 200:
            assert self.process.poll() is None and time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.02)
        return self


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """What a test that failed had started ends too."""
    yield
    while Running.started:
        Running.started.pop().process.kill()


def test_migrate_then_job(directory: Path, environment: dict[str, str]) -> None:
    both = [subprocess.Popen(command(MIGRATE, "work"), cwd=directory, env=environment) for _ in range(2)]
    assert [one.wait(30) for one in both] == [0, 0]
    code, output = finish(JOB, "count", directory, environment)
    assert code == 0, output
    with sqlite3.connect(directory / "data/work.db") as connection:
        assert connection.execute("SELECT id FROM things").fetchall() == [(2,)]
    assert finish(MIGRATE, "other", directory, environment)[0] == 2


def test_jobs_and_their_ends(directory: Path, environment: dict[str, str]) -> None:
    code, output = finish(JOB, "plain", directory, environment)
    assert code == 0 and '"plain": true' in output
    code, output = finish(JOB, "bad", directory, environment)
    assert code == 1 and "job failed: bad job" in output
    code, output = finish(JOB, "nosuch", directory, environment)
    assert code == 2 and "there are: bad, count, long, plain" in output
    process = subprocess.Popen(command(JOB, "long"), cwd=directory, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None and b"begun" in process.stdout.readline()
    process.terminate()
    assert process.wait(20) == 143
    process.stdout.close()


def test_graceful_stop_with_a_request_in_flight(directory: Path, environment: dict[str, str]) -> None:
    service = Running("web", directory, environment).up()
    assert service.get("/ready") == (200, b'"my own"')
    slow = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{service.port}/slow').read())",
        ],
        stdout=subprocess.PIPE,
    )
    while b"requests_active 1" not in service.get("/metrics")[1]:
        time.sleep(0.01)
    service.process.send_signal(signal.SIGTERM)
    assert service.get("/slow?again")[0] == 200  # still accepted while draining
    assert slow.communicate(timeout=60)[0] == b"b'\"done\"'\n"
    assert service.process.wait(20) == 0
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    kept = [line.get("lifespan") or line.get("message") for line in lines]
    assert [word for word in kept if word in ("up", "serving", "stopping", "down", "stopped")] == [
        *("up", "serving", "stopping", "down", "stopped")
    ]


def test_the_pages_of_fastapi_are_asked_after_the_routes_of_the_lifespan(
    directory: Path, environment: dict[str, str]
) -> None:
    service = Running("web", directory, environment).up()
    give_up = time.monotonic() + 60
    while '"serving"' not in service.log.read_text():
        assert time.monotonic() < give_up
        time.sleep(0.01)
    order = json.loads(service.get("/order")[1])
    assert order[:4] == ["/slow", "/ready", "/order", "/late"] and {*order[4:]} >= {"/docs", "/openapi.json"}
    service.process.terminate()
    assert service.process.wait(20) == 0


def test_a_second_signal_ends_at_once(directory: Path, environment: dict[str, str]) -> None:
    service = Running("web", directory, {**environment, "SAMPAN_DRAIN_SECONDS": "20"}).up()
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(10) == 1  # half of what draining alone would take


def test_a_worker_has_the_three_endpoints_and_a_cache_outage_only_degrades(
    directory: Path, environment: dict[str, str]
) -> None:
    service = Running("soft", directory, environment).up()
    status, body = service.get("/ready")
    assert status == 200 and json.loads(body)["status"] == "degraded"
    assert service.get("/metrics")[0] == 200 and service.get("/other")[0] == 404
    service.process.terminate()
    assert service.process.wait(20) == 0


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nosuch", 2, "no service 'nosuch'; there are: broken, sad, soft, web, worker"),
        ("broken", 2, "'missing'"),
        ("sad", 1, "no luck"),
    ],
)
def test_what_cannot_start_says_why(
    name: str, code: int, words: str, directory: Path, environment: dict[str, str]
) -> None:
    found, output = finish(SERVE, name, directory, environment)
    assert (found, words in output) == (code, True), output


@pytest.mark.parametrize(
    ("text", "words", "stack"),
    [
        ("def f():\n    return 1 / 0\n\napp = f()\n", "ZeroDivisionError: division by zero", "1 / 0"),
        ("import nosuch\n", "ModuleNotFoundError: No module named 'nosuch'", "import nosuch"),
        ("def f(:\n", "SyntaxError: invalid syntax (web.py, line 1)", "def f(:"),
    ],
)
def test_a_module_that_fails_is_told_with_its_own_lines(
    text: str, words: str, stack: str, directory: Path, environment: dict[str, str]
) -> None:
    (directory / "web.py").write_text(text)
    code, output = finish(SERVE, "broken", directory, environment)
    line = json.loads(output)
    message = f"sampan serve broken: asgi of service 'broken', 'web:missing' cannot be imported: {words}"
    assert (code, line["severity"], line["message"]) == (2, "FATAL", message)
    found = line["attributes"]["exception.stacktrace"]
    files = set(re.findall(r'File "([^"]+)"', found))
    assert stack in found and files == {str(directory / "web.py")}


def test_a_declaration_that_fails_is_told_with_its_own_lines(directory: Path, environment: dict[str, str]) -> None:
    (directory / "system.py").write_text("import sampan\nsampan.Service()\n")
    code, output = finish(SERVE, "web", directory, environment)
    assert code == 2
    assert output.startswith("sampan serve web: SAMPAN_APP 'system:app' cannot be imported: TypeError: ")
    assert re.findall(r'File "([^"]+)"', output) == [str(directory / "system.py")]


def test_the_application_of_the_directory_is_served(directory: Path, environment: dict[str, str]) -> None:
    """As in a shell: no SAMPAN_APP, and the command itself."""
    environment.pop("SAMPAN_APP")
    for arguments in (["migrate", "work"], ["run", "count"]):
        code, output = ended([sys.executable, "-m", "sampan", *arguments], directory, environment)
        assert code == 0, output


def test_an_address_in_use_is_said(directory: Path, environment: dict[str, str], port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, output = finish(SERVE, "worker", directory, environment)
    fatal = [json.loads(line)["message"] for line in output.splitlines() if "FATAL" in line]
    assert (code, fatal) == (1, [f"cannot start: http: cannot listen on 127.0.0.1:{port}: address already in use"])
    assert "Traceback" not in output


FORK = """
import gc, os, signal, time, urllib.request
import sampan.service.preload
gc.collect(); gc.freeze()
times = []
for number in range(3):
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        from sampan.service.main import serve
        os._exit(serve("web"))
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.002)
    times.append(time.perf_counter() - begun)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == 0
print(min(times))
"""


def test_forks_of_a_warm_parent_serve_at_once(directory: Path, environment: dict[str, str]) -> None:
    code, output = ended([sys.executable, "-c", FORK], directory, environment)
    assert code == 0, output
    assert float(output.splitlines()[-1]) < 0.5


def test_only_what_is_used_is_imported(directory: Path, environment: dict[str, str]) -> None:
    program = (
        "import sys, sampan.service.main as m; from sampan.service.process import Process, load_application\n"
        "app = load_application(); Process(app.service('worker')).bind()\n"
        "print([n for n in ('sqlalchemy', 'nats', 'redis', 'alembic', 'fastapi', 'uvicorn') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == "[]"
