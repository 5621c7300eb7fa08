"""Metrics exposition and log lines."""

from __future__ import annotations

import json
import logging
import os
import sys

from sampan.service.telemetry.logs import JsonHandler, Output, Redactor, encode, timestamp
from sampan.service.telemetry.metrics import Registry, add_process_metrics


def test_exposition_of_each_kind() -> None:
    registry = Registry()
    registry.counter("jobs_total", "Jobs.", ("kind",)).add('odd"\n\\name', amount=2)
    registry.gauge("depth", "Depth.", read=lambda: 1.5)
    histogram = registry.histogram("wait_seconds", "Wait.", ("path",), buckets=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(value, "/a")
    lines = registry.render().splitlines()
    assert 'jobs_total{kind="odd\\"\\n\\\\name"} 2' in lines
    assert "depth 1.5" in lines and "# TYPE depth gauge" in lines
    assert [line for line in lines if line.startswith("wait_seconds")] == [
        'wait_seconds_bucket{path="/a",le="0.1"} 2',
        'wait_seconds_bucket{path="/a",le="1.0"} 3',
        'wait_seconds_bucket{path="/a",le="+Inf"} 4',
        'wait_seconds_count{path="/a"} 4',
        'wait_seconds_sum{path="/a"} 3.65',
    ]
    assert histogram.count("/a") == 4


def test_process_metrics() -> None:
    registry = Registry()
    add_process_metrics(registry)
    page = registry.render()
    assert "# TYPE process_cpu_seconds_total counter" in page
    assert "process_resident_memory_bytes " in page


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.WARNING, "f.py", 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


def test_log_line() -> None:
    line = json.loads(
        encode(record("hi %s", "ada", order=7, odd=object), Output(1, Redactor(), identity={"service": "users"}))
    )
    assert (line["message"], line["severity"], line["service"]) == ("hi ada", "WARN", "users")
    assert line["attributes"] == {"order": 7, "odd": "<class 'object'>"}
    assert timestamp(0.25) == "1970-01-01T00:00:00.250000Z"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


def test_a_value_that_cannot_be_printed_does_not_lose_the_line() -> None:
    assert "unprintable Unprintable" in encode(record("hi", odd=Unprintable()), Output(1, Redactor())).decode()


def test_every_spelling_of_a_secret_is_struck_out() -> None:
    redactor = Redactor()
    redactor.add(['p"w/\u2713\\x', "abc", ""])
    text = json.dumps({"a": 'p"w/\u2713\\x', "b": "abc"}, ensure_ascii=False) + " p%22w%2F%E2%9C%93%5Cx"
    assert redactor.clean(text.encode()).decode() == '{"a": "[redacted]", "b": "abc"} [redacted]'


def test_exceptions_and_order_of_lines() -> None:
    reader, writer = os.pipe()
    output = Output(writer, Redactor())
    logger = logging.getLogger("order")
    logger.propagate, logger.handlers = False, [JsonHandler(output)]
    output.later(b'{"n":1}')
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("failed", exc_info=sys.exc_info())
    lines = [json.loads(line) for line in os.read(reader, 65536).splitlines()]
    os.close(reader)
    os.close(writer)
    assert lines[0] == {"n": 1}
    assert lines[1]["attributes"]["exception.type"] == "ValueError"
    assert "test_exceptions_and_order" in lines[1]["attributes"]["exception.stacktrace"]
    output.now(b"nobody reads")  # must not raise
