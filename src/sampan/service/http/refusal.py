"""What is answered in place of the application, and how it is sent, to a request and to a websocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Refusal(NamedTuple):
    """What a guard answers in place of the application: a JSON body and further headers."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def refuse(refusal: Refusal, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(refusal.body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": [*headers, *refusal.headers]})
    await send({"type": "http.response.body", "body": refusal.body})


async def refuse_socket(scope: Scope, refusal: Refusal, receive: Receive, send: Send) -> None:
    """The refusal as the answer to the handshake, where the server can send one; else the connection is closed."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "status": refusal.status})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(refusal.body)).encode())]
    start = {"status": refusal.status, "headers": [*headers, *refusal.headers]}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": refusal.body})
