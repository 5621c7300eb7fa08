"""OpenTelemetry's metrics API on top of our Registry: what libraries measure through it stands on /metrics.

Names become Prometheus names as OpenTelemetry's compatibility rules say: dots to underscores, the unit as a suffix,
`_total` for counters. Attributes become labels; each set of them is a series, and their number is limited as always.
"""

from __future__ import annotations

import logging
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions

from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.metrics import DEFAULT_BUCKETS, Counter, Gauge, Histogram, Labels, Registry, escape

log = logging.getLogger("sampan.telemetry")

_BAD: Final = re.compile(r"[^a-zA-Z0-9_]")
_UNITS: Final = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "min": "minutes",
    "h": "hours",
    "d": "days",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "%": "percent",
    "Cel": "celsius",
}
_WIDE: Final = (0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10000.0)


class _Free:
    """A metric whose series may bear different labels: the key of a series is name, value, name, value, ..."""

    overflow: Labels = ("otel_metric_overflow", "true")

    def check(self, labels: Labels) -> None: ...

    def pairs(self, values: Labels) -> str:
        return ",".join(f'{name}="{escape(value)}"' for name, value in zip(values[::2], values[1::2], strict=True))


class FreeCounter(_Free, Counter):
    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help)
        self.values.clear()


class FreeGauge(_Free, Gauge):
    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help)
        self.values.clear()


class FreeHistogram(_Free, Histogram): ...


def labels(attributes: Mapping[str, Any] | None) -> Labels:
    if not attributes:
        return ()
    found: list[str] = []
    for key in sorted(attributes):
        found += (_BAD.sub("_", key), str(attributes[key]))
    return tuple(found)


def prometheus_name(name: str, unit: str, kind: str) -> str:
    """https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/"""
    made = _BAD.sub("_", name)
    if made[:1].isdigit():
        made = f"_{made}"
    suffix = "ratio" if unit == "1" and kind == "gauge" else _UNITS.get(unit, "")
    made = made.removesuffix("_total")
    if suffix and not made.endswith(f"_{suffix}"):
        made += f"_{suffix}"
    return f"{made}_total" if kind == "counter" else made


class _Sum(metrics.Counter, metrics.UpDownCounter):
    """A counter, and an up-down counter, which is a gauge of ours."""

    def __init__(self, metric: Counter) -> None:
        self._metric = metric

    def add(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        if amount >= 0 or self._metric.kind == "gauge":
            self._metric.add(*labels(attributes), amount=amount)


class _Gauge(metrics._Gauge):
    def __init__(self, metric: Gauge) -> None:
        self._metric = metric

    def set(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        self._metric.set(amount, *labels(attributes))


class _Histogram(metrics.Histogram):
    def __init__(self, metric: Histogram) -> None:
        self._metric = metric

    def record(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        series, bucket = self._metric.child(labels(attributes)), bisect_left(self._metric.buckets, amount)
        series.counts[bucket] += 1
        series.sum += amount
        current = CURRENT.get()
        if current is not None and current.sampled:
            series.exemplars[bucket] = (current.trace_id, amount, time.time())


class _Observable(metrics.ObservableCounter, metrics.ObservableUpDownCounter, metrics.ObservableGauge):
    """Asked when /metrics is. What a callback no longer names is no longer there."""

    def __init__(self, metric: Counter, callbacks: Iterable[Any]) -> None:
        self._metric = metric
        self._callbacks: list[Callable[[CallbackOptions], Iterable[Any]]] = []
        for callback in callbacks:
            self._callbacks.append(_generated(callback) if isinstance(callback, Generator) else callback)
        self._failed = False

    def update(self) -> None:
        try:
            seen = {
                labels(seen.attributes): float(seen.value)
                for callback in self._callbacks
                for seen in callback(CallbackOptions())
            }
        except Exception as error:  # a library's callback must not take the page from everybody
            if not self._failed:
                log.warning("metric %s cannot be observed: %s", self._metric.name, error, exc_info=error)
            self._failed = True
            return
        self._metric.values.clear()
        for key, amount in seen.items():
            self._metric.add(*key, amount=amount)


def _generated(generator: Generator[Any, CallbackOptions, None]) -> Callable[[CallbackOptions], Iterable[Any]]:
    next(generator)  # to its first yield, which takes the options

    def call(options: CallbackOptions) -> Iterable[Any]:
        return generator.send(options)  # type: ignore[no-any-return]

    return call


M = TypeVar("M", FreeCounter, FreeGauge, FreeHistogram)


class Meter(metrics.Meter):
    def __init__(self, registry: Registry, name: str) -> None:
        super().__init__(name)
        self._registry = registry

    def _metric(self, made: M) -> M:
        """`made`, or the metric of that name and kind that is there already. Ours are never touched by others."""
        there = self._registry.metrics.get(made.name)
        if there is None or type(there) is not type(made):
            if there is not None:
                made.name = f"otel_{made.name}"
            there = self._registry.metrics.get(made.name) or self._registry.add(made)
        assert isinstance(there, type(made)), f"metric {made.name} is registered as another kind"
        return there

    def _counter(self, name: str, unit: str, description: str) -> FreeCounter:
        return self._metric(FreeCounter(prometheus_name(name, unit, "counter"), description))

    def _gauge(self, name: str, unit: str, description: str) -> FreeGauge:
        return self._metric(FreeGauge(prometheus_name(name, unit, "gauge"), description))

    def _observed(self, metric: Counter, callbacks: Sequence[Any] | None) -> _Observable:
        observable = _Observable(metric, callbacks or ())
        self._registry.before.append(observable.update)
        return observable

    def create_counter(self, name: str, unit: str = "", description: str = "") -> metrics.Counter:
        return _Sum(self._counter(name, unit, description))

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> metrics.UpDownCounter:
        return _Sum(self._gauge(name, unit, description))

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> metrics._Gauge:
        return _Gauge(self._gauge(name, unit, description))

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> metrics.Histogram:
        buckets = tuple(explicit_bucket_boundaries_advisory or (DEFAULT_BUCKETS if unit == "s" else _WIDE))
        made = FreeHistogram(prometheus_name(name, unit, "histogram"), description, buckets=buckets)
        return _Histogram(self._metric(made))

    def create_observable_counter(
        self, name: str, callbacks: Sequence[Any] | None = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableCounter:
        return self._observed(self._counter(name, unit, description), callbacks)

    def create_observable_up_down_counter(
        self, name: str, callbacks: Sequence[Any] | None = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableUpDownCounter:
        return self._observed(self._gauge(name, unit, description), callbacks)

    def create_observable_gauge(
        self, name: str, callbacks: Sequence[Any] | None = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableGauge:
        return self._observed(self._gauge(name, unit, description), callbacks)


class MeterProvider(metrics.MeterProvider):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def get_meter(
        self, name: str, version: str | None = None, schema_url: str | None = None, attributes: Any = None
    ) -> metrics.Meter:
        return Meter(self._registry, name)
