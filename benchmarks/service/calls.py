"""A call to another service beside plain aiohttp: CPU of the caller, by getrusage, for the same request and reply.

Ours has everything on: span, metrics, deadline, policy, breaker, bulkhead, budget, and a trace to pass on. Both speak
to the same server process, on the same event loop, in turns. A ratio above 1 means less CPU than plain aiohttp.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from benchmarks import Row, compare, row
from benchmarks.service.harness import AREA, server

CALLS = 640
ROUNDS = 19
CALLEE = """
import sys, uvicorn
BODY = b'{"id":42,"name":"Ada Lovelace","email":"ada@example.com"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error", lifespan="off")
"""

One = Callable[[], Awaitable[object]]


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measured(one: One, at_once: int) -> float:
    """CPU microseconds a call."""

    async def some() -> None:
        for _ in range(CALLS // at_once):
            await one()

    started = cpu()
    await asyncio.gather(*(some() for _ in range(at_once)))
    return (cpu() - started) / (CALLS // at_once * at_once) * 1e6


def run() -> Iterable[Row]:
    import aiohttp
    import uvloop

    from sampan.service.http.client import HttpClient
    from sampan.service.http.pool import Pool
    from sampan.service.telemetry.context import CURRENT, Context, new_span_id, new_trace_id
    from sampan.service.telemetry.metrics import Registry

    with (
        tempfile.TemporaryDirectory() as made,
        server(Path(made), CALLEE, core=1) as (port, _),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        url, pool = f"http://127.0.0.1:{port}", Pool()
        client = HttpClient("users", url, pool, Registry())
        context = Context(new_trace_id(), new_span_id(), request_id="bench")

        async def opened() -> aiohttp.ClientSession:
            return aiohttp.ClientSession()

        session = runner.run(opened())

        async def ours() -> object:
            return (await client.get("/users/42")).body

        async def plain() -> object:
            async with session.get(f"{url}/users/42") as response:
                return await response.read()

        def of(one: One, at_once: int) -> Callable[[], float]:
            async def inside() -> float:
                CURRENT.set(context)
                return await measured(one, at_once)

            return lambda: runner.run(inside())

        gc.freeze()  # as the process does
        gc.set_threshold(10_000, 20, 20)
        try:
            for at_once in (1, 32):
                us, them = compare(of(ours, at_once), of(plain, at_once), ROUNDS)
                name = f"a call to another service, {at_once} at a time"
                yield row(AREA, name, us, "us CPU", peer="aiohttp alone", peer_value=them)
        finally:
            gc.set_threshold(700, 10, 10)
            gc.unfreeze()
            runner.run(session.close())
            runner.run(pool.close())
