"""What is told of every statement: a histogram, a span in traces that are recorded, and reports in development."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from sampan.service.data.pool import Driver
    from sampan.service.data.reports import Reports
    from sampan.service.data.statement import Statement

# https://opentelemetry.io/docs/specs/semconv/db/database-metrics/
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_TEXT_MOST = 2000


class Observer:
    """Of one server. `wrote` is called when something was committed; replicas ask about it."""

    def __init__(self, name: str, driver: Driver, registry: Registry, database: Any = None) -> None:
        self.name, self.database = name, database
        self.durations = registry.histogram(
            "db_client_operation_duration_seconds", "Statements.", ("database", "operation"), BUCKETS
        )
        self.errors = registry.counter(
            "db_client_errors_total", "Statements that failed, by error.", ("database", "error")
        )
        self.retries = registry.counter("db_transaction_retries_total", "Transactions tried again.", ("database",))
        self.attributes: dict[str, tracing.Value] = {"db.system.name": driver.system, "db.namespace": driver.database}
        if driver.host:
            self.attributes |= {"server.address": driver.host, "server.port": driver.port}
        self.reports: Reports | None = None
        self.track_writes = False
        self.written: dict[str, float] = {}

    def watch(self, statement: Statement) -> Watch:
        return Watch(self, statement)

    def retried(self) -> None:
        self.retries.add(self.name)

    def wrote(self) -> None:
        """The work in hand has written: its reads go to the primary from now on."""
        if not self.track_writes:
            return
        context = CURRENT.get()
        if context is not None:
            if len(self.written) > 10_000:
                self.written.clear()
            self.written[context.trace_id] = time.monotonic()

    def has_written(self) -> bool:
        context = CURRENT.get()
        return context is not None and context.trace_id in self.written

    def span(self, verb: str, table: str, text: str) -> tracing.Span | None:
        """A span for a statement in a recorded trace. The text has no values: they are parameters."""
        context = CURRENT.get()
        if context is None or (not context.sampled and context.held is None):
            return None
        attributes = {**self.attributes, "db.query.text": text[:_TEXT_MOST], "db.operation.name": verb}
        if table:
            attributes["db.collection.name"] = table
        return tracing.span(f"{verb} {table}" if table else verb, tracing.CLIENT, attributes)


class Watch:
    __slots__ = ("observer", "span", "started", "statement")

    def __init__(self, observer: Observer, statement: Statement) -> None:
        self.observer, self.statement = observer, statement
        self.span: tracing.Span | None = None

    def __enter__(self) -> None:
        statement = self.statement
        self.span = span = self.observer.span(statement.verb, statement.table, statement.shape)
        if span is not None:
            span.__enter__()
        self.started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        seconds = time.perf_counter() - self.started
        observer, statement = self.observer, self.statement
        observer.durations.observe(seconds, observer.name, statement.verb)
        if self.span is not None:
            if error is not None and kind is not None:
                self.span.set("error.type", getattr(error, "code", "") or kind.__name__)
                self.span.fail(kind.__name__)  # not its message, which may quote a value
            self.span.__exit__(None, None, None)
        if error is not None and kind is not None:
            observer.errors.add(observer.name, kind.__name__)
        elif not statement.reads and observer.track_writes:
            observer.wrote()
        if observer.reports is not None:
            observer.reports.saw(statement, seconds)
