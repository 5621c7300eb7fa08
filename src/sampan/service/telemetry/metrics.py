"""Counters, gauges and histograms with limited labels, and their exposition for Prometheus: text 0.0.4 and OpenMetrics.

Metrics of `prometheus_client`, where the user's code loaded it, are appended to the page.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

log = logging.getLogger("sampan.telemetry")

DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MAX_SERIES: Final = 1000  # of one metric; the labels of what comes beyond become OTHER
OTHER: Final = "(other)"

Labels = tuple[str, ...]
Exemplar = tuple[str, float, float]  # trace id, value, Unix time


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=True))


def _number(value: float) -> str:
    whole = abs(value) < 1e15 and value == int(value)
    return str(int(value)) if whole else {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text := repr(value), text)


class _Metric:
    """What has a name, labels, and at most MAX_SERIES different values of them."""

    kind = ""

    def __init__(self, name: str, help: str, labels: Labels) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.refused: Callable[[str], None] = lambda name: None  # told of every addition beyond the limit

    def _admit(self, series: dict[Labels, Any], labels: Labels) -> Labels:
        """`labels`, which are new to `series`, or their stand-in where there are too many already."""
        self.check(labels)
        if len(series) < MAX_SERIES:
            return labels
        self.refused(self.name)
        return self.overflow

    def check(self, labels: Labels) -> None:
        """ValueError where there are more or fewer values than labels."""
        if len(labels) != len(self.labels):
            raise ValueError(f"metric {self.name} has the labels {self.labels}, not {len(labels)} of them: {labels}")

    @property
    def overflow(self) -> Labels:
        """The labels of what comes beyond the limit."""
        return (OTHER,) * len(self.labels)

    def family(self, openmetrics: bool) -> str:
        """The name that HELP and TYPE bear."""
        return self.name.removesuffix("_total") if openmetrics and self.kind == "counter" else self.name

    def pairs(self, values: Labels) -> str:
        return _pairs(self.labels, values)

    def lines(self, openmetrics: bool = False) -> Iterator[str]:
        raise TypeError(f"{type(self).__name__} is not a kind of metric")


class Counter(_Metric):
    kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        super().__init__(name, help, labels)
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        values = self.values
        if labels not in values:
            labels = self._admit(values, labels)
            values.setdefault(labels, 0.0)
        values[labels] += amount

    def value(self, *labels: str) -> float:
        return self.values.get(labels, 0.0)

    def lines(self, openmetrics: bool = False) -> Iterator[str]:
        name = self.name
        if openmetrics and self.kind == "counter":
            name = f"{self.family(True)}_total"
        for values, amount in list(self.values.items()):
            pairs = self.pairs(values)
            yield f"{name}{{{pairs}}} {_number(amount)}" if pairs else f"{name} {_number(amount)}"


class Gauge(Counter):
    """A value that goes both ways; `read`, if given, is asked at exposition time."""

    kind = "gauge"

    def __init__(self, name: str, help: str, labels: Labels = (), read: Callable[[], float] | None = None) -> None:
        super().__init__(name, help, labels)
        self.read = read

    def set(self, amount: float, *labels: str) -> None:
        if labels not in self.values:
            labels = self._admit(self.values, labels)
        self.values[labels] = amount

    def lines(self, openmetrics: bool = False) -> Iterator[str]:
        if self.read is not None:
            self.values[()] = self.read()
        yield from super().lines(openmetrics)


class Series:
    """One series of a histogram: `counts` per bucket, the last above all; `exemplars` the latest of each."""

    __slots__ = ("counts", "exemplars", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.exemplars: list[Exemplar | None] = [None] * (buckets + 1)
        self.sum = 0.0


class Histogram(_Metric):
    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Labels = (), buckets: tuple[float, ...] = DEFAULT_BUCKETS) -> None:
        super().__init__(name, help, labels)
        self.buckets = buckets
        self.series: dict[Labels, Series] = {}

    def child(self, labels: Labels) -> Series:
        series = self.series.get(labels)
        if series is None:
            labels = self._admit(self.series, labels)
            series = self.series.setdefault(labels, Series(len(self.buckets)))
        return series

    def observe(self, value: float, *labels: str) -> None:
        series = self.child(labels)
        series.counts[bisect_left(self.buckets, value)] += 1
        series.sum += value

    def count(self, *labels: str) -> int:
        series = self.series.get(labels)
        return 0 if series is None else sum(series.counts)

    def lines(self, openmetrics: bool = False) -> Iterator[str]:
        bounds = (*(repr(float(bound)) for bound in self.buckets), "+Inf")
        for values, series in list(self.series.items()):
            pairs = self.pairs(values)
            comma, braces, total = ("," if pairs else ""), (f"{{{pairs}}}" if pairs else ""), 0
            for bound, count, exemplar in zip(bounds, series.counts, series.exemplars, strict=True):
                total += count
                line = f'{self.name}_bucket{{{pairs}{comma}le="{bound}"}} {total}'
                if openmetrics and exemplar is not None:
                    trace, value, moment = exemplar
                    line += f' # {{trace_id="{trace}"}} {value!r} {moment:.3f}'
                yield line
            yield f"{self.name}_count{braces} {total}"
            yield f"{self.name}_sum{braces} {series.sum!r}"


Metric = Counter | Histogram


class Registry:
    """All metrics of one process; one per service process, never global."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.before: list[Callable[[], None]] = []  # called before an exposition, to bring values up to date
        self._overflowing: set[str] = set()

    def counter(self, name: str, help: str, labels: Labels = ()) -> Counter:
        metric = self.metrics.get(name) or self.add(Counter(name, help, labels))
        assert isinstance(metric, Counter)
        return metric

    def gauge(self, name: str, help: str, labels: Labels = (), read: Callable[[], float] | None = None) -> Gauge:
        metric = self.metrics.get(name) or self.add(Gauge(name, help, labels, read))
        assert isinstance(metric, Gauge)
        return metric

    def histogram(
        self, name: str, help: str, labels: Labels = (), buckets: tuple[float, ...] = DEFAULT_BUCKETS
    ) -> Histogram:
        metric = self.metrics.get(name) or self.add(Histogram(name, help, labels, buckets))
        assert isinstance(metric, Histogram)
        return metric

    def add(self, metric: Metric) -> Metric:
        """Register a metric made elsewhere; it is exposed from now on."""
        metric.refused = self._overflow
        self.metrics[metric.name] = metric
        return metric

    def _overflow(self, name: str) -> None:
        if name not in self._overflowing:
            self._overflowing.add(name)
            log.warning(
                "metric %s has %d series: further label values are counted as %s; a label must not hold what has no"
                " bound (ids, addresses, free text)",
                *(name, MAX_SERIES, OTHER),
            )
        self.counter(
            "telemetry_series_refused_total", "Values of metrics counted under (other) for want of bounds.", ("metric",)
        ).add(name)

    def render(self, openmetrics: bool = False) -> str:
        """The page: OpenMetrics 1.0 with exemplars, or the classic text format 0.0.4."""
        for update in self.before:
            update()
        lines: list[str] = []
        for metric in list(self.metrics.values()):
            family, escaped = metric.family(openmetrics), metric.help.replace("\\", "\\\\").replace("\n", "\\n")
            lines += (f"# HELP {family} {escaped}", f"# TYPE {family} {metric.kind}", *metric.lines(openmetrics))
        lines += _theirs({metric.family(openmetrics) for metric in self.metrics.values()}, openmetrics)
        if openmetrics:
            lines.append("# EOF")
        return "\n".join(lines) + "\n"


