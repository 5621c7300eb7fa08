"""The middleware and the endpoints, over a real server."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import aiohttp
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse

from sampan.service.http.endpoints import Check, answered_by
from sampan.service.http.reply import CallError, DeadlineExceeded
from sampan.service.telemetry.context import CURRENT


def shop() -> FastAPI:
    app, router = FastAPI(), APIRouter(prefix="/items")

    @app.get("/users/{user_id}")
    async def user(user_id: int) -> dict[str, Any]:
        context = CURRENT.get()
        assert context is not None
        return {"id": user_id, "trace": context.trace_id, "left": context.remaining(), "baggage": context.baggage}

    @router.get("/{item_id}/parts/{part}")
    async def part(item_id: str, part: str) -> str:
        return part

    @app.get("/slow")
    async def slow(seconds: float = 0.3) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @app.get("/boom")
    async def boom() -> None:
        raise TimeoutError("inside")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            for _ in range(3):
                yield b"x" * 10
                await asyncio.sleep(0.01)

        return StreamingResponse(chunks())

    @app.get("/needs")
    async def needs(kind: str) -> None:
        raise {"call": CallError("users", "gone"), "late": DeadlineExceeded("users", "late"), "bug": KeyError()}[kind]

    @app.get("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def chunks() -> Any:
            for part in (b"a", b"b", b"c"):
                yield part

        return StreamingResponse(chunks(), 500)

    app.include_router(router)
    return app


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Raw ASGI, with a header list that it uses again and again."""
    if scope["type"] == "lifespan":
        raise RuntimeError("not supported")
    if scope["path"] == "/silent":
        raise ValueError("before any answer")
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"ok"})


HEADERS = [(b"content-length", b"2")]


async def test_routes_are_labels_and_context_is_there(serving: Any) -> None:
    async with serving(shop()) as served, aiohttp.ClientSession(served.url) as http:
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "baggage": "a=1", "x-request-timeout-ms": "5000"}
        async with http.get("/users/7", headers=headers) as reply:
            body = await reply.json()
            assert reply.headers["x-request-id"] == trace
        assert (body["id"], body["trace"], body["baggage"]) == (7, trace, "a=1") and 4 < body["left"] <= 5
        async with http.get("/users/7", headers={"x-b3-traceid": trace, "x-b3-spanid": "b7ad6b7169203331"}) as reply:
            assert (await reply.json())["trace"] == trace
        for path in ("/users/8", "/items/a/parts/b", "/users/x", "/nowhere", "/stream"):
            async with http.get(path) as reply:
                await reply.read()
        await asyncio.sleep(0.01)
        values = served.middleware.requests.values
        assert values[("GET", "/users/{user_id}", "200")] == 3
        assert values[("GET", "/users/{user_id}", "422")] == 1
        assert values[("GET", "/items/{item_id}/parts/{part}", "200")] == 1
        assert values[("GET", "(unmatched)", "404")] == 1
        assert values[("GET", "/stream", "200")] == 1
        assert served.middleware.durations.count("GET", "/users/{user_id}") == 4


async def test_the_deadline_ends_the_work_and_an_error_is_logged_once(serving: Any) -> None:
    async with serving(shop()) as served, aiohttp.ClientSession(served.url) as http:
        async with http.get("/slow", headers={"x-request-timeout-ms": "40"}) as reply:
            assert (reply.status, await reply.json()) == (504, {"error": "deadline exceeded"})
        async with http.get("/boom", headers={"x-request-timeout-ms": "5000"}) as reply:
            assert reply.status == 500
        served.middleware.flush()
        assert [span.error for span in served.middleware.spans] == ["TimeoutError", "TimeoutError"]
        assert [span.status for span in served.middleware.spans] == [504, 500]


async def test_a_deadline_that_strikes_early_is_still_a_deadline(serving: Any) -> None:
    """uvloop's timers count whole milliseconds, and so may go off before their time."""
    async with serving(shop()) as served, aiohttp.ClientSession(served.url) as http:
        for number in range(40):
            async with http.get("/slow", headers={"x-request-timeout-ms": str(5 + number % 5)}) as reply:
                assert (reply.status, await reply.json()) == (504, {"error": "deadline exceeded"})


