"""A unary gRPC call: CPU of the server, for the same handler with everything of ours on, bare, and traced as usual.

Bare is grpc.aio alone. The usual is opentelemetry-instrumentation-grpc with its batch processor: spans, but neither
metrics nor log lines, for no interceptor for Prometheus that knows asyncio is maintained. All three run on uvloop, in
processes of their own; one client drives them in turns, with 16 calls at once. Both exporters send every span to a
sink. A ratio above 1 means less CPU than the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import PeerMissing, Row, peer_python, row
from benchmarks.service.harness import AREA, free_port, server

CALLS = 2000
AT_ONCE = 16
ROUNDS = 7
# the handler, and around it what each of the three needs
ECHO = """
import grpc
class Echo:
    async def Say(self, request, context):
        return request
def add_services(server):
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(Echo().Say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    server.add_registered_method_handlers("bench.Echo", handlers)
"""
SYSTEM = """
from sampan import Application, Environment, Service
app = Application("bench", services=[Service("echo", grpc="echo:add_services")], environments=[Environment("prod")])
"""
OURS = "import sys; from sampan.service.main import serve; sys.exit(serve('echo'))"
BARE = """
import asyncio, http.server, os, sys, threading, grpc, uvloop
from echo import add_services
INTERCEPTORS = []
{more}
async def main():
    server = grpc.aio.server(interceptors=INTERCEPTORS)
    add_services(server)
    server.add_insecure_port("127.0.0.1:" + os.environ["GRPC_PORT"])
    await server.start()
    up = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    await server.wait_for_termination()
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n")
    writer.close()
uvloop.run(main())
"""
TRACED = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
INTERCEPTORS = [aio_server_interceptor()]
"""
SINK = Path(__file__).with_name("sink.py").read_text()


def cpu(pid: int) -> float:
    """Seconds of processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def drive(ports: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Median CPU microseconds a call of each server, by name -> (gRPC port, pid)."""
    import grpc

    taken: dict[str, list[float]] = {name: [] for name in ports}
    async with contextlib.AsyncExitStack() as stack:
        methods: dict[str, Any] = {}
        for name, (port, _) in ports.items():
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            methods[name] = channel.unary_unary("/bench.Echo/Say")

        async def some(method: Any) -> None:
            for _ in range(CALLS // AT_ONCE):
                await method(b'{"id": 42}', wait_for_ready=True, timeout=10)

        for round_ in range(ROUNDS + 1):
            for name, (_, pid) in ports.items():
                before = cpu(pid)
                await asyncio.gather(*(some(methods[name]) for _ in range(AT_ONCE)))
                if round_:  # the first warms up
                    taken[name].append((cpu(pid) - before) / CALLS * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


@contextlib.contextmanager
def running(directory: Path, code: str, collector: int, **how: Any) -> Iterator[tuple[int, int]]:
    """(gRPC port, pid) of a server."""
    port = free_port()
    environment = {
        "GRPC_PORT": str(port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "SAMPAN_ENVIRONMENT": "prod",
    }
    with server(directory, code, environment=environment, path="/health", **how) as (_, pid):
        yield port, pid


def run() -> Iterable[Row]:
    try:
        requirements = [
            "grpcio",
            "uvloop",
            "opentelemetry-instrumentation-grpc",
            "opentelemetry-exporter-otlp-proto-http",
        ]
        peer: Path | None = peer_python("grpc-traced", requirements)
    except PeerMissing:
        peer = None
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        directory = Path(folder)
        (directory / "echo.py").write_text(ECHO)
        (directory / "system.py").write_text(SYSTEM)
        collector, _ = stack.enter_context(server(directory, SINK, path="/", core=1))
        start = stack.enter_context
        servers = {
            "ours": start(running(directory, OURS, collector)),
            "bare": start(running(directory, BARE.format(more=""), collector, python=sys.executable)),
        }
        if peer is not None:
            servers["traced"] = start(running(directory, BARE.format(more=TRACED), collector, python=peer))
        found = asyncio.run(drive(servers))
    yield row(AREA, "gRPC unary call", found["ours"], "us CPU", peer="bare grpc.aio", peer_value=found["bare"])
    if "traced" in found:
        name = "opentelemetry-instrumentation-grpc"
        yield row(AREA, "gRPC unary call, traced", found["ours"], "us CPU", peer=name, peer_value=found["traced"])
