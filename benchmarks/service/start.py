"""What a start costs: from the first instruction to the first answer, and for a worker forked from a warm parent."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import Row, compare, median, row
from benchmarks import environment as inherited
from benchmarks.service import stacks
from benchmarks.service.harness import AREA, free_port, server

FORK = """
import os, signal, sys, time, urllib.request, gc
import sampan.service.preload
gc.collect(); gc.freeze()
started = time.perf_counter()
child = os.fork()
if child == 0:
    from sampan.service.main import serve
    os._exit(serve("fast"))
while True:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/ready", timeout=1)
        break
    except OSError:
        time.sleep(0.001)
print(time.perf_counter() - started)
os.kill(child, signal.SIGTERM)
os.waitpid(child, 0)
"""
# as a pod starts it
SERVE = "import sys; from sampan.cli.main import main; sys.exit(main(['serve', {name!r}]))"
# a broker that is not there: a service starts without it, and connects when it comes
WHOLE = {
    "SAMPAN_DATABASE_USERS_URI": "sqlite:///bench.db",
    "SAMPAN_MESSAGING_URI": "nats://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
}


def run() -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        (directory / "web.py").write_text(stacks.WEB + "\nasync def consume(event): ...\n")
        (directory / "system.py").write_text(stacks.SYSTEM)
        yield from starting(directory)


def starting(directory: Path) -> Iterator[Row]:
    def fork() -> float:
        environment = {
            **inherited(),
            **{"PORT": str(free_port()), "SAMPAN_APP": "system:app", "SAMPAN_POD_IP": "127.0.0.1"},
            "SAMPAN_DRAIN_SECONDS": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", FORK], cwd=directory, env=environment, capture_output=True, timeout=60, check=True
        )
        return float(next(line for line in done.stdout.decode().splitlines() if not line.startswith("{")))

    yield row(AREA, "start, from a warm parent to ready", median(fork, 3) * 1000, "ms")

    def cold(code: str, **environment: str) -> float:
        started = time.perf_counter()
        with server(directory, code, environment=environment):
            return time.perf_counter() - started

    ours, peer = compare(lambda: cold(SERVE.format(name="fast")), lambda: cold(stacks.BARE), 3)
    yield row(AREA, "start, cold, to the first answer", ours * 1000, "ms", peer="FastAPI, bare", peer_value=peer * 1000)
    whole = median(lambda: cold(SERVE.format(name="whole"), **WHOLE), 3)
    yield row(AREA, "start, cold, with HTTP, database, messages and export", whole * 1000, "ms")
