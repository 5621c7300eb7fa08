"""/health, /ready and /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from sampan.service.http.middleware import Endpoint, Scope
from sampan.service.telemetry.metrics import CONTENT_TYPE, Registry

_JSON: Final = "application/json"
_CHECK_SECONDS: Final = 2.0
_KEEP_SECONDS: Final = 0.25


class Check:
    """One dependency. A failing `required` one makes the service not ready, another one only degraded."""

    def __init__(self, name: str, probe: Callable[[], Awaitable[None]], required: Callable[[], bool]) -> None:
        self.name, self.probe, self.required = name, probe, required


class Readiness:
    """Asks all dependencies at once; the answer is shared by probes that arrive within a quarter of a second."""

    def __init__(self, checks: Iterable[Check] = ()) -> None:
        self.checks = list(checks)
        self.started = False
        self.draining = False
        self._asking: asyncio.Task[dict[str, str]] | None = None
        self._asked = 0.0

    async def report(self) -> tuple[bool, dict[str, Any]]:
        if self.draining or not self.started:
            return False, {"status": "draining" if self.draining else "starting"}
        if self._asking is None or time.monotonic() - self._asked > _KEEP_SECONDS:
            self._asking, self._asked = asyncio.ensure_future(self._ask()), time.monotonic()
        results = await asyncio.shield(self._asking)
        failed = [check for check in self.checks if results[check.name] != "ok"]
        ready = not any(check.required() for check in failed)
        return ready, {"status": ("degraded" if failed else "ok") if ready else "not ready", "checks": results}

    async def _ask(self) -> dict[str, str]:
        async def one(check: Check) -> str:
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await check.probe()
            except TimeoutError:
                return f"no answer within {_CHECK_SECONDS:g} s"
            except Exception as error:
                return f"{type(error).__name__}: {error}".splitlines()[0][:200]
            return "ok"

        answers = await asyncio.gather(*(one(check) for check in self.checks))
        return {check.name: answer for check, answer in zip(self.checks, answers, strict=True)}


def endpoints(
    readiness: Readiness, registry: Registry, before_metrics: Callable[[], None], clean: Callable[[bytes], bytes]
) -> dict[str, Endpoint]:
    async def health(_: Scope) -> tuple[int, str, bytes]:
        return 200, _JSON, b'{"status":"ok"}'

    async def ready(_: Scope) -> tuple[int, str, bytes]:
        good, body = await readiness.report()
        return 200 if good else 503, _JSON, clean(msgspec.json.encode(body))

    async def metrics(_: Scope) -> tuple[int, str, bytes]:
        before_metrics()
        return 200, CONTENT_TYPE, registry.render().encode()

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
