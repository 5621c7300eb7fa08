"""What two servers in a chain may read differently is refused, and the connection with it (RFC 9112, 11.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.service.security.conftest import Securing, whoami
from tests.service.security.raw import exchange, statuses

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
TE = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED: dict[str, tuple[bytes, int]] = {
    "Content-Length, then Transfer-Encoding": (
        POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        400,
    ),
    "Transfer-Encoding, then Content-Length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + HIDDEN,
        400,
    ),
    "two lengths": (POST + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + HIDDEN, 400),
    "a length twice": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400),
    "a list of lengths": (POST + b"Content-Length: 0, 0\r\n\r\n" + HIDDEN, 400),
    "a length with a plus": (POST + b"Content-Length: +2\r\n\r\nab", 400),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n" + HIDDEN, 400),
    "a length in hex": (POST + b"Content-Length: 0x2\r\n\r\nab", 400),
    "a length with a space": (POST + b"Content-Length: 2 2\r\n\r\nab", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\n" + HIDDEN, 400),
    "a length of 2^70": (POST + b"Content-Length: 1180591620717411303424\r\n\r\n" + HIDDEN, 400),
    "space before the colon": (POST + b"Content-Length : 2\r\n\r\nab", 400),
    "a coding that is none": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n" + HIDDEN, 501),
    "chunked not last": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "chunked after another": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "two codings": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a byte above ASCII": (POST + b"Transfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n", 501),
    "chunked in HTTP/1.0": (
        b"POST /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        400,
    ),
    "bare line feeds": (b"GET /a HTTP/1.1\nHost: x\n\n", 400),
    "a bare line feed in headers": (b"GET /a HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
    "a bare carriage return": (b"GET /a HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", 400),
    "a folded line": (b"GET /a HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", 400),
    "a folded coding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "a space before the first header": (b"GET /a HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "a chunk extension with a line feed": (TE + b"2;a\nb\r\nab\r\n0\r\n\r\n", 400),
    "chunks with line feeds": (TE + b"2\nab\n0\n\n", 400),
    "a chunk size with 0x": (TE + b"0x2\r\nab\r\n0\r\n\r\n", 400),
    "a negative chunk": (TE + b"-2\r\nab\r\n0\r\n\r\n", 400),
    "a chunk size with a space": (TE + b"2 \r\nab\r\n0\r\n\r\n", 400),
    "a chunk of 2^64 and 2": (TE + b"10000000000000002\r\nab\r\n0\r\n\r\n", 400),
    "a chunk without its end": (TE + b"2\r\nabXX0\r\n\r\n", 400),
    "NUL in a value": (b"GET /a HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400),
    "NUL in a name": (b"GET /a HTTP/1.1\r\nHost: x\r\nX\0: ab\r\n\r\n", 400),
    "no Host": (b"GET /a HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "another host in the target": (b"GET http://evil/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "CONNECT": (b"CONNECT evil:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "bytes above ASCII in the target": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/1.2": (b"GET /a HTTP/1.2\r\nHost: x\r\n\r\n", 400),
    "HTTP/2.0 in clear": (b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /a\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "an upgrade with a body": (
        POST + b"Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 2\r\n\r\nab" + HIDDEN,
        400,
    ),
    "a method in lower case": (b"get /a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "an unknown method": (b"FOO /a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}


async def test_ambiguous_requests_are_refused(securing: Securing) -> None:
    wrong = []
    async with securing(whoami) as service:
        for name, (data, status) in REFUSED.items():
            for chunks in ([data], [data[:20], data[20:]], [data[i : i + 1] for i in range(len(data))]):
                answer = await exchange(service.port, *chunks)
                if statuses(answer) != [status] or not answer.endswith(b"<closed>") or b"hidden" in answer:
                    wrong.append((name, len(chunks), answer[:200]))
        assert not wrong
        refused = service.process.registry.metrics["http_refused_total"]
        assert "http_refused_total{" in "\n".join(refused.lines())


async def test_what_is_well_formed_is_served(securing: Securing) -> None:
    async with securing(whoami) as service:
        whole = TE + b"2;name=value\r\nab\r\n0\r\n\r\n" + HIDDEN
        answer = await exchange(service.port, whole)
        assert statuses(answer) == [200, 200]
        assert b'"body": "ab"' in answer
        inside = POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN
        answer = await exchange(service.port, inside)
        assert statuses(answer) == [200], "a request inside a body is a body"
        absolute = b"GET http://x:80/a?b=1 HTTP/1.1\r\nHost: x:80\r\n\r\n"
        assert b'"path": "/a"' in await exchange(service.port, absolute)
        assert statuses(await exchange(service.port, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")) == [200]
        old = await exchange(service.port, b"GET /a HTTP/1.0\r\n\r\n")
        assert statuses(old) == [200]
        assert old.endswith(b"<closed>")


async def test_trailers_do_not_become_headers(securing: Securing) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with securing(app) as service:
        await exchange(service.port, TE + b"0\r\nAuthorization: Bearer x\r\nX-Admin: 1\r\n\r\n")
    assert [name for name, _ in seen] == [b"host", b"transfer-encoding"]


async def test_an_upgrade_nobody_makes_ends_the_connection(securing: Securing) -> None:
    h2c = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    async with securing(whoami) as service:
        answer = await exchange(service.port, h2c + HIDDEN)
        assert statuses(answer) == [200]
        assert answer.endswith(b"<closed>")


async def test_a_fault_behind_a_good_request_does_not_answer_it(securing: Securing) -> None:
    """The answer of the first must be its own: a proxy would hand a 400 to whoever asked first."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            begun.set()
            await go.wait()
        await whoami(scope, receive, send)

    async with securing(slow) as service:
        asking = asyncio.create_task(exchange(service.port, b"GET /first HTTP/1.1\r\nHost: x\r\n\r\nJUNK\r\n\r\n"))
        await begun.wait()
        await asyncio.sleep(0.05)
        go.set()
        answer = await asking
        assert statuses(answer) == [200]
        assert b'"path": "/first"' in answer
        assert answer.endswith(b"<closed>")


