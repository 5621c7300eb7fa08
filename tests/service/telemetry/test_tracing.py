"""Spans, sampling, and what is kept of traces that are not sampled."""

from __future__ import annotations

import asyncio

import pytest

from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, SAMPLER, Context, from_headers, parse_b3

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def context(sampled: bool = True) -> Context:
    return Context(TRACE, SPAN, sampled=sampled)


def recorded() -> list[str]:
    return [span.name for span in tracing.RECORDED]


def test_spans_nest_and_end_with_their_error() -> None:
    CURRENT.set(context())
    with pytest.raises(KeyError), tracing.span("outer") as outer, tracing.span("inner", tracing.CLIENT) as inner:
        assert CURRENT.get() is inner.context
        raise KeyError("gone")
    assert recorded() == ["inner", "outer"]
    assert outer.context is not None and inner.context is not None
    assert (outer.context.parent_id, inner.context.parent_id) == (SPAN, outer.context.span_id)
    assert inner.error == outer.error == "KeyError" and inner.events[0][1] == "exception"
    assert inner.end >= inner.start > 0
    current = CURRENT.get()
    assert current is not None and current.span_id == SPAN


def test_outside_of_work_nothing_is_recorded() -> None:
    with tracing.span("alone") as span:
        span.set("k", 1)
        assert not span.recording and CURRENT.get() is None
    tracing.current().set("k", 1)
    assert recorded() == []


def test_the_first_span_of_work_that_arrived_bears_its_context() -> None:
    arrived = from_headers({"traceparent": f"00-{TRACE}-{SPAN}-01"})
    with tracing.span("process", tracing.CONSUMER, links=[(TRACE, SPAN)], parent=arrived) as span:
        assert span.context is arrived and arrived.parent_id == SPAN
        with tracing.span("below") as below:
            assert below.context is not None and below.context.parent_id == arrived.span_id
    assert list(span.links) == [(TRACE, SPAN)]
    with tracing.span("later", parent=arrived) as later:
        assert later.context is not None and later.context.parent_id == arrived.span_id


async def test_a_generator_left_in_another_task_breaks_nothing() -> None:
    CURRENT.set(context())
    span = tracing.span("x")
    await asyncio.create_task(_enter(span))
    span.__exit__(None, None, None)
    assert recorded() == ["x"]


async def _enter(span: tracing.Span) -> None:
    span.__enter__()


def test_the_ratio_goes_by_the_trace_id() -> None:
    SAMPLER.configure(0.25)
    assert SAMPLER.sampled("f" * 16 + "3fffffffffffffff", None) and not SAMPLER.sampled("0" * 16 + "4" + "0" * 15, None)
    share = sum(from_headers({}).sampled for _ in range(4000)) / 4000
    assert 0.2 < share < 0.3
    assert from_headers({"traceparent": f"00-{TRACE}-{SPAN}-01"}).sampled
    SAMPLER.configure(0.0, follow_parent=False)
    assert not from_headers({"traceparent": f"00-{TRACE}-{SPAN}-01"}).sampled


@pytest.mark.parametrize(
    ("headers", "decision"),
    [
        ({"b3": f"{TRACE}-{SPAN}-0"}, False),
        ({"b3": f"{TRACE}-{SPAN}-d"}, True),
        ({"b3": f"{TRACE}-{SPAN}"}, None),
        ({"b3": "0"}, False),
        ({"x-b3-traceid": TRACE, "x-b3-spanid": SPAN, "x-b3-sampled": "1"}, True),
        ({"x-b3-traceid": TRACE[:16], "x-b3-spanid": SPAN, "x-b3-flags": "1"}, True),
        ({"x-b3-sampled": "0"}, False),
    ],
)
def test_decisions_of_b3(headers: dict[str, str], decision: bool | None) -> None:
    found = parse_b3(headers)
    assert found is not None and found[2] is decision
    assert from_headers(headers).sampled is (decision is not False)


def arrive_unsampled() -> Context:
    return from_headers({"traceparent": f"00-{TRACE}-{SPAN}-00"})


def test_of_a_trace_that_is_not_sampled_failures_are_kept_with_what_was_below() -> None:
    for fails in (False, True):
        with tracing.span("process", tracing.CONSUMER, parent=arrive_unsampled()) as span:
            with tracing.span("SELECT"):
                pass
            if fails:
                span.fail("Refused")
    assert recorded() == ["SELECT", "process"]


def test_and_slow_work() -> None:
    SAMPLER.configure(slow_seconds=0.02)
    with tracing.span("slow", tracing.CONSUMER, parent=arrive_unsampled()) as span:
        span.start -= 1
    assert recorded() == ["slow"]


def test_what_waits_for_the_end_is_bounded() -> None:
    with tracing.span("process", tracing.CONSUMER, parent=arrive_unsampled()) as span:
        for _ in range(500):
            with tracing.span("step"):
                pass
        span.fail("x")
    assert len(tracing.RECORDED) == 129


def test_always_off_keeps_nothing() -> None:
    SAMPLER.configure(0.0, True, keep=False)
    with tracing.span("process", tracing.CONSUMER, parent=arrive_unsampled()) as span:
        assert not span.recording
        span.fail("x")
    assert recorded() == []


def test_what_is_too_long_is_not_passed_on() -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=" + "x" * 600, "baggage": "b=" + "x" * 9000}
    found = from_headers(headers)
    assert (found.trace_id, found.tracestate, found.baggage) == (TRACE, "", "")
