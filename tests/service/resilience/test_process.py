"""Whole processes: what is declared reaches the clients and guards of `sampan serve`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.base import free_port

SYSTEM = """
from sampan import Application, Call, Limits, Policy, Service
back = Service("back", asgi="web:back")
front = Service(
    "front", asgi="web:front", calls=[Call(back, Policy(timeout=0.3, retries=0))],
    limits=Limits(rate=1, burst=4, concurrency=77, adaptive=False),
)
app = Application("p", services=[front, back])
"""
WEB = """
import asyncio
from system import back as service

async def front(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    reply = await service.client.get(scope["path"])
    await send({"type": "http.response.start", "status": reply.status, "headers": []})
    await send({"type": "http.response.body", "body": reply.body})

stopped = 0
async def back(scope, receive, send):
    global stopped
    if scope["type"] != "http":
        raise RuntimeError
    if scope["path"] == "/slow":
        try:
            await asyncio.sleep(60)
        finally:
            stopped += 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(stopped).encode()})
"""


def get(port: int, path: str) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
            return reply.status, reply.read().decode(), {k.lower(): v for k, v in reply.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), {k.lower(): v for k, v in error.headers.items()}


@contextlib.contextmanager
def serve(directory: Path, name: str, **more: str) -> Iterator[int]:
    port = free_port()
    environment = {
        **os.environ,
        "SAMPAN_APP": "system:app",
        "PORT": str(port),
        "SAMPAN_POD_IP": "127.0.0.1",
        "SAMPAN_DRAIN_SECONDS": "0",
        **more,
    }
    code = f"import sys; from sampan.service.main import serve; sys.exit(serve({name!r}))"
    with (directory / f"{name}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=directory, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert process.poll() is None, (directory / f"{name}.log").read_text()
            with contextlib.suppress(OSError):
                if get(port, "/ready")[0] == 200:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        assert process.wait(40) == 0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "system.py").write_text(SYSTEM)
    (tmp_path / "web.py").write_text(WEB)
    return tmp_path


def test_policy_and_limits_of_a_declared_system(directory: Path) -> None:
    with (
        serve(directory, "back") as back,
        serve(directory, "front", SAMPAN_SERVICE_BACK_URL=f"http://127.0.0.1:{back}") as front,
    ):
        assert get(front, "/")[:2] == (200, "0")
        started = time.monotonic()
        assert get(front, "/slow")[0] == 504 and time.monotonic() - started < 10  # of the 60 it would take
        for _ in range(100):
            if get(back, "/")[1] == "1":  # the callee has stopped as well
                break
            time.sleep(0.05)
        assert get(back, "/")[1] == "1"
        statuses = [get(front, "/") for _ in range(8)]
        refused = [headers for status, _, headers in statuses if status == 429]
        assert refused and refused[0]["ratelimit-policy"] == '"caller";q=4;w=4' and "retry-after" in refused[0]
        page = get(front, "/metrics")[1]
        assert "server_concurrency_limit 77" in page and 'server_shed_total{reason="rate"}' in page
        assert 'client_requests_total{service="back",method="GET",status="timeout"} 1' in page
        assert 'client_requests_active{service="back"} 0' in page
