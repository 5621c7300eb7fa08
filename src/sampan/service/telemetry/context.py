"""Trace context, baggage, request id and deadline of the work in hand (W3C Trace Context level 1)."""

from __future__ import annotations

import random
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sampan.service.telemetry.tracing import Span

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"
REQUEST_ID: Final = "x-request-id"
TIMEOUT_MS: Final = "x-request-timeout-ms"
B3, B3_TRACE, B3_SPAN, B3_SAMPLED = "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"
B3_FLAGS: Final = "x-b3-flags"

_HEX = frozenset("0123456789abcdef")
_TIMER: Final = 0.002  # seconds
_getrandbits = random.getrandbits


class Sampler:
    """Which traces are recorded; one per process. The ratio goes by the trace id, so that services agree on a trace."""

    __slots__ = ("bound", "follow_parent", "keep", "slow_seconds")

    def __init__(self) -> None:
        self.configure()

    def configure(
        self, ratio: float = 1.0, follow_parent: bool = True, keep: bool = True, slow_seconds: float = 1.0
    ) -> None:
        """`keep`: spans of failed and slow work are kept although its trace is not sampled."""
        self.bound = round(ratio * 2**64)
        self.follow_parent, self.keep, self.slow_seconds = follow_parent, keep, slow_seconds

    def sampled(self, trace_id: str, parent: bool | None) -> bool:
        """`parent` is what the caller decided; None when there is none or it left the decision open."""
        if parent is not None and self.follow_parent:
            return parent
        return self.bound >= ALL or int(trace_id[16:], 16) < self.bound

    def worth_keeping(self, failed: bool, seconds: float) -> bool:
        return failed or 0 < self.slow_seconds <= seconds


ALL: Final = 2**64
SAMPLER: Final = Sampler()
MAX_HELD: Final = 128  # spans of one unit of work that wait for its end, where its trace is not sampled


class Context:
    """One unit of work. `deadline` is on `time.monotonic()`; None means no limit.

    `fresh`: it came from elsewhere and no span bears it yet; the first one opened will. `remote`: its parent is in
    another process. `span`: the span that bears it, while there is one. `held`: spans that are kept or dropped when
    the work is over, because the trace is not sampled. `joined`: what OpenTelemetry's API sees of it (`bridge.py`).
    """

    __slots__ = (
        "baggage",
        "deadline",
        "fresh",
        "held",
        "joined",
        "parent_id",
        "remote",
        "request_id",
        "sampled",
        "span",
        "span_id",
        "trace_id",
        "tracestate",
    )

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
        self.remote = self.fresh = False
        self.span: Span | None = None
        self.held: list[Span] | None = None
        self.joined: tuple[Any, Any] | None = None

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def remaining(self) -> float | None:
        """Seconds left, never below 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def overdue(self) -> bool:
        """Whether its deadline has passed, or is so near that a timer set for it may have gone off: they count whole
        milliseconds."""
        return self.deadline is not None and self.deadline - _TIMER <= time.monotonic()

    def child(self) -> Context:
        child = Context(
            self.trace_id,
            new_span_id(),
            self.span_id,
            self.sampled,
            self.tracestate,
            self.baggage,
            self.request_id,
            self.deadline,
        )
        child.held = self.held
        return child

    def hold(self) -> None:
        """Have the spans below kept until it is known whether the work failed."""
        self.held = []


CURRENT: ContextVar[Context | None] = ContextVar("sampan_context", default=None)


def new_span_id() -> str:
    return f"{_getrandbits(64) or 1:016x}"


def new_trace_id() -> str:
    return f"{_getrandbits(128) or 1:032x}"


def new_ids() -> tuple[str, str]:
    """A trace id and a span id, in the time of one."""
    both = f"{_getrandbits(192):048x}"
    return both[:32], both[32:]


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


_B3_HEADERS: Final = frozenset({B3, B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS})
_B3_DECISIONS: Final = {"0": False, "false": False, "1": True, "true": True, "d": True}


def parse_b3(headers: dict[str, str]) -> tuple[str, str, bool | None] | None:
    """Like `parse_traceparent`, from B3: the one header `b3`, or `x-b3-traceid` and its companions.

    The decision is None where the caller left it to us. A caller may also send the decision alone; trace and span are
    then empty. A 64-bit trace id is filled up with zeros on the left. https://github.com/openzipkin/b3-propagation
    """
    if _B3_HEADERS.isdisjoint(headers):
        return None
    single = headers.get(B3, "").split("-")
    if len(single) >= 2:
        trace, span, decision = single[0], single[1], single[2] if len(single) > 2 else ""
    else:
        trace, span = headers.get(B3_TRACE, ""), headers.get(B3_SPAN, "")
        decision = single[0] or headers.get(B3_SAMPLED, "")
        if headers.get(B3_FLAGS) == "1":  # debug: recorded in any case
            decision = "d"
    sampled = _B3_DECISIONS.get(decision.lower())
    trace = trace.lower().rjust(32, "0") if len(trace) in (16, 32) else ""
    parsed = parse_traceparent(f"00-{trace}-{span.lower()}-01")
    if parsed is None:
        return None if sampled is None else ("", "", sampled)
    return parsed[0], parsed[1], sampled


def arrived(headers: dict[str, str]) -> tuple[str, str, bool]:
    """(trace id, parent span id or "", whether it is recorded) of work that came with `headers`."""
    parsed = parse_traceparent(headers[TRACEPARENT]) if TRACEPARENT in headers else None
    found: tuple[str, str, bool | None] = parsed or parse_b3(headers) or ("", "", None)
    trace = found[0] or new_trace_id()
    return trace, found[1], SAMPLER.sampled(trace, found[2])


MAX_BAGGAGE: Final = 8192  # bytes, W3C Baggage 3.3; what is longer is not passed on
MAX_TRACESTATE: Final = 512  # characters, W3C Trace Context 3.3.1.5


def passed_on(headers: dict[str, str], parent: str) -> tuple[str, str]:
    """The tracestate and baggage that go on with the work; a tracestate belongs to the parent it came with."""
    state, baggage = headers.get(TRACESTATE, ""), headers.get(BAGGAGE, "")
    return (
        state if parent and len(state) <= MAX_TRACESTATE else "",
        baggage if len(baggage) <= MAX_BAGGAGE else "",
    )


def from_headers(headers: dict[str, str]) -> Context:
    """The context of work that arrived with `headers` (lower-case names); a new trace when none came."""
    trace, parent, sampled = arrived(headers)
    context = Context(
        trace,
        new_span_id(),
        parent,
        sampled,
        *passed_on(headers, parent),
        headers.get(REQUEST_ID, "") or trace,
        parse_timeout(headers.get(TIMEOUT_MS, "")),
    )
    context.fresh, context.remote = True, bool(parent)
    if not sampled and SAMPLER.keep:
        context.hold()
    return context


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
