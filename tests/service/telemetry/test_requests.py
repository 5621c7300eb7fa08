"""What a request leaves behind, over a real server: span, metrics, log line; of every framework, of websockets too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from litestar import WebSocket as LitestarSocket
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as classic
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sampan.service.http.refusal import Refusal
from sampan.service.telemetry import otlp, tracing
from sampan.service.telemetry.context import SAMPLER, from_headers
from sampan.service.telemetry.metrics import DEFAULT_BUCKETS, MAX_SERIES, Registry
from tests.service.telemetry.conftest import Collector, Exporting, said, until

openmetrics: Any = openmetrics_parser.text_string_to_metric_families
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def get(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as reply:
        await reply.read()
        return reply.status


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


class Caller(NamedTuple):
    subject: str


class Who:
    """A guard that knows everybody, and refuses /closed."""

    def enter(self, scope: Any, context: Any) -> Any:
        scope["sampan.caller"] = Caller("ada")
        return Refusal(403, b'{"error":"closed"}') if scope["path"] == "/closed" else None

    def leave(self, scope: Any, context: Any, status: int, seconds: float) -> None: ...


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/users/{user_id}")
    async def user(user_id: int) -> str:
        with tracing.span("SELECT users", tracing.CLIENT):
            tracing.current().set("rows", 1)
        tracing.current().set("user.plan", "gold")
        return "ada"

    @app.get("/fails")
    async def fails() -> None:
        with contextlib.suppress(KeyError), tracing.span("SELECT orders", tracing.CLIENT):
            raise KeyError("x")
        raise RuntimeError("broken")

    @app.websocket("/rooms/{room}")
    async def room(socket: WebSocket, room: str) -> None:
        if room == "closed":
            await socket.close()
            return
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return app


async def test_the_span_of_a_request(serving: Any, collector: Collector, exporting: Exporting) -> None:
    async with exporting(collector.url) as (exporter, _), serving(shop()) as served:
        served.middleware.exporter = exporter
        served.middleware.guards = (Who(),)
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1", "user-agent": "curl/8"}
        assert await get(f"{served.url}/users/7?token=abc", **headers) == 200
        await until(lambda: len(collector.spans) == 2)
    below, span = sorted(collector.spans, key=lambda span: span.kind, reverse=True)
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, SPAN, "a=1")
    assert (span.name, span.kind, span.flags) == ("GET /users/{user_id}", 2, 0x301)
    assert below.parent_span_id == span.span_id and attributes(below) == {"rows": 1}
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.route": "/users/{user_id}",
        "http.response.status_code": 200,
        "url.path": "/users/7",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": served.port,
        "client.address": "127.0.0.1",
        "user_agent.original": "curl/8",
        "enduser.id": "ada",
        "user.plan": "gold",
    }


async def test_errors_and_refusals(serving: Any, collector: Collector, exporting: Exporting) -> None:
    async with exporting(collector.url) as (exporter, _), serving(shop()) as served:
        served.middleware.exporter = exporter
        served.middleware.guards = (Who(),)
        assert await get(f"{served.url}/fails") == 500
        assert await get(f"{served.url}/closed") == 403
        await until(lambda: len(collector.spans) == 3)
        spans = {span.name: span for span in collector.spans}
        assert attributes(spans["GET /fails"])["error.type"] == "RuntimeError" and spans["GET /fails"].status.code == 2
        assert attributes(spans["GET"])["http.response.status_code"] == 403 and spans["GET"].status.code == 0
        assert spans["SELECT orders"].status.code == 2
        assert served.middleware.requests.value("GET", "(refused)", "403") == 1


async def test_of_traces_that_are_not_sampled_failures_are_exported(
    serving: Any, collector: Collector, exporting: Exporting
) -> None:
    SAMPLER.configure(0.0)
    async with exporting(collector.url) as (exporter, _), serving(shop()) as served:
        served.middleware.exporter = exporter
        await get(f"{served.url}/users/1")
        await get(f"{served.url}/fails")
        await until(lambda: len(collector.spans) == 2)
    assert sorted(span.name for span in collector.spans) == ["GET /fails", "SELECT orders"]
    assert served.middleware.requests.value("GET", "/users/{user_id}", "200") == 1
    series = served.middleware.durations.series["GET", "/users/{user_id}"]
    assert not any(series.exemplars)  # an exemplar would lead to a trace that nobody has


async def test_websockets(serving: Any, collector: Collector, exporting: Exporting) -> None:
    async with exporting(collector.url) as (exporter, _), serving(shop()) as served, aiohttp.ClientSession() as http:
        served.middleware.exporter = exporter
        async with http.ws_connect(f"{served.url}/rooms/7") as socket:
            await until(lambda: served.middleware.open_sockets.value() == 1)
            await socket.send_str("hi")
            assert await socket.receive_str() == "hi"
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(f"{served.url}/rooms/closed")
        served.middleware.guards = (Who(),)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{served.url}/closed")
        assert refused.value.status == 403
        await until(lambda: len(collector.spans) == 3)
    found = [attributes(span)["http.response.status_code"] for span in collector.spans]
    assert found == [101, 403, 403]
    assert (collector.spans[0].name, attributes(collector.spans[0])["url.scheme"]) == ("GET /rooms/{room}", "ws")
    assert served.middleware.sockets.value("/rooms/{room}", "101") == 1
    assert served.middleware.open_sockets.value() == 0 and served.middleware.requests.values == {}


async def test_both_expositions_are_valid_and_exemplars_lead_to_traces(serving: Any) -> None:
    async with serving(shop()) as served, aiohttp.ClientSession() as http:
        await get(f"{served.url}/users/7", traceparent=f"00-{TRACE}-{SPAN}-01")
        pages = {}
        for accept in ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "text/plain"):
            async with http.get(f"{served.url}/metrics", headers={"accept": accept}) as reply:
                pages[reply.content_type] = await reply.text()
    modern = {family.name: family for family in openmetrics(pages["application/openmetrics-text"])}
    old = {family.name: family for family in classic(pages["text/plain"])}
    assert {"http_requests", "http_request_duration_seconds", "http_requests_active"} <= set(modern)
    labels = {"method": "GET", "path": "/users/{user_id}"}
    assert modern["http_requests"].samples[0].labels == {**labels, "status": "200"}
    assert old["http_requests"].samples[0].value == 1
    exemplars = [s.exemplar for s in modern["http_request_duration_seconds"].samples if s.exemplar]
    assert [exemplar.labels for exemplar in exemplars] == [{"trace_id": TRACE}]
    bounds = [s.labels["le"] for s in old["http_request_duration_seconds"].samples if s.name.endswith("_bucket")]
    assert bounds == [*map(str, DEFAULT_BUCKETS), "+Inf"]


def test_prometheus_client_joins_without_doubles() -> None:
    import prometheus_client

    registry = Registry()
    registry.gauge("process_start_time_seconds", "Ours.").set(1)
    theirs = prometheus_client.Counter("orders_placed", "Orders.")
    theirs.inc(3)
    try:
        for modern, parse in ((True, openmetrics), (False, classic)):
            page = registry.render(modern)
            names = [family.name for family in parse(page)]
            assert "orders_placed" in names and len(names) == len(set(names)), names
            assert page.count("TYPE process_start_time_seconds") == 1
    finally:
        prometheus_client.REGISTRY.unregister(theirs)


def test_a_metric_has_so_many_series_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sampan.telemetry")
    registry = Registry()
    counter = registry.counter("calls_total", "Calls.", ("who", "what"))
    gauge, histogram = registry.gauge("depth", "", ("who",)), registry.histogram("wait_seconds", "", ("who",))
    for number in range(MAX_SERIES + 50):
        counter.add(str(number), "x")
        gauge.set(1, str(number))
        histogram.observe(0.1, str(number))
    assert len(counter.values) == MAX_SERIES + 1 and counter.value("(other)", "(other)") == 50
    assert len(gauge.values) == len(histogram.series) == MAX_SERIES + 1 and histogram.count("(other)") == 50
    refused = registry.counter("telemetry_series_refused_total", "", ("metric",))
    assert {key[0]: value for key, value in refused.values.items()} == dict.fromkeys(
        ("calls_total", "depth", "wait_seconds"), 50
    )
    assert len(said(caplog)) == 3
    with pytest.raises(ValueError, match="who"):
        counter.add("one label only")


async def test_headers_of_the_application_win(serving: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError
        headers = [(b"content-length", b"0"), (b"Cache-Control", b"public")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    async with serving(app) as served, aiohttp.ClientSession() as http:
        served.middleware.response_headers = ((b"cache-control", b"no-store"), (b"x-frame-options", b"DENY"))
        async with http.get(served.url) as reply:
            assert reply.headers.getall("cache-control") == ["public"] and reply.headers["x-frame-options"] == "DENY"


def starlette() -> Starlette:
    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("raw")(scope, receive, send)

    inner = Starlette(routes=[Route("/items/{item}", hello)])
    return Starlette(routes=[Route("/hello/{name}", hello), Mount("/t/{tenant}", inner), Mount("/raw", raw)])


def fastapi() -> FastAPI:
    app, router, sub = FastAPI(), APIRouter(), FastAPI()

    @router.get("/{item}")
    async def item(item: str) -> str:
        return item

    sub.include_router(router, prefix="/things")
    app.include_router(router, prefix="/items")
    app.mount("/sub", sub)
    app.mount("/files", StaticFiles(directory=Path(__file__).parent))
    return app


def litestar() -> Any:
    from litestar import Litestar, Router, asgi, websocket
    from litestar import get as route

    @route("/{item:int}", sync_to_thread=False)
    def item() -> str:
        return "x"

    @websocket("/rooms/{room:str}")
    async def room(socket: LitestarSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.close()

    @asgi("/raw", is_mount=True, copy_scope=True)
    async def raw(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("raw")(scope, receive, send)

    return Litestar([Router("/items", route_handlers=[item]), room, raw])


def django() -> Any:
    import django as framework
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import include, path, re_path

    async def view(request: Any, **_: Any) -> HttpResponse:
        return HttpResponse("ok")

    inner = [path("<int:pk>/", view)]
    urls = type(
        "urls", (), {"urlpatterns": [path("items/", include((inner, "i"))), re_path(r"^old/(?P<n>\d+)$", view)]}
    )
    if not settings.configured:
        settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="test", LOGGING_CONFIG=None)
        framework.setup()
    return get_asgi_application()


@pytest.mark.parametrize(
    ("make", "routes"),
    [
        (
            starlette,
            {"/hello/a": "/hello/{name}", "/t/acme/items/1": "/t/{tenant}/items/{item}", "/raw/x/y": "/raw/{path}"},
        ),
        (
            fastapi,
            {
                "/items/1": "/items/{item}",
                "/sub/things/1": "/sub/things/{item}",
                "/files/conftest.py": "/files/{path}",
                "/no": "(unmatched)",
            },
        ),
        (litestar, {"/items/1": "/items/{item}", "/items/x": "(unmatched)", "/raw/x/y": "/raw/{path}"}),
        (django, {"/items/7/": "/items/<int:pk>/", "/old/3": r"/old/(?P<n>\d+)", "/no": "(unmatched)"}),
    ],
)
async def test_paths_are_templates(serving: Any, make: Any, routes: dict[str, str]) -> None:
    async with serving(make()) as served:
        for number, path in enumerate((*routes, *routes), 1):
            await get(served.url + path)
            await until(lambda number=number: sum(served.middleware.requests.values.values()) == number)  # type: ignore[misc]
        served.middleware.flush()
        assert [span.route for span in served.middleware.spans] == [*routes.values()] * 2


@pytest.mark.parametrize("make", [fastapi, starlette, litestar, django])
async def test_what_bears_no_route_fills_no_series(serving: Any, make: Any) -> None:
    """Preflights, redirects, refused methods and sockets: whoever sends them chooses the path."""
    async with serving(make()) as served, aiohttp.ClientSession() as http:
        for number in range(3):
            for method, path in (
                ("OPTIONS", f"/zz{number}"),
                ("POST", f"/items/{number}"),
                ("GET", f"/items/{number}/"),
            ):
                async with http.request(method, served.url + path, allow_redirects=False):
                    pass
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                await http.ws_connect(f"{served.url}/zz{number}")
        await until(lambda: sum(served.middleware.requests.values.values()) == 9)
        paths = {path for _, path, _ in served.middleware.requests.values} | {
            p for p, _ in served.middleware.sockets.values
        }
    assert paths and all(path == "(unmatched)" or path.startswith("/items/{") or "<" in path for path in paths), paths


async def test_litestar_knows_a_websocket(serving: Any) -> None:
    async with serving(litestar()) as served, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{served.url}/rooms/7") as socket:
            await socket.receive()
        await until(lambda: served.middleware.sockets.values)
    assert served.middleware.sockets.value("/rooms/{room}", "101") == 1


async def test_fastapi_does_not_make_every_span_twice(serving: Any) -> None:
    """Its own OpenTelemetry would, as soon as there is a provider, and there is ours."""
    from opentelemetry import trace

    from sampan.service.telemetry import bridge

    before, trace._TRACER_PROVIDER = trace._TRACER_PROVIDER, bridge.TracerProvider()
    try:
        async with serving(shop()) as served:
            await get(f"{served.url}/users/7")
    finally:
        trace._TRACER_PROVIDER = before
    assert [span.name for span in tracing.RECORDED] == ["SELECT users"]


async def test_the_request_id_is_the_callers_unless_it_is_nonsense(serving: Any) -> None:
    async with serving(shop()) as served, aiohttp.ClientSession() as http:
        for sent, kept in (("abc-1", True), ("x" * 200, False)):
            async with http.get(f"{served.url}/users/1", headers={"x-request-id": sent}) as reply:
                assert (reply.headers["x-request-id"] == sent) is kept


async def test_the_line_of_a_request(serving: Any) -> None:
    reader, writer = os.pipe()
    async with serving(shop(), descriptor=writer) as served:
        served.middleware.identity = (("service", "users"), ("pod", "users-1"))
        served.middleware.guards = (Who(),)
        await get(f"{served.url}/users/7?token=abc", **{"user-agent": 'q"\u00e9', "x-request-id": "r-1"})
        await until(lambda: served.middleware.requests.values)
        served.middleware.flush()
        line = json.loads(os.read(reader, 65536))
    os.close(reader)
    os.close(writer)
    (span,) = served.middleware.spans
    assert 0 < line["attributes"].pop("duration_ms") < 60_000 and line.pop("time").endswith("Z")
    assert line == {
        "severity": "INFO",
        "message": "GET /users/7 200",
        "attributes": {
            "http.request.method": "GET",
            "http.route": "/users/{user_id}",
            "http.response.status_code": 200,
            "url.path": "/users/7",
            "client.address": "127.0.0.1",
            "user_agent.original": span.agent,
            "request_id": "r-1",
            "enduser.id": "ada",
        },
        "trace_id": span.context.trace_id,
        "span_id": span.context.span_id,
        "logger": "sampan.access",
        "service": "users",
        "pod": "users-1",
    }


async def test_a_busy_service_loses_no_span(serving: Any, collector: Collector, exporting: Exporting) -> None:
    """exported + counted drops = requests."""
    async with exporting(collector.url) as (exporter, registry), serving(shop()) as served:
        served.middleware.exporter = exporter
        async with aiohttp.ClientSession() as http:

            async def many() -> None:
                for _ in range(40):
                    async with http.get(f"{served.url}/users/7") as reply:
                        await reply.read()

            await asyncio.gather(*(many() for _ in range(20)))
        exporter.before_stop.append(served.middleware.flush)
        await exporter.stop()
        sent = registry.counter("telemetry_exported_total", "").value("traces")
        dropped = sum(registry.counter("telemetry_dropped_total", "", ("signal", "reason")).values.values())
    assert sent + dropped == 1600 and len(collector.spans) == sent  # a server span and a client span each
    assert otlp.scope("sampan", "1")


def test_the_context_of_a_message_keeps_what_came() -> None:
    context = from_headers({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1", "baggage": "b=2"})
    assert (context.trace_id, context.parent_id, context.tracestate, context.baggage) == (TRACE, SPAN, "a=1", "b=2")
