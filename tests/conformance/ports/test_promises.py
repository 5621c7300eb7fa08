"""docs/what-every-request-gets.md, run: its two files make a service, and each promise of the page is kept."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from prometheus_client.openmetrics import parser

from tests.servers.collector import Collected, collecting

PAGE = Path(__file__).parents[3] / "docs/what-every-request-gets.md"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Greeter(NamedTuple):
    service: Any
    collected: Collected

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.service.output().splitlines()]

    def page(self) -> str:
        return str(self.service.http("/metrics")[1], "utf-8")

    def end(self) -> tuple[list[dict[str, Any]], list[Any]]:
        """Log lines and spans, when the process has ended."""
        assert self.service.stop() == 0
        return self.lines(), self.collected.spans


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


@pytest.fixture
def start(tmp_path: Path, serve: Any) -> Iterator[Callable[..., Greeter]]:
    for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with collecting() as collected:

        def run(**environment: str) -> Greeter:
            told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collected.url, "SAMPAN_APP": "hello.system:app", **environment}
            return Greeter(serve("greeter", **told).ready(), collected)

        yield run


def test_a_trace_a_line_and_an_id(start: Callable[..., Greeter]) -> None:
    greeter = start()
    sent = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1", "x-request-id": "r-1", "user-agent": "curl/8"}
    assert greeter.service.http("/greet/ada?token=s3cret-token", headers=sent) == (200, b'"Hello, ada"')
    greeter.service.http("/greet/bob", headers={"b3": f"{TRACE}-{SPAN}-1"})
    greeter.service.http("/greet/eve", headers={"x-b3-traceid": TRACE, "x-b3-spanid": SPAN, "x-b3-sampled": "1"})
    greeter.service.http("/greet/new")
    greeter.service.http("/health")
    lines, spans = greeter.end()
    assert [span.name for span in spans] == ["GET /greet/{name}"] * 4
    assert [span.trace_id.hex() == TRACE for span in spans] == [True, True, True, False]
    assert (spans[0].parent_span_id.hex(), spans[0].trace_state) == (SPAN, "a=1")
    port = greeter.service.port
    wanted = {
        "http.request.method": "GET",
        "http.route": "/greet/{name}",
        "url.path": "/greet/ada",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": port,
        "client.address": "127.0.0.1",
        "user_agent.original": "curl/8",
        "network.protocol.version": "1.1",
    }
    assert attributes(spans[0]) == wanted
    resource = {pair.key: pair.value for pair in greeter.collected.requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"].string_value == "greeter"
    access = [line for line in lines if line["logger"] == "sampan.access"]
    own = [line for line in lines if line["logger"] == "hello"]
    assert len(access) == len(own) == 4  # /health leaves none
    found = access[0]["attributes"]
    assert {key: found[key] for key in wanted if key in found} == {key: wanted[key] for key in wanted if key in found}
    assert found["request_id"] == "r-1" and found["duration_ms"] > 0 and access[0]["time"]
    assert own[0]["attributes"] == {"who": "ada"}
    ids = (TRACE, spans[0].span_id.hex())
    assert (own[0]["trace_id"], own[0]["span_id"]) == (access[0]["trace_id"], access[0]["span_id"]) == ids
    assert "s3cret-token" not in json.dumps(lines) + str(spans)


async def test_metrics_and_the_request_id(start: Callable[..., Greeter]) -> None:
    greeter = start()
    async with aiohttp.ClientSession(greeter.url) as http:
        async with http.get("/greet/ada") as got:
            assert re.fullmatch("[0-9a-f]{32}", got.headers["x-request-id"])
        sent = {"x-request-id": "r-1", "traceparent": f"00-{TRACE}-{SPAN}-01"}
        async with http.get("/greet/ada", headers=sent) as got:  # the last of its route: a bucket has one exemplar
            assert got.headers["x-request-id"] == "r-1"
        async with http.get("/nowhere") as got:
            assert got.status == 404
        async with http.ws_connect("/rooms/7") as socket:
            await socket.send_str("hi")
            assert await socket.receive_str() == "hi"
            await socket.receive()
        parse: Any = parser.text_string_to_metric_families
        for _ in range(100):
            async with http.get("/metrics", headers={"accept": "application/openmetrics-text"}) as got:
                families = {family.name: family for family in parse(await got.text())}
            if families["websocket_connections"].samples:
                break
    counted = {tuple(sample.labels.values()): sample.value for sample in families["http_requests"].samples}
    assert counted == {("GET", "/greet/{name}", "200"): 2, ("GET", "(unmatched)", "404"): 1}
    durations = families["http_request_duration_seconds"].samples
    assert TRACE in {sample.exemplar.labels["trace_id"] for sample in durations if sample.exemplar}
    assert families["http_requests_active"].samples[0].value == 0
    assert families["websocket_connections_active"].samples[0].value == 0
    sockets = [(sample.labels, sample.value) for sample in families["websocket_connections"].samples]
    assert sockets == [({"path": "/rooms/{room}", "status": "101"}, 1)]
    _, spans = greeter.end()
    assert attributes(next(span for span in spans if "rooms" in span.name))["http.response.status_code"] == 101


def test_errors_and_deadlines(start: Callable[..., Greeter]) -> None:
    greeter = start()
    status, body = greeter.service.http("/broken")
    assert status == 500 and b"defect" not in body
    begun = time.monotonic()
    assert greeter.service.http("/slow", headers={"x-request-timeout-ms": "200"})[0] == 504
    assert time.monotonic() - begun < 10
    lines, spans = greeter.end()
    failures = [line for line in lines if "a defect" in str(line.get("attributes", {}).get("exception.stacktrace"))]
    assert len(failures) == 1 and failures[0]["trace_id"] == spans[0].trace_id.hex()
    assert [attributes(span)["error.type"] for span in spans] == ["RuntimeError", "TimeoutError"]
    assert [span.status.code for span in spans] == [2, 2]


def test_failures_are_kept_where_little_is_recorded(start: Callable[..., Greeter]) -> None:
    greeter = start(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0")
    for path in ("/greet/ada", "/broken", "/greet/bob"):
        greeter.service.http(path)
    greeter.service.http("/slow", headers={"x-request-timeout-ms": "1100"})
    _, spans = greeter.end()
    assert [span.name for span in spans] == ["GET /broken", "GET /slow"]


def test_a_collector_that_is_away_fails_nothing(start: Callable[..., Greeter]) -> None:
    greeter = start(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_BSP_MAX_QUEUE_SIZE="20")
    for _ in range(60):
        assert greeter.service.http("/greet/ada")[0] == 200
    give_up = time.monotonic() + 20
    while 'reason="queue_full"' not in greeter.service.http("/metrics")[1].decode():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    begun = time.monotonic()
    lines, _ = greeter.end()
    assert time.monotonic() - begun < 15
    assert len([line for line in lines if "do not reach" in line["message"]]) == 1


def test_bounds_one_meaning_and_headers(start: Callable[..., Greeter]) -> None:
    greeter = start()

    def answers(request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", greeter.service.port), 10) as client:
            client.sendall(request)
            return client.recv(65536)

    head = b" HTTP/1.1\r\nhost: x\r\n"
    good = answers(b"GET /greet/ada" + head + b"connection: close\r\n\r\n").lower()
    for header in (
        b"x-content-type-options: nosniff",
        b"x-frame-options: deny",
        b"referrer-policy: ",
        b"content-security-policy: frame-ancestors 'none'",
    ):
        assert header in good
    assert answers(b"POST /greet/ada" + head + b"content-length: 2000000\r\n\r\n").startswith(b"HTTP/1.1 413")
    assert answers(b"GET /" + b"x" * 9000 + head + b"\r\n").startswith(b"HTTP/1.1 414")
    assert answers(b"GET /" + head + b"x: " + b"y" * 70_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    two = b"content-length: 1\r\ncontent-length: 2\r\n\r\na"
    assert answers(b"POST /greet/ada" + head + two).startswith(b"HTTP/1.1 400")
    assert sum(map(int, re.findall(r"^http_refused_total\{.*\} (\d+)", greeter.page(), re.MULTILINE))) == 3
    assert 'http_requests_total{method="POST",path="(refused)",status="413"} 1' in greeter.page()


def test_what_has_no_time_left_or_no_place_does_not_run(start: Callable[..., Greeter]) -> None:
    greeter = start()
    assert greeter.service.http("/greet/late", headers={"x-request-timeout-ms": "0"})[0] == 504
    assert 'server_shed_total{reason="deadline"} 1' in greeter.page()
    assert re.search(r"^server_concurrency_limit \d", greeter.page(), re.MULTILINE)
    lines, _ = greeter.end()
    assert not [line for line in lines if line["logger"] == "hello"]


def test_the_process_as_a_user_sets_it_up(start: Callable[..., Greeter], tmp_path: Path) -> None:
    """structlog, OpenTelemetry's API and a log file, all in one."""
    (tmp_path / "hello/web.py").write_text(
        (tmp_path / "hello/web.py").read_text()
        + """
import structlog
from opentelemetry import trace

@app.get("/joined")
async def joined() -> None:
    with trace.get_tracer("lib").start_as_current_span("step"):
        structlog.get_logger("own").info("seen", order=7)
    trace.get_current_span().set_attribute("plan", "gold")
"""
    )
    greeter = start(SAMPAN_LOG_FILE=str(tmp_path / "logs/app.log"))
    greeter.service.http("/joined")
    assert greeter.service.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "logs/app.log").read_text().splitlines()]
    spans = {span.name: span for span in greeter.collected.spans}
    assert set(spans) == {"step", "GET /joined"} and spans["step"].parent_span_id == spans["GET /joined"].span_id
    assert attributes(spans["GET /joined"])["plan"] == "gold"
    (seen,) = [line for line in lines if line["message"] == "seen"]
    assert seen["span_id"] == spans["step"].span_id.hex() and seen["attributes"] == {"order": 7}
    assert [line["message"] for line in lines if line["logger"] == "sampan.access"] == ["GET /joined 200"]
    assert greeter.service.output() == ""
