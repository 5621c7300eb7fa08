"""Cross-origin calls by browsers (https://fetch.spec.whatwg.org/#http-cors-protocol).

A preflight is answered before anybody is asked who they are, for browsers send none of that with it. What an origin
may read is said on every answer, refusals included, or pages could not tell an expired token from a broken server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from sampan.model.security import Cors
from sampan.service.http.refusal import Refusal

_VARY: Final = (b"vary", b"Origin")
_METHOD: Final = b"access-control-request-method"


def preflight(cors: Cors, scope: Any, origin: bytes) -> Refusal | None:
    """The answer to a preflight, or None when the request is none. The origin is added by `CorsHeaders`."""
    asked = dict(scope["headers"])
    if _METHOD not in asked:
        return None
    headers = [(b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers")]
    if allowed(cors, origin) is not None:
        headers += [
            (b"access-control-allow-methods", ", ".join(cors.methods).encode()),
            (b"access-control-allow-headers", ", ".join(cors.headers).encode()),
            (b"access-control-max-age", str(cors.max_age).encode()),
        ]
    return Refusal(200, b"", tuple(headers))


def allowed(cors: Cors, origin: bytes) -> bytes | None:
    """What access-control-allow-origin says to `origin`; None when it may not."""
    if "*" in cors.origins:
        return b"*"
    return origin if origin.decode("latin-1") in cors.origins else None


class CorsHeaders:
    """Wraps all of a service, of those that declare CORS."""

    def __init__(self, app: Callable[..., Awaitable[None]], cors: Cors) -> None:
        self.app, self.cors = app, cors
        self.exposed = ", ".join(cors.exposed).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
        allow = allowed(self.cors, origin) if origin is not None else None
        added = [] if "*" in self.cors.origins else [_VARY]
        if allow is not None:
            added.append((b"access-control-allow-origin", allow))
            if self.cors.credentials:
                added.append((b"access-control-allow-credentials", b"true"))
            if self.exposed:
                added.append((b"access-control-expose-headers", self.exposed))

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                theirs = message.get("headers", ())
                kept = [pair for pair in theirs if not pair[0].lower().startswith(b"access-control-allow-origin")]
                message["headers"] = [*kept, *added]
            await send(message)

        await self.app(scope, receive, sending)
