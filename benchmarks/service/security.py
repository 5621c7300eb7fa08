"""What security costs a request: the guard with a token it knows, and the strict server beside uvicorn's own.

The peer of the guard is what a dependency of FastAPI usually does: verify the token at every request. Both are run in
this process, without HTTP around them. The servers are one process each, on one core.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import Row, compare, program, row
from benchmarks.service.harness import AREA, load, server

CALLS = 5_000

RAW = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"27")]})
    await send({"type": "http.response.body", "body": b'{"id":42,"name":"ada","a":1}'[:27]})
"""
OURS = """
import asyncio, sys
from raw import app
from sampan.service.http.server import Server
async def main():
    server = Server(app, "127.0.0.1", int(sys.argv[1]))
    await server.start()
    await server.ended()
import uvloop
asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
"""
UVICORN = """
import sys, uvicorn
uvicorn.run("raw:app", host="127.0.0.1", port=int(sys.argv[1]), http="httptools", access_log=False, log_level="error")
"""


def run() -> Iterable[Row]:
    yield asyncio.run(guard())
    yield from servers()


async def guard() -> Row:
    from joserfc import jwt

    from sampan.model import Oidc, Security
    from sampan.service.security.guard import SecurityGuard
    from sampan.service.security.issuer import KeyFile, serve
    from sampan.service.security.oidc import OidcAuthenticator
    from sampan.service.telemetry.context import from_headers
    from sampan.service.telemetry.metrics import Registry

    with tempfile.TemporaryDirectory() as made:
        keys = KeyFile(Path(made) / "keys.json")
        issuer = await serve("127.0.0.1", 0, keys)
        token = keys.sign(issuer.url, "ada", ["orders"], "orders:write")
        declared = Security(authenticate=[Oidc(issuer.url, "orders")], scopes={"POST /orders": "orders:write"})
        one = OidcAuthenticator(declared.authenticate[0], issuer.url, lambda: None)  # type: ignore[arg-type]
        judge = SecurityGuard(declared, [one], Registry())
        context = from_headers({})
        headers = [(b"host", b"x"), (b"user-agent", b"b"), (b"accept", b"*/*"), (b"traceparent", b"0" * 55)]
        headers.append((b"authorization", f"Bearer {token}".encode()))

        def scope() -> Any:
            return {"type": "http", "method": "POST", "path": "/orders", "raw_path": b"/orders", "headers": headers}

        first = judge.enter(scope(), context)
        assert first is not None
        assert await first is None  # type: ignore[misc]
        requests = [scope() for _ in range(CALLS)]
        key = keys.keys[0]

        def ours() -> float:
            begun = time.perf_counter()
            for request in requests:
                assert judge.enter(request, context) is None
            return (time.perf_counter() - begun) / CALLS * 1e6

        def theirs() -> float:
            registry = jwt.JWTClaimsRegistry(
                iss={"essential": True, "value": issuer.url}, aud={"essential": True, "value": "orders"}
            )
            begun = time.perf_counter()
            for _ in range(CALLS // 20):
                registry.validate(jwt.decode(token, key, algorithms=["ES256"]).claims)
            return (time.perf_counter() - begun) / (CALLS // 20) * 1e6

        mine, peer = compare(ours, theirs, 7)
        await one.stop()
        await issuer.stop()
    return row(AREA, "a token that is known", mine, "us", peer="verified at every request", peer_value=peer)


def servers() -> Iterable[Row]:
    """CPU of a server for one request."""
    wrk = program("wrk", "apt-get install wrk")

    def cost(of: tuple[int, int]) -> float:
        before = processor(of[1])
        rate = load(wrk, of[0], seconds=1)
        return (processor(of[1]) - before) / rate * 1e6

    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "raw.py").write_text(RAW)
        with server(Path(made), OURS) as ours, server(Path(made), UVICORN) as peer:
            mine, theirs = compare(lambda: cost(ours), lambda: cost(peer), 5)
    yield row(AREA, "raw ASGI, strict server", mine, "us of CPU", peer="uvicorn", peer_value=theirs)


def processor(pid: int) -> float:
    """Seconds of CPU a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for each in run():
        sys.stdout.write(f"{each}\n")
