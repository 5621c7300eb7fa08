"""Counters, gauges and histograms with Prometheus text exposition (format 0.0.4).

Metrics of `prometheus_client`, where the user's code loaded it, are appended to the page.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


class Counter:
    kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def value(self, *labels: str) -> float:
        return self.values.get(labels, 0.0)

    def lines(self) -> Iterator[str]:
        for values, amount in list(self.values.items()):
            pairs = _pairs(self.labels, values)
            yield f"{self.name}{{{pairs}}} {_number(amount)}" if pairs else f"{self.name} {_number(amount)}"


class Gauge(Counter):
    """A value that goes both ways; `read`, if given, is asked at exposition time."""

    kind = "gauge"

    def __init__(self, name: str, help: str, labels: Labels = (), read: Callable[[], float] | None = None) -> None:
        super().__init__(name, help, labels)
        self.read = read

    def set(self, amount: float, *labels: str) -> None:
        self.values[labels] = amount

    def lines(self) -> Iterator[str]:
        if self.read is not None:
            self.values[()] = self.read()
        yield from super().lines()


class Histogram:
    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Labels = (), buckets: tuple[float, ...] = DEFAULT_BUCKETS) -> None:
        self.name, self.help, self.labels, self.buckets = name, help, labels, buckets
        self.series: dict[Labels, list[float]] = {}  # counts per bucket, then the count above all, then the sum

    def child(self, labels: Labels) -> list[float]:
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = [0.0] * (len(self.buckets) + 2)
        return series

    def observe(self, value: float, *labels: str) -> None:
        series = self.child(labels)
        series[bisect_left(self.buckets, value)] += 1
        series[-1] += value

    def count(self, *labels: str) -> int:
        return int(sum(self.series.get(labels, [0.0])[:-1]))

    def lines(self) -> Iterator[str]:
        for values, series in list(self.series.items()):
            pairs = _pairs(self.labels, values)
            comma, braces, total = ("," if pairs else ""), (f"{{{pairs}}}" if pairs else ""), 0.0
            for bound, count in zip((*(repr(b) for b in self.buckets), "+Inf"), series[:-1], strict=True):
                total += count
                yield f'{self.name}_bucket{{{pairs}{comma}le="{bound}"}} {int(total)}'
            yield f"{self.name}_count{braces} {int(total)}"
            yield f"{self.name}_sum{braces} {series[-1]!r}"


Metric = Counter | Histogram


class Registry:
    """All metrics of one process; one per service process, never global."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}

    def counter(self, name: str, help: str, labels: Labels = ()) -> Counter:
        metric = self.metrics.setdefault(name, Counter(name, help, labels))
        assert isinstance(metric, Counter)
        return metric

    def gauge(self, name: str, help: str, labels: Labels = (), read: Callable[[], float] | None = None) -> Gauge:
        metric = self.metrics.setdefault(name, Gauge(name, help, labels, read))
        assert isinstance(metric, Gauge)
        return metric

    def histogram(
        self, name: str, help: str, labels: Labels = (), buckets: tuple[float, ...] = DEFAULT_BUCKETS
    ) -> Histogram:
        metric = self.metrics.setdefault(name, Histogram(name, help, labels, buckets))
        assert isinstance(metric, Histogram)
        return metric

    def render(self) -> str:
        lines: list[str] = []
        for metric in self.metrics.values():
            lines += (f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *metric.lines())
        page = "\n".join(lines) + "\n"
        theirs = sys.modules.get("prometheus_client")
        return page if theirs is None else page + theirs.generate_latest().decode()


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
