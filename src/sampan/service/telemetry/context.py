"""Trace context, baggage, request id and deadline of the work in hand (W3C Trace Context level 1)."""

from __future__ import annotations

import random
import time
from contextvars import ContextVar
from typing import Final

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"
REQUEST_ID: Final = "x-request-id"
TIMEOUT_MS: Final = "x-request-timeout-ms"
B3, B3_TRACE, B3_SPAN, B3_SAMPLED = "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"

_HEX = frozenset("0123456789abcdef")
_getrandbits = random.getrandbits


class Context:
    """One unit of work. `deadline` is on `time.monotonic()`; None means no limit."""

    __slots__ = ("baggage", "deadline", "parent_id", "request_id", "sampled", "span_id", "trace_id", "tracestate")

    def __init__(  # noqa: PLR0917  # positional because quicker, once a request
        self,
        trace_id: str,
        span_id: str,
        parent_id: str = "",
        sampled: bool = True,
        tracestate: str = "",
        baggage: str = "",
        request_id: str = "",
        deadline: float | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.sampled = sampled
        self.tracestate = tracestate
        self.baggage = baggage
        self.request_id = request_id
        self.deadline = deadline

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def remaining(self) -> float | None:
        """Seconds left, never below 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def child(self) -> Context:
        return Context(
            self.trace_id,
            new_span_id(),
            self.span_id,
            self.sampled,
            self.tracestate,
            self.baggage,
            self.request_id,
            self.deadline,
        )


CURRENT: ContextVar[Context | None] = ContextVar("sampan_context", default=None)


def new_span_id() -> str:
    return f"{_getrandbits(64) or 1:016x}"


def new_trace_id() -> str:
    return f"{_getrandbits(128) or 1:032x}"


def parse_traceparent(value: str) -> tuple[str, str, bool] | None:
    """(trace id, parent span id, sampled), or None when the header is not valid and must be ignored."""
    if len(value) < 55 or value[2] != "-" or value[35] != "-" or value[52] != "-":
        return None
    version, trace, parent, flags = value[:2], value[3:35], value[36:52], value[53:55]
    if version == "ff" or (len(value) > 55 and (version == "00" or value[55] != "-")):
        return None
    if not _HEX.issuperset(version + trace + parent + flags) or trace == "0" * 32 or parent == "0" * 16:
        return None
    return trace, parent, bool(int(flags, 16) & 1)


def parse_b3(headers: dict[str, str]) -> tuple[str, str, bool] | None:
    """Like `parse_traceparent`, from B3: the one header `b3`, or `x-b3-traceid` and its companions.

    A 64-bit trace id is filled up with zeros on the left. https://github.com/openzipkin/b3-propagation
    """
    single = headers.get(B3, "").split("-")
    if len(single) >= 2:
        trace, span, sampled = single[0], single[1], single[2] if len(single) > 2 else ""
    else:
        trace, span, sampled = headers.get(B3_TRACE, ""), headers.get(B3_SPAN, ""), headers.get(B3_SAMPLED, "")
    trace = trace.lower().rjust(32, "0") if len(trace) in (16, 32) else ""
    parsed = parse_traceparent(f"00-{trace}-{span.lower()}-01")
    return None if parsed is None else (parsed[0], parsed[1], sampled not in ("0", "false"))


def from_headers(headers: dict[str, str]) -> Context:
    """The context of work that arrived with `headers` (lower-case names); a new trace when none came."""
    parsed = parse_traceparent(headers.get(TRACEPARENT, "")) or parse_b3(headers)
    if parsed is None:
        trace, parent, sampled, state = new_trace_id(), "", True, ""
    else:
        (trace, parent, sampled), state = parsed, headers.get(TRACESTATE, "")
    return Context(
        trace,
        new_span_id(),
        parent,
        sampled,
        state,
        headers.get(BAGGAGE, ""),
        headers.get(REQUEST_ID, "") or trace,
        parse_timeout(headers.get(TIMEOUT_MS, "")),
    )


def parse_timeout(milliseconds: str) -> float | None:
    """Deadline on the monotonic clock from a header of remaining milliseconds; None when absent or not a number."""
    if not milliseconds.isascii() or not milliseconds.isdigit() or len(milliseconds) > 10:
        return None
    return time.monotonic() + int(milliseconds) / 1000


def outgoing_headers(context: Context | None) -> dict[str, str]:
    """Headers that carry `context` to a callee or into a message; empty without a context. No deadline."""
    if context is None:
        return {}
    headers = {TRACEPARENT: context.traceparent}
    if context.request_id:
        headers[REQUEST_ID] = context.request_id
    if context.tracestate:
        headers[TRACESTATE] = context.tracestate
    if context.baggage:
        headers[BAGGAGE] = context.baggage
    return headers
