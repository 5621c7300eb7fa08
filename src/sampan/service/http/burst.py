"""Answers that are ready at about the same time are written together.

A write to somebody on the same machine (a sidecar, an ingress, a neighbour) wakes them, which costs more than the
writing itself. When one turn of the event loop has many requests to begin, they would be woken, take one answer and
fall asleep again for each. So an answer waits while requests behind it are about to begin, for at most `_WAIT` and the
time that one of these takes; where handlers take longer than that, none waits.
"""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from typing import Any, Final

_WAIT: Final = 0.001  # seconds
_now = time.perf_counter


class Burst:
    """Of one server. `coming` counts the requests that are to begin in this turn of the event loop, or the next."""

    __slots__ = ("_answers", "_written", "coming")

    def __init__(self) -> None:
        self._answers: list[tuple[Any, bytes]] = []
        self._written = 0.0
        self.coming = 0

    def write(self, transport: Any, answer: bytes, loop: AbstractEventLoop) -> None:
        """Write an answer, now or with others. Before anything else is written to the transport, or it is closed, there
        must be a `flush`."""
        answers = self._answers
        if self.coming > 0 and _now() - self._written < _WAIT:
            if not answers:
                loop.call_soon(self.flush)  # should those to come not answer in this turn
            answers.append((transport, answer))
        elif answers:
            answers.append((transport, answer))
            self.flush()
        else:
            self._written = _now()
            transport.write(answer)

    def flush(self) -> None:
        answers = self._answers
        if answers:
            self._answers, self._written = [], _now()
            for transport, answer in answers:
                transport.write(answer)
