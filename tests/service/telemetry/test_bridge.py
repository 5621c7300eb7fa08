"""OpenTelemetry's API on our spans: by the user's code, by libraries, both ways; context, baggage and metrics."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import opentelemetry.context as context_api
import opentelemetry.metrics._internal as their_metrics
import pytest
from opentelemetry import baggage, metrics, propagate, trace
from opentelemetry.sdk.trace import TracerProvider as SdkProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client.openmetrics import parser

from sampan.service.telemetry import bridge, tracing
from sampan.service.telemetry.context import CURRENT, Context, outgoing_headers
from sampan.service.telemetry.metrics import Registry

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
tracer = trace.get_tracer("library", "2.1")
parse: Any = parser.text_string_to_metric_families


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The bridge as a process installs it."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(context_api, "_RUNTIME_CONTEXT", context_api._RUNTIME_CONTEXT)
    monkeypatch.setattr(their_metrics, "_METER_PROVIDER", None)
    made = Registry()
    bridge.install(made)
    yield made


def recorded() -> dict[str, tracing.Span]:
    return {span.name: span for span in tracing.RECORDED}


def parent(name: str) -> str:
    context = recorded()[name].context
    assert context is not None
    return context.parent_id


def own(name: str) -> str:
    context = recorded()[name].context
    assert context is not None
    return context.span_id


def test_spans_of_both_nest_in_each_other() -> None:
    CURRENT.set(Context(TRACE, SPAN))
    with (
        tracer.start_as_current_span("theirs", kind=SpanKind.CLIENT, attributes={"a": 1}) as span,
        tracing.span("ours"),
        tracer.start_as_current_span("theirs below"),
    ):
        assert span.get_span_context().trace_id == int(TRACE, 16)
    assert (parent("theirs"), parent("ours"), parent("theirs below")) == (SPAN, own("theirs"), own("ours"))
    found = recorded()["theirs"]
    assert (found.kind, found.attributes, found.scope) == (tracing.CLIENT, {"a": 1}, ("library", "2.1"))
    current = CURRENT.get()
    assert current is not None and current.span_id == SPAN


def test_everything_that_can_be_said_of_a_span() -> None:
    with pytest.raises(ValueError, match="no"), tracer.start_as_current_span("work", start_time=5_000_000_000) as span:
        assert span.is_recording()
        span.update_name("better")
        span.set_attributes({"a": 1, "list": ("x", "y")})
        span.add_event("happened", {"k": 1}, 6_000_000_000)
        span.add_link(trace.SpanContext(int(TRACE, 16), int(SPAN, 16), True))
        raise ValueError("no")
    assert not span.is_recording()
    found = recorded()["better"]
    assert found.start == 5.0 and found.events[0] == (6.0, "happened", {"k": 1})
    assert list(found.links) == [(TRACE, SPAN)] and found.attributes["list"] == ("x", "y")
    assert (found.error, found.description) == ("ValueError", "ValueError: no")
    assert found.events[1][1] == "exception" and "Traceback" in str(found.events[1][2]["exception.stacktrace"])


def test_a_status_of_ok_stands() -> None:
    with tracer.start_as_current_span("fine") as span:
        span.set_status(StatusCode.OK)
        span.set_status(StatusCode.ERROR, "too late")
    found = recorded()["fine"]
    assert found.ok and not found.error


def test_a_span_that_is_not_current_and_ends_later() -> None:
    CURRENT.set(Context(TRACE, SPAN))
    span = tracer.start_span("later")
    with trace.use_span(span, end_on_exit=False), tracing.span("below"):
        pass
    assert "later" not in recorded()
    span.end(7_000_000_000_000_000_000)
    span.end()
    assert recorded()["later"].end == 7e9 and parent("below") == own("later")


def test_outside_of_work_a_span_begins_a_trace() -> None:
    with tracer.start_as_current_span("root") as span, tracing.span("below"):
        assert span.get_span_context().is_valid
    assert parent("root") == "" and parent("below") == own("root")
    assert CURRENT.get() is None and not trace.get_current_span().get_span_context().is_valid


async def test_the_servers_span_is_current_in_a_handler(serving: Any) -> None:
    import aiohttp

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError
        span = trace.get_current_span()
        span.set_attribute("order.id", 42)
        span.add_event("paid")
        span.update_name("checkout")
        span.record_exception(ValueError("no"))
        span.set_status(StatusCode.ERROR, "no card")
        await asyncio.gather(*(one(number) for number in range(3)))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def one(number: int) -> None:
        with tracer.start_as_current_span(f"part {number}"):
            await asyncio.sleep(0.01)

    async with serving(app) as served, aiohttp.ClientSession() as http, http.get(served.url) as reply:
        await reply.read()
        served.middleware.flush()
        (found,) = served.middleware.spans
    inner = found.inner
    assert inner is not None and (inner.attributes["order.id"], inner.name) == (42, "checkout")
    assert (inner.error, inner.description) == ("ValueError", "no card")
    assert {parent(f"part {number}") for number in range(3)} == {found.context.span_id}


def test_what_comes_and_goes_by_the_propagation_api() -> None:
    carrier = {"traceparent": f"00-{TRACE}-{SPAN}-01", "baggage": "tenant=acme"}
    token = context_api.attach(propagate.extract(carrier))
    current = CURRENT.get()
    assert current is not None and (current.trace_id, current.span_id, current.baggage) == (TRACE, SPAN, "tenant=acme")
    with tracing.span("below"):
        sent: dict[str, str] = {}
        propagate.inject(sent)
        assert sent["baggage"] == "tenant=acme" and sent["traceparent"].startswith(f"00-{TRACE}-")
    context_api.detach(token)
    assert sent["traceparent"] == f"00-{TRACE}-{own('below')}-01" and parent("below") == SPAN
    assert CURRENT.get() is None


def test_baggage_of_theirs_travels_in_our_headers_and_back() -> None:
    CURRENT.set(Context(TRACE, SPAN, baggage="a=1"))
    assert baggage.get_all() == {"a": "1"}
    token = context_api.attach(baggage.set_baggage("b", "two words"))
    assert outgoing_headers(CURRENT.get())["baggage"] == "a=1,b=two+words"
    assert outgoing_headers(CURRENT.get())["traceparent"] == f"00-{TRACE}-{SPAN}-01"
    context_api.detach(token)
    assert outgoing_headers(CURRENT.get())["baggage"] == "a=1"


def test_a_provider_the_user_sets_wins_and_still_joins() -> None:
    kept = InMemorySpanExporter()
    provider = SdkProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace._TRACER_PROVIDER = provider  # what set_tracer_provider does, which works once a process
    bridge.install(Registry())
    assert trace.get_tracer_provider() is provider
    CURRENT.set(Context(TRACE, SPAN))
    with trace.get_tracer("user").start_as_current_span("sdk"), tracing.span("ours"):
        pass
    (span,) = kept.get_finished_spans()
    assert span.parent is not None and span.parent.span_id == int(SPAN, 16)
    assert span.context is not None and int(parent("ours"), 16) == span.context.span_id


def test_metrics_of_libraries_stand_on_our_page(registry: Registry) -> None:
    meter = metrics.get_meter("library")
    counter = meter.create_counter("jobs.done", "1", "Jobs.")
    counter.add(2, {"queue.name": "a"})
    counter.add(1, {"queue.name": "b", "ok": True})
    counter.add(-1)  # a counter only grows
    meter.create_up_down_counter("jobs.open").add(-3)
    meter.create_histogram("job.duration", "s").record(0.3, {"k": "v"})
    meter.create_gauge("temp", "Cel").set(21.5)
    rows = [metrics.Observation(4, {"disk": "x"})]
    meter.create_observable_gauge("disk.usage", [lambda _: rows], "By")
    meter.create_observable_counter("broken", [lambda _: 1 / 0])  # type: ignore[list-item,return-value]

    def generated() -> Any:
        options = yield []
        assert options.timeout_millis
        while True:
            options = yield [metrics.Observation(9)]

    meter.create_observable_up_down_counter("generated", [generated()])
    families = {family.name: family for family in parse(registry.render(openmetrics=True))}
    assert [(s.labels, s.value) for s in families["jobs_done"].samples] == [
        ({"queue_name": "a"}, 2),
        ({"ok": "True", "queue_name": "b"}, 1),
    ]
    assert families["jobs_open"].samples[0].value == -3 and families["temp_celsius"].samples[0].value == 21.5
    assert families["job_duration_seconds"].type == "histogram"
    assert families["disk_usage_bytes"].samples[0].labels == {"disk": "x"}
    assert families["generated"].samples[0].value == 9


def test_a_metric_of_ours_is_never_touched(registry: Registry) -> None:
    ours = registry.counter("http_requests_total", "Ours.", ("path",))
    metrics.get_meter("library").create_counter("http.requests").add(5)
    assert ours.values == {} and registry.metrics["otel_http_requests_total"].name == "otel_http_requests_total"


LATE = """
import sys
from sampan.model import Service
from sampan.service.process import Process
process = Process(Service("users"))
process.bind()
assert "opentelemetry" not in sys.modules, "who imports it pays for it, nobody else"
FIRST
from opentelemetry import metrics, trace
from sampan.service.telemetry.context import CURRENT, Context
context = Context("a" * 32, "b" * 16)
CURRENT.set(context)
assert trace.get_current_span().get_span_context().span_id == int("b" * 16, 16)
assert context.span is None, "who only looks leaves nothing behind"
metrics.get_meter("x").create_counter("late").add(1)
assert "late_total 1" in process.registry.render()
trace.set_tracer_provider(trace.NoOpTracerProvider())
assert type(trace.get_tracer_provider()) is trace.NoOpTracerProvider
print("joined")
"""


@pytest.mark.parametrize("first", ["", "import opentelemetry.trace; from opentelemetry.metrics import Meter"])
def test_it_joins_when_it_is_imported_late(first: str) -> None:
    code = LATE.replace("FIRST", first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["joined"]), done.stderr
