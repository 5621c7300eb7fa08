"""The encoding, read back by opentelemetry-proto's own decoder, and beside what opentelemetry-sdk makes of a span."""

from __future__ import annotations

import string
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sampan.service.http.record import Span as ServerSpan
from sampan.service.http.record import server_spans
from sampan.service.telemetry import otlp, tracing
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.logs import Redactor

TEXT = st.text(max_size=80)
SCALAR = TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUE = SCALAR | st.lists(TEXT, max_size=4) | st.lists(st.integers(-9, 9), max_size=4) | st.binary(max_size=20)
ATTRIBUTES = st.dictionaries(TEXT, VALUE, max_size=5)
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
MOMENT = st.integers(1, 2**31).map(float)


def made(request: bytes) -> Any:
    return ExportTraceServiceRequest.FromString(request).resource_spans[0].scope_spans[0].spans


def request(*spans: bytes) -> bytes:
    return otlp.request(otlp.resource({"service.name": "shop"}), {otlp.scope("sampan", "1"): spans})


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found: Any = getattr(value, kind) if kind else None
    return [plain(item) for item in found.values] if kind == "array_value" else found


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


@given(
    *(HEX, HEX, HEX, TEXT, st.sampled_from([1, 2, 3, 4, 5]), MOMENT, MOMENT, ATTRIBUTES, ATTRIBUTES),
    *(st.booleans(), TEXT, st.sampled_from(["", "a=1,b=2"])),
)
@settings(max_examples=150, deadline=None)
def test_every_field_comes_back(
    trace: str, one: str, two: str, name: str, kind: int, start: float, end: float,
    given_: dict[str, Any], more: dict[str, Any], sampled: bool, error: str, state: str,
) -> None:  # fmt: skip
    context = Context(trace, one[:16], two[:16], sampled, state)
    span = tracing.Span(name, kind, given_, context, False)
    span.start, span.end, span.error, span.description = start, end, error, name
    span.events.append((start, name, more))
    span.links = [(two, one[:16]), (one, two[16:], {"why": "batch"})]
    (found,) = made(request(otlp.span(span)))
    assert (found.trace_id.hex(), found.span_id.hex(), found.parent_span_id.hex()) == (trace, one[:16], two[:16])
    assert (found.name, found.kind, found.trace_state) == (name, kind, state)
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (int(start * 1e9), int(end * 1e9))
    wanted = {**given_, **({"error.type": error} if error and "error.type" not in given_ else {})}
    assert attributes(found.attributes) == wanted
    (event,) = found.events
    assert (event.name, event.time_unix_nano, attributes(event.attributes)) == (name, int(start * 1e9), more)
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in found.links] == [(two, one[:16]), (one, two[16:])]
    assert attributes(found.links[1].attributes) == {"why": "batch"}
    assert (found.status.code, found.status.message) == ((2, name) if error else (0, ""))
    assert found.flags & 1 == sampled and found.flags & 0x100


@given(st.integers(-(2**63), 2**64 - 1))
def test_varints(number: int) -> None:
    assert otlp._read_varint(otlp.varint(number), 0) == (number % 2**64, len(otlp.varint(number)))


def test_values_of_other_kinds_go_as_they_can() -> None:
    context = Context("a" * 32, "b" * 16)
    odd: dict[str, Any] = {"big": 2**70, "none": None, "map": {"a": [1, "x"]}, "object": SimpleNamespace(a=1)}
    span = tracing.Span("x", 1, odd, context, False)
    (found,) = made(request(otlp.span(span)))
    got = {pair.key: pair.value for pair in found.attributes}
    assert got["big"].string_value == str(2**70) and got["none"].WhichOneof("value") is None
    assert got["map"].kvlist_value.values[0].value.array_value.values[1].string_value == "x"
    assert got["object"].string_value == "namespace(a=1)"


def test_true_one_and_one_point_zero_stay_apart() -> None:
    for given_ in (True, 1, 1.0):
        span = tracing.Span("x", 1, {"k": given_}, Context("a" * 32, "b" * 16), False)
        (found,) = made(request(otlp.span(span)))
        assert type(plain(found.attributes[0].value)) is type(given_)


def test_as_the_sdk_encodes_it() -> None:
    """The same span through opentelemetry-sdk's encoder: the messages are equal, field by field."""
    resource = Resource({"service.name": "shop"})
    scope: Any = InstrumentationScope("sampan", "1")
    context, parent = (
        SpanContext(int("a" * 32, 16), int(i * 16, 16), False, TraceFlags(1), TraceState()) for i in "bc"
    )
    other = SpanContext(int("d" * 32, 16), int("e" * 16, 16), False, TraceFlags(1))
    given_: Any = {"db.system.name": "mysql", "rows": 3, "share": 0.5, "done": True, "names": ("a", "b")}
    theirs = encode_spans(
        [
            ReadableSpan(
                "SELECT users", context, parent, resource, given_, [Event("retry", {"n": 1}, 5_000_000_000)],
                [Link(other)], SpanKind.CLIENT, scope, Status(StatusCode.ERROR, "gone"), 4_000_000_000, 6_000_000_000,
                scope,
            )
        ]
    )  # fmt: skip
    own = tracing.Span("SELECT users", tracing.CLIENT, given_, Context("a" * 32, "b" * 16, "c" * 16), False)
    own.start, own.end, own.error, own.description = 4.0, 6.0, "ConnectionError", "gone"
    own.events.append((5.0, "retry", {"n": 1}))
    own.links = [("d" * 32, "e" * 16)]
    ours = ExportTraceServiceRequest.FromString(request(otlp.span(own)))
    mine, their = ours.resource_spans[0].scope_spans[0], theirs.resource_spans[0].scope_spans[0]
    assert attributes(ours.resource_spans[0].resource.attributes) == {"service.name": "shop"}
    assert mine.scope == their.scope
    del mine.spans[0].attributes[5]  # error.type, which the SDK leaves to its caller
    mine.spans[0].flags &= ~1  # sampled, as the specification has it; this SDK leaves it out
    their.spans[0].links[0].flags = 0  # whether the linked span is remote, which a link of ours does not know
    assert mine.spans[0] == their.spans[0]


