"""The end of tasks whose libraries swallow a cancellation."""

from __future__ import annotations

import asyncio
import time

import pytest

from sampan.service import tasks


async def swallows(times: int, seen: list[int]) -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(1)
            if len(seen) > times:
                raise


async def test_a_swallowed_cancellation_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_AGAIN_SECONDS", 0.01)
    seen: list[int] = []
    task = asyncio.create_task(swallows(2, seen))
    await asyncio.sleep(0)
    await tasks.end(task)
    assert task.cancelled() and len(seen) == 3


async def test_what_ended_tasks_raise_is_theirs() -> None:
    async def fails() -> None:
        raise ValueError("no")

    failed = asyncio.create_task(fails())
    await asyncio.wait({failed})
    await tasks.end(failed)
    await tasks.end()
    with pytest.raises(ValueError, match="no"):
        failed.result()


async def test_closing_takes_no_cancellation_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = asyncio.Event()

    async def close() -> None:  # as a client does: it cancels its own and waits for it
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await asyncio.sleep(60)
        closed.set()

    caller = asyncio.create_task(tasks.quietly(close()))
    await asyncio.sleep(0.01)
    caller.cancel()
    began = time.monotonic()
    await asyncio.wait({caller})
    assert caller.cancelled() and time.monotonic() - began < 30
    async with asyncio.timeout(30):
        await closed.wait()


async def test_a_closing_that_hangs_or_fails_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_CLOSE_SECONDS", 0.05)

    async def fails() -> None:
        raise OSError("gone")

    await tasks.quietly(fails())
    async with asyncio.timeout(30):
        await tasks.quietly(asyncio.sleep(3600))
