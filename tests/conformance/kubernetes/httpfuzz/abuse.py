"""Clients that break the rules of sockets, TLS and HTTP rather than of the API: each a coroutine that raises
AssertionError when the server does what it should not. All use connections of their own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct

from tests.conformance.kubernetes.httpfuzz.client import PATIENCE, Address, Answer, Broken, Peer, read_answer

POD = b"/api/v1/namespaces/fuzz/pods/a"
KEY = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
MALFORMED: tuple[bytes, ...] = (
    *(
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"\0" * 100,
    ),
    *(
        b"GET /version HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\xff" * 5000,
    ),
    *(b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"),
    b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n  folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 2_000_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}{}{}",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n{}{}{",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;"
    + b"e" * 900_000
    + b"\r\n{}\r\n0\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: "
    + b"t" * 900_000
    + b"\r\n\r\n",
)
UPGRADES: tuple[bytes, ...] = tuple(
    b"%b %b/%b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n%b\r\n" % (method, POD, path, rest)
    for path in (b"exec?command=sh&stdin=1&stdout=1", b"attach?stdout=1", b"portforward?ports=1&ports=99999999&ports=x")
    for method, rest in (
        (b"GET", b"Upgrade: websocket\r\n" + KEY + b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"),
        (b"GET", b"Upgrade: websocket\r\n" + KEY + b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"),
        (b"GET", b"Upgrade: websocket\r\n" + KEY + b"Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n"),
        (b"GET", b"Upgrade: websocket\r\n" + KEY),
        (b"GET", b"Upgrade: websocket\r\nSec-WebSocket-Key: \xff\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n"),
        (b"POST", b"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n"),
        (b"POST", b"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n"),
        (b"POST", b"Upgrade: SPDY/3.1\r\nContent-Length: 5\r\n"),
        (b"GET", b"Upgrade: h2c, \xff\r\n"),
    )
)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, not an end."""
    found = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):  # it may be closed already
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _authorized(raw: bytes, address: Address) -> bytes:
    """The request with the administrator's token, where that is how the target knows one."""
    head, end, rest = raw.partition(b"\r\n\r\n")
    rows = b"".join(b"\r\n%b: %b" % row for row in address.headers)
    return head + rows + end + rest if end and rows and b" HTTP/1.1\r\n" in head else raw


async def malformed(address: Address, raw: bytes) -> Answer | None:
    """What is no HTTP gets an answer or a closed connection, in time. The answer, None for a closed connection."""
    reader, writer = await address.open()
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(_authorized(raw, address))
            with contextlib.suppress(ConnectionError):
                await writer.drain()
                writer.write_eof() if writer.can_write_eof() else None
            answer = await read_answer(reader)
        assert answer.code < 500 or answer.code in {501, 503, 505}, (answer, raw[:200])
        return answer
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    except asyncio.LimitOverrunError as error:
        raise Broken(f"an answer without an end of its headers: {raw[:100]!r}") from error
    finally:
        _reset(writer)


async def cut(address: Address, raw: bytes, rng: random.Random) -> None:
    """A request of which only a part arrives, and then an end or a reset."""
    reader, writer = await address.open()
    writer.write(raw[: rng.randrange(len(raw) + 1)])
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.02)
    if rng.random() < 0.5:
        _reset(writer)
        return
    writer.close()  # TLS says goodbye, which is all a TLS client can do of half closing
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while await reader.read(1 << 16):
                pass
            await writer.wait_closed()


async def upgraded(address: Address, raw: bytes, rng: random.Random) -> int:
    """An upgrade, then anything but its protocol, then an end in the middle of it. The answer's code, 0 without one."""
    reader, writer = await address.open()
    code = 0
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(_authorized(raw, address) + (rng.randbytes(40) if rng.random() < 0.3 else b""))
            answer = await read_answer(reader)
            code = answer.code
            if code == 101:
                for _ in range(rng.randrange(4)):
                    writer.write(rng.choice(_FRAMES) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 3000)))
                    await writer.drain()
                    await asyncio.sleep(rng.random() * 0.05)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        _reset(writer) if rng.random() < 0.6 else writer.close()
    return code


def _masked(first: int, data: bytes) -> bytes:
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([first]) + length + b"\0\0\0\0" + data


