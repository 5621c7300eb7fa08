"""Watches the event loop from a thread: how late it runs, what blocks it, and whether it ends when it was told to."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from typing import Final

from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.loop")

STUCK_SECONDS: Final = 10.0
_BLOCKED_SECONDS: Final = 0.25
_WARN_EVERY: Final = 10.0
_LEAVING: Final = 1.0
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def stuck_seconds() -> float:
    try:
        return max(0.1, float(os.environ.get("SAMPAN_STUCK_SECONDS", "")))
    except ValueError:
        return STUCK_SECONDS


class Watchdog:
    """`start` within the loop to watch. `end_by` has the process end with status 1 if it still lives then.

    The loop ticks; each tick's lateness is observed as `event_loop_lag_seconds`. A loop that has not ticked for
    SAMPAN_STUCK_SECONDS (10) has the stack of its thread logged, once each time. With `development`, so has one that
    was blocked for 0.25 s, at most every 10 s.
    """

    def __init__(self, registry: Registry, development: bool = False) -> None:
        self.lag = registry.histogram(
            "event_loop_lag_seconds", "How much later than asked the event loop ran.", buckets=_BUCKETS
        )
        self.stuck = registry.counter("event_loop_stuck_total", "Times the event loop did not turn for long.")
        self.limit, self.development = stuck_seconds(), development
        self.every = 0.05 if development else 0.5
        self._ticked = self._due = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline, self._code, self._left = float("inf"), 1, False
        self._watched = threading.get_ident()

    def start(self) -> None:
        self._watched = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._ticked = time.monotonic()
        self._next()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def end_by(self, deadline: float, code: int = 1) -> None:
        """End the process with `code` if it still lives at `deadline`. May be called from a signal handler."""
        self._deadline, self._code = deadline, code

    def leave(self, code: int) -> None:
        """All is stopped: the interpreter has a second to end, whatever tasks and threads would not."""
        if self._timer is not None:
            self._timer.cancel()
        self.development, self.limit, self._left = False, float("inf"), True
        self.end_by(time.monotonic() + _LEAVING, code)

    def _next(self) -> None:
        self._due = time.monotonic() + self.every
        self._timer = self._loop.call_later(self.every, self._tick)

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self.lag.observe(max(0.0, self._ticked - self._due))
        self._next()

    def _watch(self) -> None:
        reported, warned = 0.0, -_WARN_EVERY
        while True:
            before = time.monotonic()
            time.sleep(min(self.every, self.limit / 4))
            now, ticked = time.monotonic(), self._ticked
            if now > self._deadline:
                # past logging, whose locks the thread that hangs may hold
                os.write(
                    2, b"sampan: ending, past what would not end\n" if self._left else b"sampan: not stopped in time\n"
                )
                os._exit(self._code)
            silent = now - ticked - self.every
            if now - before > self.limit / 2:
                continue  # this thread did not run either: the whole process, or the machine, was paused
            if silent > self.limit and reported != ticked:
                reported = ticked
                self.stuck.add()
                log.critical("the event loop has not turned for %.1f s", silent, extra={"stack": self._stack()})
            elif self.development and silent > _BLOCKED_SECONDS and now - warned > _WARN_EVERY:
                warned = now
                log.warning(
                    "a callback blocks the event loop for %.2f s and more: move it to a thread (asyncio.to_thread)",
                    silent,
                    extra={"stack": self._stack()},
                )

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._watched)
        return "".join(traceback.format_stack(frame)[-30:]) if frame is not None else ""