def accepted(accept: str) -> bool:
    """Whether a request with this `Accept` wants OpenMetrics rather than the classic text."""
    return "application/openmetrics-text" in accept


def _theirs(ours: Iterable[str], openmetrics: bool) -> Iterator[str]:
    """The families of prometheus_client, where it is loaded, without those that are already on our page."""
    client: Any = sys.modules.get("prometheus_client")
    if client is None:
        return
    if openmetrics:
        theirs: Any = importlib.import_module("prometheus_client.openmetrics.exposition")
        page = theirs.generate_latest(client.REGISTRY).decode().removesuffix("# EOF\n")
    else:
        page = client.generate_latest().decode()
    taken, skipping = set(ours), False
    for line in page.splitlines():
        if line.startswith("# HELP "):
            skipping = line.split(" ", 3)[2] in taken
        if not skipping:
            yield line


def add_process_metrics(registry: Registry, started: float | None = None) -> None:
    """The process_* metrics that Prometheus clients of every language expose (Linux)."""
    page = os.sysconf("SC_PAGE_SIZE")
    statm, descriptors = Path("/proc/self/statm"), Path("/proc/self/fd")

    def cpu() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    start = time.time() if started is None else started
    registry.gauge("process_start_time_seconds", "Start of the process, Unix time.", read=lambda: start)
    seconds = registry.gauge("process_cpu_seconds_total", "User and system CPU time.", read=cpu)
    seconds.kind = "counter"
    if statm.exists():
        registry.gauge(
            "process_resident_memory_bytes", "Resident memory.", read=lambda: int(statm.read_text().split()[1]) * page
        )
        registry.gauge("process_open_fds", "Open file descriptors.", read=lambda: sum(1 for _ in descriptors.iterdir()))
