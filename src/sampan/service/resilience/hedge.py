"""Hedging: the same work started again when it takes long; the first good result wins, the others are cancelled.

Dean and Barroso, "The Tail at Scale", 2013.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sampan.service.tasks import end

R = TypeVar("R")


async def first_good(
    start: Callable[[int], Coroutine[Any, Any, R | None]],
    after: float,
    most: int,
    good: Callable[[R], bool],
    report: Callable[[str], None],
) -> R:
    """The first result that is `good`, of the work `start(0)` and up to `most` repetitions, each `after` seconds later.

    Without a good one: the first result there was, or what the first work raised. A repetition that gives None was not
    made. `report` hears of every repetition: "won", "lost" (another was quicker), "failed", "refused".
    """
    tasks: list[asyncio.Task[R | None]] = [asyncio.create_task(start(0))]
    pending = set(tasks)
    try:
        while True:
            more = len(tasks) <= most
            done, pending = await asyncio.wait(
                pending, timeout=after if more else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in sorted(done, key=tasks.index):
                if task.exception() is None and (result := task.result()) is not None and good(result):
                    _report(tasks, task, good, report)
                    return result
            if not pending:  # all have failed; what has not been started early is for the retries of the first
                _report(tasks, None, good, report)
                results = [task.result() for task in tasks if task.exception() is None]
                for result in results:
                    if result is not None:
                        return result
                first = tasks[0].exception()
                assert first is not None
                raise first
            if not done:
                tasks.append(asyncio.create_task(start(len(tasks))))
                pending.add(tasks[-1])
    finally:
        await end(*tasks)


def _report(
    tasks: list[asyncio.Task[R | None]],
    winner: asyncio.Task[R | None] | None,
    good: Callable[[R], bool],
    report: Callable[[str], None],
) -> None:
    for task in tasks[1:]:
        if task is winner:
            report("won")
        elif not task.done():
            report("lost")
        elif task.exception() is not None:
            report("failed")
        elif (result := task.result()) is None:
            report("refused")
        else:
            report("lost" if good(result) else "failed")
