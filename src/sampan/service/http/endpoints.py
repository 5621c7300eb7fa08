"""/health, /ready and /metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from sampan.service.http.middleware import Endpoint
from sampan.service.http.readiness import Check, Degraded, Readiness
from sampan.service.http.refusal import Scope
from sampan.service.telemetry.metrics import CONTENT_TYPE, OPENMETRICS_TYPE, Registry, accepted

__all__ = ["Check", "Degraded", "Readiness", "answered_by", "endpoints", "nothing"]

_JSON: Final = "application/json"


def endpoints(
    readiness: Readiness, registry: Registry, before_metrics: Callable[[], None], clean: Callable[[bytes], bytes]
) -> dict[str, Endpoint]:
    async def health(_: Scope) -> tuple[int, str, bytes]:
        return 200, _JSON, b'{"status":"ok"}'

    async def ready(scope: Scope) -> tuple[int, str, bytes]:
        verbose = b"verbose" in parse_qs(scope.get("query_string", b""), keep_blank_values=True)
        good, body = await readiness.report(verbose)
        return 200 if good else 503, _JSON, clean(msgspec.json.encode(body))

    async def metrics(scope: Scope) -> tuple[int, str, bytes]:
        before_metrics()
        modern = any(name == b"accept" and accepted(value.decode("latin-1")) for name, value in scope["headers"])
        return 200, OPENMETRICS_TYPE if modern else CONTENT_TYPE, registry.render(modern).encode()

    return {"/health": health, "/ready": ready, "/metrics": metrics}


def answered_by(app: Any, path: str) -> bool:
    """Whether the user's application (Starlette and its descendants) has a route for GET `path` itself."""
    routes = getattr(app, "routes", None) or ()
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [], "path_params": {}}
    for route in routes:
        if type(route).__name__ == "Mount":
            continue
        try:
            match, _ = route.matches(dict(scope))
        except Exception:  # a route of another kind cannot be asked; ours answers then
            continue
        if getattr(match, "name", "") == "FULL" and "{" not in getattr(route, "path", ""):
            return True
    return False


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """The application of a worker: 404 for everything that is not ours."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", _JSON.encode())]})
        await send({"type": "http.response.body", "body": b'{"error":"not found"}'})
    else:
        await send({"type": "websocket.close", "code": 1000})
