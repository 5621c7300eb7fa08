"""A collector that speaks OTLP over HTTP and gRPC and can be told to fail; and a process's telemetry put back after."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from sampan import imports
from sampan.service.telemetry import otlp, settings, tracing
from sampan.service.telemetry.context import CURRENT, SAMPLER
from sampan.service.telemetry.export import Exporter
from sampan.service.telemetry.logs import Redactor
from sampan.service.telemetry.metrics import Registry


class Collector:
    """`spans` and `logs` are what came; `answers` are served first, each once: (status, headers, body)."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.url = self.grpc = ""

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            if isinstance(request, ExportTraceServiceRequest)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def logs(self) -> list[Any]:
        return [
            record
            for request in self.requests
            if isinstance(request, ExportLogsServiceRequest)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp has undone the gzip
        self.headers.append({**{key.lower(): value for key, value in request.headers.items()}, "path": request.path})
        if self.answers:
            status, headers, answer = self.answers.pop(0)
            if status != 200:
                return web.Response(status=status, headers=headers, body=answer)
        else:
            answer = b""
        made: Any = ExportLogsServiceRequest() if "logs" in request.path else ExportTraceServiceRequest()
        if request.content_type == "application/json":
            json_format.Parse(_hex_to_base64(body), made)
        else:
            made.ParseFromString(body)
        self.requests.append(made)
        return web.Response(body=answer, content_type=request.content_type)

    async def take_grpc(self, body: bytes, context: Any) -> bytes:
        self.headers.append(dict(context.invocation_metadata()))
        if self.answers:
            await context.abort(grpc.StatusCode[self.answers.pop(0)[2].decode()], "as told")
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        return ExportTraceServiceResponse().SerializeToString()

    async def take_logs_by_grpc(self, body: bytes, context: Any) -> bytes:
        self.requests.append(ExportLogsServiceRequest.FromString(body))
        return ExportLogsServiceResponse().SerializeToString()


def _hex_to_base64(body: bytes) -> str:
    """OTLP/JSON writes ids in hexadecimal where protobuf's own JSON has base64."""
    import base64
    import json

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {
                key: base64.b64encode(bytes.fromhex(value)).decode() if key in IDS else walk(value)
                for key, value in node.items()
            }
        return [walk(item) for item in node] if isinstance(node, list) else node

    return json.dumps(walk(json.loads(body)))


IDS = {"traceId", "spanId", "parentSpanId"}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server = grpc.aio.server()
    taken: Any = {"trace.v1.TraceService": made.take_grpc, "logs.v1.LogsService": made.take_logs_by_grpc}
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                f"opentelemetry.proto.collector.{name}", {"Export": grpc.unary_unary_rpc_method_handler(take)}
            )
            for name, take in taken.items()
        )
    )
    made.grpc = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield made
    await server.stop(None)
    await runner.cleanup()


Exporting = Callable[..., Any]


@pytest.fixture
def exporting() -> Exporting:
    """`async with exporting(url, protocol=..., **Target fields) as (exporter, registry)`; our spans go there."""

    @contextlib.asynccontextmanager
    async def run(url: str, signal: str = "traces", **options: Any) -> AsyncIterator[tuple[Exporter, Registry]]:
        registry, redactor = Registry(), Redactor()
        redactor.add(["hunter2-secret"])
        target = settings.Target(signal, url=url, **{"protocol": "http/protobuf", "delay": 0.02, **options})
        exporter = Exporter(
            target, otlp.resource({"service.name": "shop"}), registry, redactor, otlp.scope("sampan", "1")
        )
        await exporter.start()
        tracing.export_to(exporter.offer)
        try:
            yield exporter, registry
        finally:
            await exporter.stop()
            tracing.export_to(None)

    return run


def said(caplog: pytest.LogCaptureFixture, logger: str = "sampan.telemetry") -> list[str]:
    """What `logger` has said; its level is the test's to set."""
    return [record.getMessage() for record in caplog.records if record.name == logger]


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Every test begins without spans, and leaves sampling, sinks and import hooks as they were."""
    tracing.RECORDED.clear()
    token = CURRENT.set(None)
    yield
    with contextlib.suppress(ValueError):
        CURRENT.reset(token)
    SAMPLER.configure()
    tracing.export_to(None)
    imports.forget()
