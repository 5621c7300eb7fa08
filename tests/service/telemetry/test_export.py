"""The exporter beside a real collector: every protocol, retries, refusals, an outage, the end of the process."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from sampan.service.telemetry import export, tracing
from sampan.service.telemetry.context import CURRENT, from_headers
from tests.faults import FaultProxy
from tests.service.telemetry.conftest import Collector, Exporting, said, until

OUTAGE = "http://127.0.0.1:9"  # nobody listens there


def work(number: int = 1, name: str = "step") -> None:
    CURRENT.set(from_headers({}))
    for _ in range(number):
        with tracing.span(name, tracing.INTERNAL, {"order": 7}):
            pass


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
@pytest.mark.parametrize("gzip", [False, True])
async def test_spans_arrive(collector: Collector, exporting: Exporting, protocol: str, gzip: bool) -> None:
    url = collector.grpc if protocol == "grpc" else f"{collector.url}/v1/traces"
    options: dict[str, Any] = {"protocol": protocol, "gzip": gzip, "headers": {"authorization": "Bearer abc"}}
    async with exporting(url, **options) as (_, registry):
        work(3)
        await until(lambda: len(collector.spans) == 3)
        span = collector.spans[1]
        assert (span.name, span.kind, span.attributes[0].value.int_value, len(span.trace_id)) == ("step", 1, 7, 16)
        assert collector.headers[0]["authorization"] == "Bearer abc"
        if gzip and protocol != "grpc":
            assert collector.headers[0]["content-encoding"] == "gzip"
        resource = collector.requests[0].resource_spans[0].resource.attributes
        assert [(pair.key, pair.value.string_value) for pair in resource] == [("service.name", "shop")]
        await until(lambda: registry.counter("telemetry_exported_total", "").value("traces") == 3)


async def test_a_busy_collector_is_asked_again_when_it_says(collector: Collector, exporting: Exporting) -> None:
    collector.answers = [(503, {"retry-after": "1"}, b""), (429, {}, b"")]
    async with exporting(collector.url) as (exporter, registry):
        started = time.monotonic()
        work()
        await until(lambda: collector.spans)
        assert time.monotonic() - started >= 1.0 and len(collector.headers) == 3
        assert registry.counter("telemetry_dropped_total", "", ("signal", "reason")).values == {}
    assert not exporter.queue


async def test_grpc_is_asked_again_for_what_may_be(collector: Collector, exporting: Exporting) -> None:
    collector.answers = [(0, {}, b"UNAVAILABLE"), (0, {}, b"INVALID_ARGUMENT")]
    async with exporting(collector.grpc, protocol="grpc") as (_, registry):
        work()
        dropped = registry.counter("telemetry_dropped_total", "", ("signal", "reason"))
        await until(lambda: dropped.value("traces", "refused") == 1)
        work()
        await until(lambda: collector.spans)


async def test_what_is_refused_is_dropped_and_counted(collector: Collector, exporting: Exporting) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    collector.answers = [
        (400, {}, b"bad"),
        (200, {}, ExportTraceServiceResponse(partial_success=partial).SerializeToString()),
    ]
    async with exporting(collector.url) as (_, registry):
        dropped = registry.counter("telemetry_dropped_total", "", ("signal", "reason"))
        work(3)
        await until(lambda: dropped.value("traces", "refused") == 3)
        work(5)
        await until(lambda: dropped.value("traces", "rejected") == 2)
        assert registry.counter("telemetry_exported_total", "").value("traces") == 3


async def test_a_collector_that_is_away(exporting: Exporting, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing fails, nothing grows, drops are counted, and the log has one line."""
    caplog.set_level(logging.INFO, "sampan.telemetry")
    async with exporting(OUTAGE, queue=50, batch=10) as (exporter, registry):
        work(500)
        dropped = registry.counter("telemetry_dropped_total", "", ("signal", "reason"))
        assert len(exporter.queue) == 50 and dropped.value("traces", "queue_full") == 450
        await until(lambda: said(caplog))
        work(100)
        started = time.monotonic()
    assert time.monotonic() - started < 5  # the end does not wait for a collector
    assert not exporter.queue
    assert dropped.value("traces", "shutdown") >= 50
    assert sum(dropped.values.values()) == 600
    (line,) = said(caplog)
    assert "do not reach" in line


async def test_it_goes_on_when_the_collector_is_back(
    collector: Collector, exporting: Exporting, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "sampan.telemetry")
    monkeypatch.setattr(export, "_FIRST_WAIT", 0.05)
    collector.answers = [(502, {}, b"")] * 3
    async with exporting(collector.url):
        work(2)
        await until(lambda: len(collector.spans) == 2)
        await until(lambda: len(said(caplog)) == 2)
        assert "reach" in said(caplog)[1] and "again" in said(caplog)[1]


