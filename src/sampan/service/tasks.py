"""The end of tasks that run client libraries, some of which swallow a cancellation.

A client that is closed cancels its own tasks and waits for them with CancelledError suppressed. When the one who closes
is cancelled at that moment, the suppression takes that cancellation too: the closing goes on, and whoever cancelled
once waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, Final

_AGAIN_SECONDS: Final = 2.0  # room for what a task has to put in order, a rollback for instance
_CLOSE_SECONDS: Final = 3.0
_LEFT_SECONDS: Final = 30.0  # a member that is cut off while it says goodbye to its group would still seem to be there
_closing: set[asyncio.Future[Any]] = set()  # asyncio itself holds its tasks only weakly


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, again until each has ended. What they raise is theirs."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: asyncio has nothing to complain of


async def quietly(work: Awaitable[Any]) -> None:
    """Await the closing of something, for 3 s at most and whatever it raises, in a task of its own.

    What takes longer goes on by itself for another 30 s, and so does all when the caller is cancelled, which goes
    through at once.
    """
    closing = asyncio.ensure_future(work)
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    closing.add_done_callback(_looked_at)
    asyncio.get_running_loop().call_later(_CLOSE_SECONDS + _LEFT_SECONDS, closing.cancel)
    await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)


def _looked_at(closed: asyncio.Future[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        closed.exception()
