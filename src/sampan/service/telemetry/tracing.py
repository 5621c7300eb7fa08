"""Spans around work other than the request served: calls, statements, cache and object operations, messages.

    with tracing.span("SELECT users", tracing.CLIENT, {"db.system.name": "mysql"}) as span:
        ...
        span.set("db.response.returned_rows", 3)

A span is a record; it is encoded later, off the path of the work. Outside any traced work (no current context), and
in a trace that is not sampled, nothing is recorded. An exception that leaves the block is the span's error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Final

from sampan.service.telemetry.context import CURRENT, Context

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5  # the numbers of OTLP's SpanKind

Value = str | bool | int | float


class Span:
    """One piece of work. Times are Unix seconds; `end` is 0 until it has ended."""

    __slots__ = ("_token", "attributes", "context", "end", "error", "events", "kind", "name", "start")

    def __init__(self, name: str, kind: int, attributes: Mapping[str, Value] | None, context: Context | None) -> None:
        self.name, self.kind, self.context = name, kind, context
        self.attributes: dict[str, Value] = dict(attributes) if attributes else {}
        self.events: list[tuple[float, str, Mapping[str, Value]]] = []
        self.error = ""
        self.start = self.end = 0.0
        self._token: Token[Context | None] | None = None

    @property
    def recording(self) -> bool:
        return self.context is not None and self.context.sampled

    def set(self, key: str, value: Value) -> None:
        self.attributes[key] = value

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        self.events.append((time.time(), name, attributes or {}))

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed; an exception is also its event."""
        if isinstance(error, str):
            self.error = error
            return
        self.error = type(error).__qualname__
        self.event("exception", {"exception.type": self.error, "exception.message": str(error)})

    def __enter__(self) -> Span:
        self.start = time.time()
        if self.context is not None:
            self._token = CURRENT.set(self.context)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end = time.time()
        if self._token is not None:
            CURRENT.reset(self._token)
        if error is not None and not self.error:
            self.fail(error)
        if self.recording:
            RECORDED.append(self)


RECORDED: Final[deque[Span]] = deque(maxlen=2048)


def span(name: str, kind: int = INTERNAL, attributes: Mapping[str, Value] | None = None) -> Span:
    """A span below the current context, which is the current one inside the `with` block."""
    context = CURRENT.get()
    return Span(name, kind, attributes, None if context is None else context.child())
