"""Trace context: what the W3C recommendation accepts, and nothing else."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.service.telemetry.context import Context, from_headers, outgoing_headers, parse_timeout, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", (TRACE, SPAN, False)),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"cc-{TRACE}-{SPAN}-01.more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-0g", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
    ],
)
def test_traceparent(header: str, expected: object) -> None:
    assert parse_traceparent(header) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"b3": f"{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90"}, (TRACE, SPAN, True)),
        ({"b3": f"{TRACE}-{SPAN}-0"}, (TRACE, SPAN, False)),
        ({"b3": f"{TRACE}-{SPAN}-d"}, (TRACE, SPAN, True)),
        ({"b3": f"{SPAN}-{SPAN}"}, ("0" * 16 + SPAN, SPAN, True)),
        ({"x-b3-traceid": TRACE, "x-b3-spanid": SPAN, "x-b3-sampled": "0"}, (TRACE, SPAN, False)),
        ({"x-b3-traceid": TRACE}, None),
        ({"b3": "0"}, None),
        ({"b3": "x-y-z"}, None),
    ],
)
def test_b3(headers: dict[str, str], expected: tuple[str, str, bool] | None) -> None:
    context = from_headers(headers)
    if expected is None:
        assert context.parent_id == ""
    else:
        assert (context.trace_id, context.parent_id, context.sampled) == expected


@given(st.text(max_size=80))
def test_any_header_is_read_without_an_error(text: str) -> None:
    context = from_headers({"traceparent": text, "x-request-timeout-ms": text})
    assert len(context.trace_id) == 32 and len(context.span_id) == 16


def test_a_context_survives_the_way_through_headers() -> None:
    sent = from_headers({"tracestate": "a=1", "baggage": "user=7"})
    assert sent.tracestate == ""  # without a traceparent it belongs to nobody
    sent.tracestate = "a=1"
    received = from_headers(outgoing_headers(sent))
    assert (received.trace_id, received.parent_id) == (sent.trace_id, sent.span_id)
    assert (received.tracestate, received.baggage, received.request_id) == ("a=1", "user=7", sent.request_id)


def test_deadline() -> None:
    deadline = parse_timeout("250")
    assert deadline is not None and 0.2 < deadline - time.monotonic() <= 0.25
    assert parse_timeout("-1") is None and parse_timeout("1.5") is None and parse_timeout("") is None
    assert Context("t", "s", deadline=time.monotonic() - 5).remaining() == 0.0