async def test_a_batch_is_given_up_in_the_end(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_FIRST_WAIT", 0.02)
    monkeypatch.setattr(export, "_PATIENCE", 0.3)
    async with exporting(OUTAGE) as (_, registry):
        work(4)
        dropped = registry.counter("telemetry_dropped_total", "", ("signal", "reason"))
        await until(lambda: dropped.value("traces", "unreachable") == 4)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_bad_way_to_the_collector(collector: Collector, exporting: Exporting, protocol: str) -> None:
    """Latency, resets, a half-open connection: what came and what was dropped are all there was; nobody waits."""
    target = collector.grpc if protocol == "grpc" else collector.url
    with FaultProxy(("127.0.0.1", int(target.rpartition(":")[2]))) as proxy:
        async with exporting(proxy.url, protocol=protocol, timeout=0.5, queue=200, batch=50) as (exporter, registry):
            work(20)
            await until(lambda: len(collector.spans) == 20)
            proxy.latency = 0.05
            work(20)
            await until(lambda: len(collector.spans) == 40)
            proxy.latency = 0.0
            proxy.refuse = True
            proxy.reset_all()
            work(20)
            await asyncio.sleep(0.3)
            proxy.refuse = False
            await until(lambda: len(collector.spans) >= 60)
            proxy.blackhole = True
            started = time.monotonic()
            work(500)
            assert time.monotonic() - started < 0.4  # a time-out of the exporter is none of ours
            assert len(exporter.queue) <= 200
            proxy.reset_all()
            proxy.blackhole = False
            sent = registry.counter("telemetry_exported_total", "", ("signal",))
            lost = registry.counter("telemetry_dropped_total", "", ("signal", "reason"))
            await until(lambda: sent.value("traces") + sum(lost.values.values()) == 560)
            assert lost.value("traces", "queue_full") >= 250
            assert len({span.span_id for span in collector.spans}) >= sent.value("traces") >= 200


async def test_the_end_does_not_wait_for_a_collector_that_is_silent(collector: Collector, exporting: Exporting) -> None:
    with FaultProxy(("127.0.0.1", int(collector.url.rpartition(":")[2]))) as proxy:
        proxy.blackhole = True
        async with exporting(proxy.url) as (exporter, registry):
            work(3)
            await until(lambda: proxy.connections)
            started = time.monotonic()
            await exporter.stop()
            assert time.monotonic() - started < 10
            assert not exporter.queue
            dropped = registry.counter("telemetry_dropped_total", "", ("signal", "reason"))
            assert sum(dropped.values.values()) == 3


async def test_the_end_sends_what_is_left(collector: Collector, exporting: Exporting) -> None:
    async with exporting(collector.url, delay=600.0, batch=100) as (exporter, _):
        exporter.before_stop.append(lambda: work(1, "last"))
        work(150)
    assert len(collector.spans) == 151 and collector.spans[-1].name == "last"
    assert len(collector.requests) == 2


async def test_threads_may_end_spans(collector: Collector, exporting: Exporting) -> None:
    async with exporting(collector.url, delay=600.0, batch=100, queue=5000):
        threads = [threading.Thread(target=work, args=(250,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await until(lambda: len(collector.spans) >= 900)  # full batches do not wait for the delay
    assert len(collector.spans) == 1000


async def test_secrets_do_not_leave(collector: Collector, exporting: Exporting) -> None:
    async with exporting(collector.url):
        CURRENT.set(from_headers({}))
        with tracing.span("call hunter2-secret", tracing.CLIENT, {"url": "http://u:hunter2-secret@h"}) as span:
            span.fail(ConnectionError("hunter2-secret"))
        await until(lambda: collector.spans)
    assert b"hunter2-secret" not in collector.requests[0].SerializeToString()
    assert collector.spans[0].name == "call [redacted]"


async def test_the_console(exporting: Exporting, capsys: pytest.CaptureFixture[str]) -> None:
    async with exporting("stderr", protocol="console"):
        work(1, "seen")
    assert '"name":"seen"' in capsys.readouterr().err


async def test_a_certificate_that_is_not_there_stops_nothing(
    exporting: Exporting, caplog: pytest.LogCaptureFixture
) -> None:
    async with exporting("https://127.0.0.1:9", certificate="/nowhere/ca.pem") as (exporter, registry):
        work(3)
        await until(lambda: said(caplog))
        work(2)
        assert "not exported" in said(caplog)[0] and len(exporter.queue) == 3
    assert sum(registry.counter("telemetry_dropped_total", "", ("signal", "reason")).values.values()) == 5
