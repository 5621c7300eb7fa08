"""A service with security in this process, on a free port; an issuer beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sampan.model import Application, Security, Service
from sampan.service import security
from sampan.service.http.limits import Limits
from sampan.service.http.middleware import Middleware
from sampan.service.http.server import Server
from sampan.service.lifecycle import Stage
from sampan.service.process import Process
from sampan.service.security.binding import provide, secure
from sampan.service.security.issuer import KeyFile, serve


class Secured:
    def __init__(self, process: Process, server: Server, guard: Any, session: aiohttp.ClientSession) -> None:
        self.process, self.server, self.guard, self.session = process, server, guard, session
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def ask(self, path: str = "/", token: str = "", method: str = "GET", **options: Any) -> tuple[int, Any, Any]:
        """Status, decoded body, headers."""
        headers = dict(options.pop("headers", {}))
        if token:
            headers["authorization"] = f"Bearer {token}"
        async with self.session.request(method, self.url + path, headers=headers, **options) as reply:
            body = await reply.read()
            try:
                return reply.status, json.loads(body), reply.headers
            except ValueError:
                return reply.status, body, reply.headers

    def decisions(self, authenticator: str, outcome: str) -> int:
        return int(self.guard.decisions.value(authenticator, outcome))


Securing = Callable[..., AbstractAsyncContextManager[Secured]]


@pytest.fixture
def unbound() -> Iterator[None]:
    """No process's security is left behind."""
    yield
    security.bind(None, None)


@pytest.fixture
def securing(unbound: None) -> Securing:
    """`async with securing(app, Security(...)) as secured`."""

    @contextlib.asynccontextmanager
    async def run(
        app: Any, declared: Security | None = None, limits: Limits | None = None, **more: Any
    ) -> AsyncIterator[Secured]:
        service = Service("orders", asgi="orders:app", security=declared)
        application = Application("shop", services=[service])
        process = Process(service)
        provide(process, [service])
        middleware = Middleware(app, process.registry, process.output, process.identity)
        made = secure(process, service, application, middleware)
        server = Server(made.app, "127.0.0.1", 0, limits=limits or made.limits, tls=made.tls, registry=process.registry)
        process.add(Stage.SERVERS, "http", server)
        await process.start()
        try:
            async with aiohttp.ClientSession() as session:
                yield Secured(process, server, made.guard, session)
        finally:
            await process.stop()

    return run


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the caller and the body it was sent."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": security.caller().subject if security.caller() else "nobody"})  # type: ignore[union-attr]
        await send({"type": "websocket.close"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    caller = security.caller()
    assert scope.get("sampan.caller") == caller
    answer = {
        "path": scope["path"],
        "client": scope["client"][0],
        "scheme": scope["scheme"],
        "body": body.decode("latin-1"),
        "subject": caller.subject if caller else None,
        "scopes": sorted(caller.scopes) if caller else [],
        "spiffe": caller.spiffe_id if caller else "",
    }
    data = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


class Dev:
    """A development issuer; `sign` makes any token of its."""

    def __init__(self, server: Any, keys: KeyFile) -> None:
        self.server, self.keys, self.url = server, keys, server.url

    def sign(self, subject: str = "ada", audience: str = "orders", scope: str = "", **claims: Any) -> str:
        return self.keys.sign(self.url, subject, [audience], scope, **claims)


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    keys = KeyFile(tmp_path / "issuer" / "keys.json")
    server = await serve("127.0.0.1", 0, keys)
    yield Dev(server, keys)
    await server.stop()
