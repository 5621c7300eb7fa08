"""OpenTelemetry's API on top of our spans and contexts, so that spans made by any library join the trace.

Imported only where the user's code, or a library of it, has imported `opentelemetry`. Parent and child work both ways:
the current span of OpenTelemetry's API is ours, and a span started there is the current one for `tracing.span`.
A TracerProvider the user sets wins; its spans are then children of the server's span and leave by its own exporter.
"""

from __future__ import annotations

import functools
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

import opentelemetry.context as context_api
from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context as TheirContext
from opentelemetry.context.context import _RuntimeContext
from opentelemetry.trace.propagation import _SPAN_KEY

from sampan.imports import when_imported
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import BAGGAGE, CURRENT, SAMPLER, Context, new_span_id, new_trace_id
from sampan.service.telemetry.metrics import Registry

_propagator: Final = W3CBaggagePropagator()
_current: Final = CURRENT.get
_put: Final = dict.__setitem__  # theirs refuses to be changed once it is made


class Span(trace.Span):
    """The face of a `tracing.Span` towards OpenTelemetry's API; None: of that which bears `context`, made when used."""

    def __init__(self, record: tracing.Span | None, context: Context) -> None:
        self._record, self.context = record, context

    @property
    def record(self) -> tracing.Span:
        if self._record is None:
            self._record = record_of(self.context)
        return self._record

    def get_span_context(self) -> trace.SpanContext:
        context = self.context
        return trace.SpanContext(
            int(context.trace_id, 16),
            int(context.span_id, 16),
            False,
            trace.TraceFlags(trace.TraceFlags.SAMPLED if context.sampled else trace.TraceFlags.DEFAULT),
            trace.TraceState.from_header([context.tracestate]) if context.tracestate else None,
        )

    def is_recording(self) -> bool:
        return self.record.recording and not self.record.end

    def set_attribute(self, key: str, value: Any) -> None:
        self.record.set(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.record.attributes.update(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self.record.events.append((timestamp / 1e9 if timestamp else time.time(), name, attributes or {}))

    def add_link(self, context: trace.SpanContext, attributes: Any = None) -> None:
        self.record.links = (*self.record.links, _link(context, attributes))

    def update_name(self, name: str) -> None:
        self.record.name = name

    def set_status(self, status: trace.Status | trace.StatusCode, description: str | None = None) -> None:
        code = status.status_code if isinstance(status, trace.Status) else status
        text = status.description if isinstance(status, trace.Status) else description
        record = self.record
        if code is trace.StatusCode.OK:
            record.ok, record.error, record.description = True, "", ""
        elif code is trace.StatusCode.ERROR and not record.ok:
            record.error = record.error or str(record.attributes.get("error.type", "_OTHER"))
            record.description = text or ""

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        described = {
            "exception.type": type(exception).__qualname__,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
        }
        self.add_event("exception", {**described, **(attributes or {})}, timestamp)
        self.record.attributes.setdefault("error.type", type(exception).__qualname__)

    def end(self, end_time: int | None = None) -> None:
        if self.record.start:  # else it is the server's, which ends with its request
            self.record.finish(end_time / 1e9 if end_time else 0.0)


def _link(context: trace.SpanContext, attributes: Any = None) -> tracing.Link:
    ids = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return (*ids, attributes) if attributes else ids


class Tracer(trace.Tracer):
    def __init__(self, name: str, version: str) -> None:
        self._scope = (name, version)

    def start_span(  # noqa: PLR0917  # the signature of the API
        self,
        name: str,
        context: TheirContext | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        parent = CURRENT.get() if context is None else _ours(context)
        if parent is None:
            identity = new_trace_id()
            own = Context(identity, new_span_id(), "", SAMPLER.sampled(identity, None), request_id=identity)
            own.fresh = True
            if not own.sampled and SAMPLER.keep:
                own.hold()
            parent = own
        joined = [_link(link.context, link.attributes) for link in links or ()]
        record = tracing.span(name, kind.value + 1, attributes, links=joined, parent=parent)
        record.scope = self._scope
        record.begin(start_time / 1e9 if start_time else 0.0)
        assert record.context is not None
        return Span(record, record.context)

    # the API's own function, which is a context manager and a decorator
    start_as_current_span = trace.NoOpTracer.start_as_current_span


class TracerProvider(trace.TracerProvider):
    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> trace.Tracer:
        return Tracer(instrumenting_module_name, instrumenting_library_version or "")


def record_of(context: Context) -> tracing.Span:
    """The span that bears `context`; for the server's, which has none yet, what will be added to its record."""
    if context.span is None:
        context.span = tracing.Span("", tracing.SERVER, None, context, False)
    return context.span


@functools.lru_cache(maxsize=64)
def _baggage(header: str) -> TheirContext:
    """A context of theirs that holds the baggage of `header` and nothing else."""
    return _propagator.extract({BAGGAGE: header}, TheirContext())


def _ours(theirs: TheirContext) -> Context | None:
    """Their context as one of ours; None when it holds no valid span."""
    span = theirs.get(_SPAN_KEY)
    current = CURRENT.get()
    if isinstance(span, Span):
        context = span.context
    elif isinstance(span, trace.Span) and (foreign := span.get_span_context()).is_valid:
        context = Context(
            trace.format_trace_id(foreign.trace_id),
            trace.format_span_id(foreign.span_id),
            "",
            foreign.trace_flags.sampled,
            foreign.trace_state.to_header(),
        )
        if current is not None:
            context.request_id, context.deadline = current.request_id, current.deadline
    else:
        return None
    held = baggage.get_all(theirs)
    if dict(held) == dict(baggage.get_all(_baggage(context.baggage))):
        return context
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, theirs)
    return _with_baggage(context, carrier.get(BAGGAGE, ""))


def _with_baggage(context: Context, header: str) -> Context:
    """A twin of `context`: the same span, other baggage."""
    twin = context.child()
    twin.span_id, twin.parent_id, twin.baggage = context.span_id, context.parent_id, header
    twin.remote, twin.span = context.remote, record_of(context)
    return twin


class Runtime(_RuntimeContext):
    """Where OpenTelemetry's API keeps the current context: beside ours, and in step with it."""

    def __init__(self) -> None:
        # their context, and ours as it was when theirs was attached
        self._attached: ContextVar[tuple[TheirContext, Context | None]] = ContextVar(
            "sampan_opentelemetry", default=(TheirContext(), None)
        )
        self._look = self._attached.get

    def attach(self, context: TheirContext) -> Any:
        ours = _ours(context)
        return self._attached.set((context, ours)), CURRENT.set(ours)

    def get_current(self) -> TheirContext:
        theirs, then = self._look()
        now = _current()
        if now is then:
            return theirs
        if now is None:
            return TheirContext({key: value for key, value in theirs.items() if key != _SPAN_KEY})
        known = now.joined
        if known is not None and known[0] is theirs:
            return known[1]  # type: ignore[no-any-return]
        made = TheirContext(theirs)
        _put(made, _SPAN_KEY, Span(now.span, now))
        if now.baggage:
            for key, value in _baggage(now.baggage).items():
                _put(made, key, value)
        now.joined = theirs, made  # FastAPI asks for it several times a request
        return made

    def detach(self, token: Any) -> None:
        theirs, ours = token
        self._attached.reset(theirs)
        CURRENT.reset(ours)


def install(registry: Registry) -> None:
    """Put ours under the API, unless the user has named other providers. What is set later by the user wins."""
    context_api._RUNTIME_CONTEXT = Runtime()
    if trace._TRACER_PROVIDER is None and "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ:
        trace._TRACER_PROVIDER = TracerProvider()

    def meters(public: Any) -> None:
        from sampan.service.telemetry.meters import MeterProvider

        module = public._internal
        if module._METER_PROVIDER is None and "OTEL_PYTHON_METER_PROVIDER" not in os.environ:
            module._METER_PROVIDER = provider = MeterProvider(registry)
            module._PROXY_METER_PROVIDER.on_set_meter_provider(provider)

    when_imported("opentelemetry.metrics", meters)  # not its part: ours needs the whole