async def test_a_dependency_that_is_away_is_not_an_internal_error(serving: Any) -> None:
    async with serving(shop()) as served, aiohttp.ClientSession(served.url) as http:
        answers = {}
        for kind in ("call", "late", "bug"):
            async with http.get(f"/needs?kind={kind}") as reply:
                answers[kind] = (reply.status, reply.headers.get("retry-after"), await reply.text())
        assert answers["call"][:2] == (503, "1") and "not available" in answers["call"][2]
        assert answers["late"] == (504, None, '{"error":"deadline exceeded"}')
        assert answers["bug"] == (500, None, "Internal Server Error")
        async with http.get("/broken-stream") as reply:
            assert (reply.status, await reply.read()) == (500, b"abc")
        assert served.middleware.requests.value("GET", "/needs", "503") == 1


async def test_a_plain_application(serving: Any) -> None:
    async with serving(plain) as served, aiohttp.ClientSession(served.url) as http:
        for number in range(3):
            async with http.get(f"/things/{number}/of/5f2b1c3e-aaaa-bbbb-cccc-1234567890ab") as reply:
                assert await reply.read() == b"ok"
        assert HEADERS == [(b"content-length", b"2")]
        async with http.get("/silent") as reply:
            assert (reply.status, await reply.json()) == (500, {"error": "internal server error"})
        assert served.middleware.requests.value("GET", "/things/{id}/of/{id}", "200") == 3
        for number in range(300):
            async with http.get(f"/p{number:c<3}") as reply:
                await reply.read()
        assert len(served.middleware.requests.values) < 210  # the guard against labels without end
        assert served.middleware.requests.value("GET", "(other)", "200") > 50


async def test_health_ready_metrics(serving: Any) -> None:
    broken = False

    async def probe() -> None:
        if broken:
            raise ConnectionError("refused\nsecond line")

    async def stuck() -> None:
        raise OSError("soft")

    checks = (Check("database users", probe, lambda: True), Check("cache", stuck, lambda: False))
    async with serving(shop(), checks) as served, aiohttp.ClientSession(served.url) as http:
        async with http.get("/health") as reply:
            assert reply.status == 200
        async with http.get("/ready") as reply:
            assert reply.status == 200
            assert await reply.json() == {
                "status": "degraded",
                "checks": {"database users": "ok", "cache": "OSError: soft"},
            }
        broken = True
        await asyncio.sleep(0.3)
        async with http.get("/ready") as reply:
            assert reply.status == 503
            assert (await reply.json())["checks"]["database users"] == "ConnectionError: refused"
        async with http.get("/metrics") as reply:
            assert "http_requests_active 0" in await reply.text()
        async with http.head("/health") as reply:
            assert (reply.status, await reply.read()) == (200, b"")
        assert served.middleware.requests.values == {}


async def test_a_stop_finishes_what_is_in_flight_and_asks_clients_to_close(serving: Any) -> None:
    async with serving(shop()) as served, aiohttp.ClientSession(served.url) as http:
        slow = asyncio.create_task(http.get("/slow?seconds=0.4"))
        await asyncio.sleep(0.1)
        served.middleware.draining = served.readiness.draining = True
        async with http.get("/ready") as reply:
            assert (reply.status, reply.headers["connection"]) == (503, "close")
        async with http.get("/users/1") as reply:
            assert (reply.status, reply.headers["connection"]) == (200, "close")
        await served.server.stop()
        async with await slow as reply:
            assert (reply.status, await reply.json()) == (200, "done")


async def test_access_log(serving: Any) -> None:
    reader, writer = os.pipe()
    async with (
        serving(shop(), descriptor=writer) as served,
        aiohttp.ClientSession(served.url) as http,
        http.get("/users/7?token=abc", headers={"user-agent": 'q"'}) as reply,
    ):
        await reply.read()
    line = json.loads(os.read(reader, 65536))
    os.close(reader)
    os.close(writer)
    assert line["message"] == "GET /users/7 200"
    assert line["attributes"]["http.route"] == "/users/{user_id}" and line["attributes"]["user_agent.original"] == 'q"'
    assert 0 < line["attributes"]["duration_ms"] < 1000


def test_paths_the_application_answers_itself() -> None:
    app = FastAPI()

    @app.get("/health")
    async def health() -> str:
        return "mine"

    @app.get("/{anything}")
    async def anything(anything: str) -> str:
        return anything

    assert [answered_by(app, path) for path in ("/health", "/ready", "/metrics")] == [True, False, False]
    assert not answered_by(plain, "/health")
