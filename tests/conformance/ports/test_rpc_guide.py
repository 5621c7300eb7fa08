"""docs/guides/grpc.md, run: its files make a system of two processes, which keeps what the page says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.servers.base import free_port, until

GUIDE = Path(__file__).parents[3] / "docs/guides/grpc.md"


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for name, text in re.findall(r"```\w+\n(?:#|//) (\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "sampan", "proto", "."], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "greet/greeter_pb2_grpc.pyi" in done.stdout
    return tmp_path


class Process:
    def __init__(self, directory: Path, name: str, **environment: str) -> None:
        self.http, self.rpc, self.log = free_port(), free_port(), directory / f"{name}.log"
        variables = {
            **os.environ,
            "SAMPAN_APP": "greet.system:greetings",
            "SAMPAN_ENVIRONMENT": "dev",
            "SAMPAN_POD_IP": "127.0.0.1",
            "PORT": str(self.http),
            "GRPC_PORT": str(self.rpc),
            **environment,
        }
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "sampan", "serve", name]
            self.process = subprocess.Popen(command, cwd=directory, env=variables, stdout=log, stderr=log)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()

    def ready(self) -> Process:
        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                return self.get("/ready")[0] == 200
            return False

        until(look, 30, "ready")
        return self

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def both(system: Path) -> Iterator[tuple[Process, Process]]:
    greeter = Process(system, "greeter")
    front = Process(system, "front", SAMPAN_SERVICE_GREETER_GRPC=f"127.0.0.1:{greeter.rpc}")
    try:
        yield greeter.ready(), front.ready()
    finally:
        front.stop()
        greeter.stop()


def test_the_guide(both: tuple[Process, Process]) -> None:
    greeter, front = both
    assert front.get("/api/greetings/ada") == (200, '"hello ada"')
    assert front.get("/api/greetings/nobody") == (404, '{"detail":"there is nobody"}')
    assert json.loads(front.get("/api/greetings/ada/all")[1]) == ["hello ada 1", "hello ada 2", "hello ada 3"]
    page = greeter.get("/metrics")[1]
    assert 'rpc_server_requests_total{service="greet.v1.Greeter",method="Greet",code="OK"} 1' in page
    page = front.get("/metrics")[1]
    assert 'rpc_client_requests_total{service="greet.v1.Greeter",method="Greet",code="NOT_FOUND"} 1' in page
    assert greeter.stop() == 0
    assert front.get("/api/greetings/ada")[0] == 503
    assert front.stop() == 0
    lines = [json.loads(line) for line in greeter.log.read_text().splitlines()]
    served = [line for line in lines if line.get("message", "").startswith("gRPC /greet.v1.Greeter/Greet")]
    assert [line["message"].rpartition(" ")[2] for line in served] == ["OK", "NOT_FOUND"]
    asked = [json.loads(line) for line in front.log.read_text().splitlines()]
    (outer,) = [line for line in asked if line.get("message") == "GET /api/greetings/ada 200"]
    assert served[0]["trace_id"] == outer["trace_id"]


async def test_a_stop_fails_no_call_of_the_load(both: tuple[Process, Process]) -> None:
    """The process is told to stop while calls arrive: each is answered, or refused before it was begun."""
    greeter, _ = both
    async with grpc.aio.insecure_channel(f"127.0.0.1:{greeter.rpc}") as channel:
        say: Any = channel.unary_unary("/greet.v1.Greeter/Greet")
        answered, failed = 0, []

        async def load() -> None:
            nonlocal answered
            while True:
                try:
                    assert await say(b"\x0a\x03ada", timeout=10) == b"\x0a\x09hello ada"
                    answered += 1
                except grpc.aio.AioRpcError as error:
                    failed.append(error.code())
                    return

        calls = [asyncio.ensure_future(load()) for _ in range(8)]
        give_up = time.monotonic() + 20
        while answered < 100:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.01)
        greeter.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*calls)
    assert await asyncio.to_thread(greeter.process.wait, 30) == 0
    assert set(failed) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    text = greeter.log.read_text()
    assert text.count("Greeter/Greet OK") >= answered
    assert "Greeter/Greet CANCELLED" not in text
