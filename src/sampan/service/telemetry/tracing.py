"""Spans around work other than the request served: calls, statements, cache and object operations, messages.

    with tracing.span("SELECT users", tracing.CLIENT, {"db.system.name": "mysql"}) as span:
        ...
        span.set("db.response.returned_rows", 3)

A span is a record; it is encoded later, off the path of the work. Outside any traced work (no current context), and
in a trace that is not sampled, nothing is recorded, save what `Sampler.keep` says: where the trace is not sampled and
the work that came from outside fails or is slow, its own span and the first 128 below it are recorded all the same.
An exception that leaves the block is the span's error.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from sampan.service.telemetry.context import CURRENT, MAX_HELD, SAMPLER, Context

if TYPE_CHECKING:
    from sampan.service.telemetry.logs import Redactor

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5  # the numbers of OTLP's SpanKind

Value = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
# (trace id, span id), lower-case hexadecimal, and perhaps attributes of the link
Link = tuple[str, str] | tuple[str, str, Mapping[str, Any]]


class Span:
    """One piece of work. Times are Unix seconds; `end` is 0 until it has ended.

    `error` is the class of what went wrong (OpenTelemetry's error.type), `description` its words; `ok` says that
    somebody declared the work a success. `scope` names the library it comes from and its version; "" is ours.
    """

    __slots__ = (
        "_arrived",
        "_token",
        "attributes",
        "context",
        "description",
        "end",
        "error",
        "events",
        "kind",
        "links",
        "name",
        "ok",
        "scope",
        "start",
    )

    def __init__(
        self, name: str, kind: int, attributes: Mapping[str, Value] | None, context: Context | None, arrived: bool
    ) -> None:
        self.name, self.kind, self.context = name, kind, context
        self.attributes: dict[str, Value] = dict(attributes) if attributes else {}
        self.events: list[tuple[float, str, Mapping[str, Value]]] = []
        self.links: Sequence[Link] = ()
        self.error = self.description = ""
        self.ok = False
        self.scope = ("", "")
        self.start = self.end = 0.0
        self._arrived = arrived
        self._token: Token[Context | None] | None = None

    @property
    def recording(self) -> bool:
        context = self.context
        return context is not None and (context.sampled or context.held is not None)

    def set(self, key: str, value: Value) -> None:
        self.attributes[key] = value

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        self.events.append((time.time(), name, attributes or {}))

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed; an exception is also its event."""
        if isinstance(error, str):
            self.error = error
            return
        self.error, self.description = type(error).__qualname__, str(error)
        self.event("exception", {"exception.type": self.error, "exception.message": self.description})

    def begin(self, moment: float = 0.0) -> Span:
        """Start, without becoming the current span. Entering the span does both."""
        self.start = moment or time.time()
        if self.context is not None:
            self.context.span = self
        return self

    def finish(self, moment: float = 0.0) -> None:
        """End what `begin` began; once."""
        if self.end:
            return
        self.end = moment or time.time()
        context = self.context
        if context is None:
            return
        context.span = context.joined = None
        if context.sampled:
            emit(self)
        elif context.held is not None:
            if self._arrived:
                self._settle(context)
            elif len(context.held) < MAX_HELD:
                context.held.append(self)

    def _settle(self, context: Context) -> None:
        held, context.held = context.held or [], None
        if SAMPLER.worth_keeping(bool(self.error), self.end - self.start):
            for span in held:
                emit(span)
            emit(self)
        held.clear()

    def __enter__(self) -> Span:
        self.begin()
        if self.context is not None:
            self._token = CURRENT.set(self.context)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # left in another task, as asynchronous generators may be
                CURRENT.reset(token)
        if error is not None and not self.error:
            self.fail(error)
        self.finish()


RECORDED: Final[deque[Span]] = deque(maxlen=256)
"""The latest spans, while nothing exports them: few, so that they stay in the processor's cache."""
_emit: Callable[[Span], None] = RECORDED.append


def emit(span: Span) -> None:
    """Hand an ended span to the exporter, or to RECORDED where there is none."""
    _emit(span)


def export_to(take: Callable[[Span], None] | None) -> None:
    """Have ended spans handed to `take`; with None to RECORDED again."""
    global _emit  # noqa: PLW0603  # one exporter a process
    _emit = take or RECORDED.append


def span(
    name: str,
    kind: int = INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    *,
    links: Sequence[Link] = (),
    parent: Context | None = None,
) -> Span:
    """A span below `parent` (the current context), which is the current one inside the `with` block.

    A context that came from elsewhere (`context.from_headers`) and that no span bears yet becomes the span's own.
    """
    above = parent if parent is not None else CURRENT.get()
    if above is None:
        return Span(name, kind, attributes, None, False)
    if above.fresh:
        above.fresh = False
        made = Span(name, kind, attributes, above, True)
    else:
        made = Span(name, kind, attributes, above.child(), False)
    made.links = links
    return made


def current() -> Span:
    """The span of the work in hand: in a request handler the server's own. One that goes nowhere outside of work."""
    context = CURRENT.get()
    if context is None:
        return Span("", INTERNAL, None, None, False)
    if context.span is None:
        context.span = Span("", SERVER, None, context, False)  # merged into the request's record at its end
    return context.span


def redact(span: Span, redactor: Redactor) -> None:
    """Strike the secrets out of everything that is written in `span`."""
    clean, text = redactor.clean_value, redactor.clean_text
    span.name, span.description = text(span.name), text(span.description)
    span.attributes = {key: clean(item) for key, item in span.attributes.items()}
    span.events = [(moment, text(name), clean(given)) for moment, name, given in span.events]
    span.links = [(*link[:2], clean(link[2])) if len(link) == 3 else link for link in span.links]
