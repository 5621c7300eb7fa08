"""The service process beside bare FastAPI and beside today's usual stack, under load from wrk; and what a start costs.

Every server is one process on one core, wrk on another where there is one, at `GET /users/42` -> a small typed object.
Ours is `sampan serve` with everything it always has: trace context, server span, RED metrics, access log, deadline.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import Row, compare, median, peer_python, program, row
from benchmarks.service.harness import AREA, free_port, load, resident, server

WEB = """
from fastapi import FastAPI
from pydantic import BaseModel

class User(BaseModel):
    id: int
    name: str
    email: str

app = FastAPI()

@app.get("/users/{user_id}")
async def user(user_id: int) -> User:
    return User(id=user_id, name="Ada Lovelace", email="ada@example.com")

BODY = b'{"id":42,"name":"Ada Lovelace","email":"ada@example.com"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]

async def raw(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
"""
SYSTEM = """
from sampan import Application, Service

app = Application("bench", services=[Service("fast", asgi="web:app"), Service("raw", asgi="web:raw")])
"""
OURS = "import sys; from sampan.service.main import serve; sys.exit(serve({name!r}))"
BARE = "import sys, uvicorn; uvicorn.run('web:app', port=int(sys.argv[1]), access_log=False, log_level='error')"
USUAL = """
import sys, time
import structlog, uvicorn
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_fastapi_instrumentator import Instrumentator
from web import app

class Nowhere(SpanExporter):
    def export(self, spans):
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Nowhere()))
trace.set_tracer_provider(provider)
structlog.configure(
    processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
    logger_factory=structlog.WriteLoggerFactory(file=open("/dev/null", "w")),
    cache_logger_on_first_use=True,
)
log = structlog.get_logger()

@app.middleware("http")
async def access(request, call_next):
    started = time.perf_counter()
    response = await call_next(request)
    span = trace.get_current_span().get_span_context()
    log.info("request", method=request.method, path=request.url.path, status=response.status_code,
             duration=time.perf_counter() - started, trace_id=format(span.trace_id, "032x"))
    return response

Instrumentator().instrument(app).expose(app)
FastAPIInstrumentor.instrument_app(app)
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error")
"""
USUAL_PACKAGES = (
    "fastapi",
    "uvicorn",
    "httptools",
    "uvloop",
    "structlog",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-fastapi",
    "prometheus-fastapi-instrumentator",
)
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


def run() -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        (directory / "web.py").write_text(WEB)
        (directory / "system.py").write_text(SYSTEM)
        yield from starting(directory)
        yield from requests(directory)


def requests(directory: Path) -> Iterator[Row]:
    wrk = program("wrk", "apt-get install wrk")
    with (
        server(directory, OURS.format(name="fast")) as (fast, fast_pid),
        server(directory, OURS.format(name="raw")) as (raw, _),
        server(directory, BARE) as (bare, bare_pid),
    ):
        late: tuple[list[float], list[float]] = ([], [])
        ours, peer = compare(lambda: load(wrk, fast, late[0]), lambda: load(wrk, bare, late[1]), 5)
        more: dict[str, Any] = {"more_is_better": True}
        yield row(AREA, "instrumented/bare", ours, "requests/s", peer="FastAPI, bare", peer_value=peer, **more)
        mine, theirs = sorted(late[0])[len(late[0]) // 2], sorted(late[1])[len(late[1]) // 2]
        yield row(AREA, "instrumented/bare, p99 at saturation", mine, "ms", peer="FastAPI, bare", peer_value=theirs)
        ours, peer = compare(lambda: load(wrk, raw), lambda: load(wrk, bare), 3)
        yield row(AREA, "raw ASGI, instrumented", ours, "requests/s", peer="FastAPI, bare", peer_value=peer, **more)
        mine, theirs = resident(fast_pid), resident(bare_pid)
        yield row(AREA, "memory after load", mine, "MiB", peer="FastAPI, bare", peer_value=theirs)
        usual_python = peer_python("service-usual", USUAL_PACKAGES)
        with server(directory, USUAL, usual_python) as (usual, _):
            late = ([], [])
            ours, peer = compare(lambda: load(wrk, fast, late[0]), lambda: load(wrk, usual, late[1]), 5)
            stack = "FastAPI + OTel + Prometheus + structlog"
            yield row(AREA, "instrumented/usual-stack", ours, "requests/s", peer=stack, peer_value=peer, **more)
            mine, theirs = sorted(late[0])[len(late[0]) // 2], sorted(late[1])[len(late[1]) // 2]
            yield row(AREA, "instrumented/usual-stack, p99", mine, "ms", peer=stack, peer_value=theirs)


def starting(directory: Path) -> Iterator[Row]:
    def fork() -> float:
        environment = {
            **os.environ,
            **{"PORT": str(free_port()), "SAMPAN_APP": "system:app", "SAMPAN_POD_IP": "127.0.0.1"},
            "SAMPAN_DRAIN_SECONDS": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", FORK], cwd=directory, env=environment, capture_output=True, timeout=60, check=True
        )
        return float(next(line for line in done.stdout.decode().splitlines() if not line.startswith("{")))

    yield row(AREA, "start, from a warm parent to ready", median(fork, 3) * 1000, "ms")

    def cold() -> float:
        started = time.perf_counter()
        with server(directory, OURS.format(name="fast")):
            return time.perf_counter() - started

    def cold_bare() -> float:
        started = time.perf_counter()
        with server(directory, BARE):
            return time.perf_counter() - started

    ours, peer = compare(cold, cold_bare, 3)
    yield row(AREA, "start, cold, to the first answer", ours * 1000, "ms", peer="FastAPI, bare", peer_value=peer * 1000)
