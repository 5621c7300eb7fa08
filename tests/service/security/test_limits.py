"""Sizes and slowness: what asks too much is refused, and does not keep others from being served."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from typing import Any

import fastapi
import litestar
import pytest

from sampan.model import Security
from sampan.service.http.limits import Limits
from tests.service.security.conftest import Securing, whoami
from tests.service.security.raw import exchange, statuses

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * 90_000, 414),
        (GET + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (GET + b"X: " + b"y" * 80_000, 431),
        (GET + b"".join(b"X-%d: y\r\n" % n for n in range(101)) + b"\r\n", 431),
        (GET + b"".join(b"X-%d: y\r\n" % n for n in range(98)) + b"\r\n", 200),
        (GET + b"X: " + b"y" * 30_000 + b"\r\n\r\n", 200),
    ],
)
async def test_head_sizes(securing: Securing, request_: bytes, status: int) -> None:
    pieces = [request_[i : i + 4000] for i in range(0, len(request_), 4000)]
    async with securing(whoami) as service:
        for chunks in ([request_], pieces):
            answer = await exchange(service.port, *chunks)
            assert statuses(answer) == [status]
            assert answer.endswith(b"<closed>") == (status != 200)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await whoami(scope, receive, send)


def of_fastapi() -> Any:
    app = fastapi.FastAPI()

    @app.post("/a")
    async def body(request: fastapi.Request) -> int:
        return len(await request.body())

    @app.post("/json")
    async def parsed(item: dict[str, Any]) -> int:
        return len(item)

    return app


def of_litestar() -> Any:
    @litestar.post("/a", status_code=200)
    async def body(request: litestar.Request[Any, Any, Any]) -> int:
        return len(await request.body())

    return litestar.Litestar([body])


@pytest.mark.parametrize("make", [lambda: plain, of_fastapi, of_litestar])
async def test_large_bodies_are_413_in_every_framework(securing: Securing, make: Any) -> None:
    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b"x" * 10_000

    async with securing(make(), Security(body_limit=50_000)) as service:
        for body, status in (
            (b"x" * 50_000, 200),
            (b"x" * 50_001, 413),
            (b"x" * 900_000, 413),
            (chunks(5), 200),
            (chunks(6), 413),
            (chunks(60), 413),
        ):
            got, answer, _ = await service.ask("/a", method="POST", data=body)
            assert got == status, (body, answer)
        if make is of_fastapi:
            assert (await service.ask("/json", method="POST", data=b'{"a": "%b"}' % (b"x" * 60_000)))[0] == 413
        assert (await service.ask("/a", method="POST", data=b"x"))[0] == 200


async def test_a_body_above_the_limit_is_never_kept(securing: Securing) -> None:
    """Not by an application that does not read it, either; and what is sent on and on ends with the connection."""
    held = 0

    async def lazy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await whoami(scope, receive, send)
            return
        nonlocal held
        for _ in range(20):
            await asyncio.sleep(0.01)
            held = max(held, *(len(c.cycle.body) for c in service.server.server_state.connections if c.cycle))  # type: ignore[union-attr]
        await whoami(scope, receive, send)

    async with securing(lazy, Security(body_limit=100_000)) as service:
        head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000)
        answer = await exchange(service.port, head, *[chunk] * 60)
        assert answer.endswith(b"<closed>")
        assert held <= 100_000


async def test_an_upload_is_not_asked_for_when_it_is_too_large(securing: Securing) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    async with securing(whoami, Security(body_limit=10)) as service:
        assert statuses(await exchange(service.port, head % 11)) == [413]
        assert (await exchange(service.port, head % 2)).startswith(b"HTTP/1.1 100 Continue")


QUICK = Limits(head_seconds=1, body_seconds=1, body_rate=1_000_000, stalled_seconds=1)


async def test_500_slow_clients_do_not_stop_others(securing: Securing) -> None:
    async with securing(whoami, limits=QUICK) as service:
        slow = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", service.port) for _ in range(500)))
        for number, (_, writer) in enumerate(slow):
            head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx"
            writer.write(GET + b"X: y\r\n" if number % 2 else head)
        served, longest = 0, 0.0

        async def ended(reader: asyncio.StreamReader) -> bytes:
            return await reader.read()

        waiting = asyncio.gather(*(ended(reader) for reader, _ in slow))
        while not waiting.done():
            begun = time.perf_counter()
            status, _, _ = await service.ask("/a")
            longest = max(longest, time.perf_counter() - begun)
            assert status == 200
            served += 1
            await asyncio.sleep(0.01)
        answers = await waiting
        assert {tuple(statuses(answer)) for answer in answers} == {(408,)}
        assert served > 5
        for _, writer in slow:
            writer.close()


async def test_a_body_that_comes_steadily_is_waited_for(securing: Securing) -> None:
    limits = Limits(body_seconds=1, body_rate=10)
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 80\r\n\r\n"
    async with securing(whoami, limits=limits) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head)
        for _ in range(8):
            writer.write(b"x" * 10)
            await asyncio.sleep(0.35)
        assert statuses(await reader.read(1000)) == [200]
        writer.close()


async def test_one_who_does_not_read_the_answer_is_let_go(securing: Securing) -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await whoami(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await send({"type": "http.response.body"})

    async with securing(large, limits=QUICK) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1)
        writer.write(GET + b"\r\n")
        for _ in range(400):
            await asyncio.sleep(0.05)
            if not service.server.server_state.connections:
                break
        assert not service.server.server_state.connections
        assert service.process.registry.metrics["http_refused_total"].value("stalled") == 1  # type: ignore[union-attr]
        writer.close()


@pytest.mark.parametrize(
    ("allowed", "forwarded", "client", "scheme"),
    [
        ("", "198.51.100.7", "198.51.100.7", "https"),
        ("", "203.0.113.9, 198.51.100.7, 10.1.1.1", "198.51.100.7", "https"),  # what stands left is the client's own
        ("", "garbage", "127.0.0.1", "https"),
        ("", "[2001:db8::7]:4711", "2001:db8::7", "https"),
        ("192.0.2.1", "198.51.100.7", "127.0.0.1", "http"),
        ("127.0.0.0/8", "198.51.100.7:80", "198.51.100.7", "https"),
        ("*", "203.0.113.9, 198.51.100.7", "203.0.113.9", "https"),
    ],
)
async def test_forwarded_headers_count_from_proxies_alone(
    securing: Securing,
    monkeypatch: pytest.MonkeyPatch,
    allowed: str,
    forwarded: str,
    client: str,
    scheme: str,
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", allowed)
    async with securing(whoami) as service:
        headers = {"x-forwarded-for": forwarded, "x-forwarded-proto": "https"}
        _, answer, _ = await service.ask("/", headers=headers)
        assert (answer["client"], answer["scheme"]) == (client, scheme)


async def test_the_host_may_be_limited(securing: Securing) -> None:
    async with securing(whoami, Security(hosts=["shop.example.com", "*.api.example.com"])) as service:
        for host, status in {
            "shop.example.com": 200,
            "SHOP.example.com:8080": 200,
            "v1.api.example.com": 200,
            "api.example.com": 421,
            "evil.com": 421,
            "shop.example.com.evil.com": 421,
            "shop.example.com@evil.com": 421,
        }.items():
            assert (await service.ask("/", headers={"host": host}))[0] == status, host


async def test_a_body_that_was_not_asked_for_may_take_its_time(securing: Securing) -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(2.5)
        await whoami(scope, receive, send)

    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    async with securing(late, limits=QUICK) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"ab")
        assert statuses(await reader.read(1000)) == [200]
        writer.close()


async def test_requests_cut_anywhere_are_the_same_requests(securing: Securing) -> None:
    """A stream of pipelined requests, cut at random places, is answered alike and in order."""
    lots = random.Random(7)
    requests, wanted = [], []
    for number in range(12):
        body = bytes(lots.randrange(97, 123) for _ in range(lots.choice([0, 1, 50, 3000])))
        if lots.random() < 0.5:
            pieces = [body[i : i + 700] for i in range(0, len(body), 700)]
            data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            head = b"Transfer-Encoding: chunked\r\n\r\n"
        else:
            data, head = body, b"Content-Length: %d\r\n\r\n" % len(body)
        requests.append(b"POST /%d HTTP/1.1\r\nHost: x\r\n" % number + head + data)
        wanted.append((f"/{number}", body.decode()))
    stream = b"".join(requests)
    async with securing(whoami) as service:
        for _ in range(6):
            cuts = sorted(lots.sample(range(1, len(stream)), 15))
            chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
            answer = (await exchange(service.port, *chunks)).decode()
            got = [json.loads(text) for text in re.findall(r"^{.*?}(?=HTTP|$)", answer, re.MULTILINE)]
            assert [(one["path"], one["body"]) for one in got] == wanted