_SYN = b"\x80\x03\x00\x01\x00"
_FRAMES = (
    *(_masked(0x82, b"\0echo hello\n"), _masked(0x82, b"\x04{")),
    _masked(0x82, b'\x04{"Width":-1,"Height":99999999}'),
    *(_masked(0x82, b"\xff\0"), _masked(0x82, b""), _masked(0x81, b"text"), _masked(0x89, b"ping"), _masked(0x88, b"")),
    *(_masked(0x82, b"\x09" * 5000), b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff", b"\x82\x05plain"),
    *(_masked(0x02, b"\0part"), _masked(0x80, b"rest"), _masked(0x82, b"\x01\x00"), _masked(0x88, b"\x03\xe8bye")),
    *(_SYN + b"\0\0\0", _SYN + b"\0\0\x0a" + b"\0" * 10, _SYN + b"\0\0\x10" + b"\0\0\0\1" + b"\xff" * 12),
    b"\x80\x03\x00\x06\0\0\0\0",
    *(_masked(0x82, _SYN + b"\0\0\0"), _masked(0x82, _SYN + b"\0\0\x10" + b"\xff" * 16)),
    *(b"\0\0\0\1\1\0\0\0", b"\0\0\0\1\0\xff\xff\xff"),
)  # fmt: skip


async def idle(address: Address, count: int, meanwhile: float = 0.5) -> None:
    """Hundreds of connections on which nothing happens keep nobody else from being answered."""
    held: list[asyncio.StreamWriter] = []
    try:
        while len(held) < count:
            held.append((await address.open())[1])
        await asyncio.sleep(meanwhile)
        peer = Peer(address)
        for _ in range(20):
            answer = await peer.ask(_get(address, b"/version"))
            assert answer.code == 200, answer
        peer.close()
    finally:
        for number, writer in enumerate(held):
            _reset(writer) if number % 2 else writer.close()


async def unread(address: Address, rounds: int) -> None:
    """Long answers asked for and never read, many in one go, then a reset."""
    for number in range(rounds):
        _, writer = await address.open()
        path = b"/openapi/v3/api/v1" if number % 2 else b"/api/v1/namespaces/fuzz/configmaps?watch=1"
        writer.write(_get(address, path) * 5)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        await asyncio.sleep(0.02)
        _reset(writer)


async def slow(address: Address) -> None:
    """A byte now and then is a request that does not arrive: refused in the time for headers, however it goes on."""
    reader, writer = await address.open()
    try:
        async with asyncio.timeout(10 + PATIENCE):
            answering = asyncio.ensure_future(read_answer(reader))
            answering.add_done_callback(lambda done: done.exception())
            for byte in b"GET /version HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000:
                if answering.done():
                    break
                with contextlib.suppress(ConnectionError):
                    writer.write(bytes([byte]))
                    await writer.drain()
                await asyncio.wait({answering}, timeout=0.1)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                assert (await answering).code == 408
    finally:
        _reset(writer)


async def not_tls(address: Address, rng: random.Random) -> None:
    """Plain HTTP, noise, and half a handshake at a port that speaks TLS: dropped."""
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        address.context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    start = hello.read()
    data = rng.choice(
        (b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(300), start[: len(start) // 2], start, b"", b"\x16\x03\x01")
    )
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        async with asyncio.timeout(10 + PATIENCE):
            writer.write(data)
            if rng.random() < 0.5:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                    while await reader.read(1 << 16):
                        pass
    except ConnectionError:
        pass
    finally:
        _reset(writer)


async def pipelined(address: Address) -> None:
    """Many requests in one go: those that are answered are answered in order, then the connection ends or goes on."""
    reader, writer = await address.open()
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(_get(address, b"/version") + _get(address, b"/healthz") * 30)
            answer = await read_answer(reader)
            assert answer.code == 200 and b"gitVersion" in answer.body, answer
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                assert (await read_answer(reader)).body == b"ok"
    finally:
        _reset(writer)


async def too_large(address: Address, size: int) -> int:
    """The code for a body of `size` bytes, sent to its end."""
    head = b"POST /api/v1/namespaces/fuzz/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    peer = Peer(address)
    try:
        return (await peer.ask(_authorized(head + b"Content-Length: %d\r\n\r\n" % size, address) + b" " * size)).code
    finally:
        peer.close()


def _get(address: Address, path: bytes) -> bytes:
    return _authorized(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path, address)


async def everything(address: Address, seed: int, *, connections: int = 200, rounds: int = 14) -> None:
    """All of the above at once."""
    rng = random.Random(seed)
    whole = (
        b"POST /api/v1/namespaces/fuzz/configmaps?dryRun=All HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n"
        + b" " * 30
    )
    tasks = [slow(address), slow(address), pipelined(address), unread(address, rounds), idle(address, connections)]
    tasks += [not_tls(address, random.Random(rng.random())) for _ in range(rounds)]

    async def in_turn(every: int) -> None:
        own = random.Random(rng.random())
        for number in range(every, rounds * 4, 4):
            raw = MALFORMED[number % len(MALFORMED)]
            await malformed(address, raw)
            await cut(address, _authorized(own.choice((whole, *MALFORMED[:4])), address), own)
            await upgraded(address, UPGRADES[number % len(UPGRADES)], own)

    async with asyncio.TaskGroup() as group:
        for task in (*tasks, *(in_turn(every) for every in range(4))):
            group.create_task(task)