@pytest.mark.parametrize(
    "header",
    [
        (b"x-name", b"a\r\nset-cookie: admin=1"),
        (b"x-name", b"a\r\n\r\n<script>"),
        (b"x-name", b"a\nb"),
        (b"x-name", b"a\rb"),
        (b"x-name", b"a\0b"),
        (b"x-na me", b"a"),
        (b"x-name: a\r\nset-cookie", b"admin=1"),
        (b"", b"a"),
        (b"content-length", b"5, 5"),
        (b"transfer-encoding", b"chunked"),
    ],
)
async def test_injected_response_headers_are_an_error(securing: Securing, header: tuple[bytes, bytes]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5"), header]})
        await send({"type": "http.response.body", "body": b"hello"})

    async with securing(app) as service:
        answer = await exchange(service.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert statuses(answer) == [500]
        assert b"admin" not in answer
        assert b"hello" not in answer
        assert b'{"error":"internal server error"}' in answer
        served: Any = service.process.registry.metrics["http_requests_total"]
        assert served.value("GET", "/", "500") == 1


async def test_the_head_and_body_of_an_answer_are_as_the_application_said(securing: Securing) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        kind = scope["path"]
        headers = [(b"content-length", b"6")] if kind != "/chunked" else []
        await send({"type": "http.response.start", "status": 304 if kind == "/304" else 200, "headers": headers})
        if kind != "/304":
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})
            await send({"type": "http.response.body", "body": b"def" if kind != "/short" else b"d"})
        else:
            await send({"type": "http.response.body"})

    async with securing(app) as service:
        assert (await exchange(service.port, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"\r\n\r\nabcdef")
        chunked = await exchange(service.port, b"GET /chunked HTTP/1.1\r\nHost: x\r\n\r\n")
        assert chunked.endswith(b"\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
        assert (await exchange(service.port, b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"\r\n\r\n")
        short = await exchange(service.port, b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
        assert short.endswith(b"abcd<closed>") or short.endswith(b"abc<closed>")