def server(path: str = "/users/42", **more: Any) -> ServerSpan:
    fields: dict[str, Any] = {
        "context": Context("a" * 32, "b" * 16),
        **{"method": "GET", "route": "/users/{id}", "path": path, "status": 200, "start": 4.0, "duration": 0.5},
        **{"client": "10.0.0.9", "agent": "curl/8", "error": "", "scheme": "https", "version": "1.1"},
        **{"host": "shop.example:8443", **more},
    }
    return ServerSpan(**fields)


@given(st.text(string.printable + "\u2713", max_size=150), st.sampled_from([200, 404, 500, 503]), TEXT)
@settings(max_examples=100, deadline=None)
def test_server_spans_follow_the_conventions(path: str, status: int, agent: str) -> None:
    (found,) = made(request(*server_spans([server(path, status=status, agent=agent)], Redactor())))
    wanted = {
        "http.request.method": "GET",
        "url.scheme": "https",
        "network.protocol.version": "1.1",
        "http.response.status_code": status,
        "http.route": "/users/{id}",
        "server.address": "shop.example",
        "server.port": 8443,
        "url.path": path,
        "client.address": "10.0.0.9",
        "user_agent.original": agent,
    }
    if status >= 500:
        wanted["error.type"] = str(status)
    assert attributes(found.attributes) == wanted
    assert (found.name, found.kind, found.status.code) == ("GET /users/{id}", 2, 2 if status >= 500 else 0)
    assert found.end_time_unix_nano - found.start_time_unix_nano == 500_000_000 and found.flags == 0x101


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [("a.example", "a.example", 443), ("[::1]:80", "::1", 80), ("[::1]", "::1", 443), ("x:y", "x:y", 443)],
)
def test_hosts(host: str, address: str, port: int) -> None:
    (found,) = made(request(*server_spans([server(host=host)], Redactor())))
    got = attributes(found.attributes)
    assert (got["server.address"], got["server.port"]) == (address, port)


def test_what_the_application_added_to_the_server_span() -> None:
    inner = tracing.Span("checkout", tracing.SERVER, {"order.id": 7}, None, False)
    inner.event("paid", {"by": "card"})
    inner.ok = True
    (found,) = made(request(*server_spans([server(inner=inner, status=404)], Redactor())))
    assert (found.name, found.status.code, found.events[0].name) == ("checkout", 1, "paid")
    assert attributes(found.attributes)["order.id"] == 7
    inner.ok, inner.error, inner.description = False, "PaymentError", "card refused"
    (found,) = made(request(*server_spans([server(inner=inner, status=502)], Redactor())))
    assert (found.status.code, found.status.message) == (2, "card refused")
    assert attributes(found.attributes)["error.type"] == "PaymentError"


def test_secrets_are_struck_out_of_spans() -> None:
    redactor = Redactor()
    redactor.add(["hunter2-secret"])
    inner = tracing.Span("", tracing.SERVER, {"dsn": "u:hunter2-secret@h", "list": ["hunter2-secret"]}, None, False)
    inner.event("saw hunter2-secret", {"k": "hunter2-secret"})
    inner.fail(ValueError("hunter2-secret is wrong"))
    chunk = b"".join(server_spans([server("/reset/hunter2-secret", inner=inner)], redactor))
    assert b"hunter2-secret" not in chunk
    (found,) = made(request(chunk))
    assert attributes(found.attributes)["url.path"] == "/reset/[redacted]"
    assert found.status.message == "[redacted] is wrong"


@given(ATTRIBUTES, TEXT)
@settings(max_examples=60, deadline=None)
def test_log_records_and_their_json(given_: dict[str, Any], body: str) -> None:
    entry = otlp.log_record(5_000_000_000, (17, "ERROR"), body, given_, ("a" * 32, "b" * 16))
    whole = otlp.request(otlp.resource({"service.name": "shop"}), {otlp.scope("shop.orders"): [entry]})
    found = ExportLogsServiceRequest.FromString(whole).resource_logs[0].scope_logs[0].log_records[0]
    assert (found.severity_number, found.severity_text, found.body.string_value) == (17, "ERROR", body)
    assert attributes(found.attributes) == given_ and found.trace_id.hex() == "a" * 32
    told = otlp.as_json(whole, "logs")["resourceLogs"][0]["scopeLogs"][0]
    assert told["scope"] == {"name": "shop.orders"} and told["logRecords"][0]["traceId"] == "a" * 32
    assert told["logRecords"][0]["timeUnixNano"] == "5000000000"


def test_answers_of_collectors() -> None:
    partial = ExportTracePartialSuccess(rejected_spans=300, error_message="too old")
    assert otlp.rejected(ExportTraceServiceResponse(partial_success=partial).SerializeToString()) == (300, "too old")
    assert otlp.rejected(b"") == (0, "")
    for cut in (b"\x0a\x7f", b"\xff", b"\x0b"):
        with pytest.raises(ValueError, match="byte"):
            otlp.rejected(cut)
    assert otlp._real(struct.pack("<d", float("-inf"))) == "-Infinity"
