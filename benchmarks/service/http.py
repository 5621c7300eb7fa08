"""A fully instrumented service beside bare FastAPI, beside today's usual stack and beside the best one.

Every server is one process on one core; wrk (or `pace.py`, for the fixed load) on another where there is one, and with
it the sink that receives the spans. The endpoint is `GET /users/42`, a small typed object. Ours is `sampan serve` with
everything it always has: trace context, server span, RED metrics, access log, deadline. Every span of ours must have
reached the sink, or have been counted as dropped, or the run fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import Row, compare, peer_python, program, row, turns
from benchmarks.service import stacks
from benchmarks.service.harness import AREA, free_port, load, pin, resident, server

HERE = Path(__file__).parent
MORE: dict[str, Any] = {"more_is_better": True}
ROUNDS = 9  # of a second each: what the host takes comes in bursts


def run() -> Iterable[Row]:
    wrk = program("wrk", "apt-get install wrk")
    with tempfile.TemporaryDirectory() as made, sink() as told:
        directory = Path(made)
        (directory / "web.py").write_text(stacks.WEB)
        (directory / "system.py").write_text(stacks.SYSTEM)
        export = {"OTEL_EXPORTER_OTLP_ENDPOINT": told, "OTEL_SERVICE_NAME": "bench"}
        ours = stacks.OURS.format(name="fast")
        with server(directory, ours, environment=export) as fast:
            yield from beside_bare(directory, wrk, fast)
            yield from beside_stacks(directory, wrk, fast, export)
            settle(fast[0], told)
        with (
            server(directory, stacks.OURS.format(name="raw"), environment=export) as raw,
            server(directory, stacks.BARE) as bare,
        ):
            mine, theirs = compare(partial(brief, wrk, raw[0]), partial(brief, wrk, bare[0]), ROUNDS)
            name = "raw ASGI, instrumented"
            yield row(AREA, name, mine, "requests/s", peer="FastAPI, bare", peer_value=theirs, **MORE)


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """The address of a receiver of spans, on the core of the load, which it never takes from the load."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(HERE / "sink.py"), str(port)], preexec_fn=spare)  # noqa: PLW1509
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                got(f"http://127.0.0.1:{port}/")
                break
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def spare() -> None:
    """On the last core, in what time the load leaves: what a collector elsewhere does is not our latency."""
    pin(1)()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def got(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
    return body.decode()


def totals(port: int) -> dict[str, float]:
    """The sums of all series of each metric of a service of ours."""
    found: dict[str, float] = {}
    for line in got(f"http://127.0.0.1:{port}/metrics").splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def settle(port: int, told: str) -> None:
    """Wait until every request's span is accounted for. RuntimeError when some are not."""
    for _ in range(100):
        found = totals(port)
        sent, lost = found["telemetry_exported_total"], found.get("telemetry_dropped_total", 0.0)
        if sent + lost >= found["http_requests_total"] and float(got(told)) >= sent:
            if lost > 0.001 * sent:
                raise RuntimeError(f"{lost:.0f} spans were dropped, {sent:.0f} sent")
            return
        time.sleep(0.1)
    raise RuntimeError(f"requests and spans do not agree: {found}")


def brief(wrk: str, port: int) -> float:
    return load(wrk, port, seconds=1)


def beside_bare(directory: Path, wrk: str, fast: tuple[int, int]) -> Iterator[Row]:
    def saturated(port: int) -> tuple[float, float]:
        late: list[float] = []
        return load(wrk, port, late, seconds=1), late[0]

    with server(directory, stacks.BARE) as bare:
        for port, _ in (fast, bare):
            load(wrk, port)
        ours, peer = (
            [statistics.median(one) for one in zip(*side, strict=True)]
            for side in turns(15, lambda: saturated(fast[0]), lambda: saturated(bare[0]))
        )
        yield row(AREA, "instrumented/bare", ours[0], "requests/s", peer="FastAPI, bare", peer_value=peer[0], **MORE)
        name = "instrumented/bare, p99 at saturation"
        yield row(AREA, name, ours[1], "ms", peer="FastAPI, bare", peer_value=peer[1])
        half = peer[0] / 2
        mine, theirs = compare(lambda: paced(fast[0], half), lambda: paced(bare[0], half), 15, warm_up=0)
        yield row(AREA, "instrumented/bare, p99 at half load", mine, "ms", peer="FastAPI, bare", peer_value=theirs)
        mine, theirs = resident(fast[1]), resident(bare[1])
        yield row(AREA, "memory after load", mine, "MiB", peer="FastAPI, bare", peer_value=theirs)


def paced(port: int, rate: float) -> float:
    """The p99 in ms at `rate` requests a second."""
    done = subprocess.run(
        [sys.executable, str(HERE / "pace.py"), str(port), str(rate), "1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        preexec_fn=pin(1),
    )
    return float(json.loads(done.stdout)["p99"])


def beside_stacks(directory: Path, wrk: str, fast: tuple[int, int], export: dict[str, str]) -> Iterator[Row]:
    python = peer_python("service-stacks", stacks.PACKAGES)
    for name, code, peer_name in (
        ("usual-stack", stacks.USUAL, "FastAPI + OTel + Prometheus + structlog"),
        ("best-stack", stacks.BEST, "FastAPI's own OTel + Prometheus + structlog"),
    ):
        with server(directory, code, python, environment=export) as theirs:
            ours, peer = compare(partial(brief, wrk, fast[0]), partial(brief, wrk, theirs[0]), ROUNDS)
            yield row(AREA, f"instrumented/{name}", ours, "requests/s", peer=peer_name, peer_value=peer, **MORE)
            mine, held = resident(fast[1]), resident(theirs[1])
            yield row(AREA, f"memory after load, beside the {name}", mine, "MiB", peer=peer_name, peer_value=held)
