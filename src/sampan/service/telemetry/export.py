"""The way of spans and log records out of the process: a bounded queue, batches, retries; nobody ever waits for it.

What finds the queue full is dropped and counted, what the collector refuses too. While the collector is away the
service works as always: one line in the log when that begins, one when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from sampan.service.telemetry import otlp
from sampan.service.telemetry.logs import Redactor
from sampan.service.telemetry.metrics import Registry
from sampan.service.telemetry.settings import Target
from sampan.service.telemetry.tracing import Span, redact
from sampan.service.telemetry.transport import Outcome, Transport, transport

log = logging.getLogger("sampan.telemetry")

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 15.0  # between tries of one batch, times a factor between a half and one
_PATIENCE: Final = 60.0  # then a batch is dropped
_STOP_SECONDS: Final = 2.5  # for what is left at the end, of the 3 s that the lifecycle gives
_SETTLE_SECONDS: Final = 0.25  # what the transport imports would keep the service from its first answer
_SLICE: Final = 64  # spans encoded before others have their turn on the event loop

# an encoded entry of ours; one of another scope, with that scope; a span that is encoded when it is its turn
Entry = bytes | tuple[bytes, bytes] | Span


class Exporter:
    """Sends one signal. `offer` takes an entry from any thread and returns at once."""

    def __init__(self, target: Target, resource: bytes, registry: Registry, redactor: Redactor, scope: bytes) -> None:
        self.target, self.resource, self.redactor, self.scope = target, resource, redactor, scope
        self.transport: Transport = transport(target)
        self.before_stop: list[Callable[[], None]] = []  # what still holds entries hands them over
        self.queue: deque[Entry] = deque()
        self.exported = registry.counter("telemetry_exported_total", "Spans and log records sent.", ("signal",))
        self.dropped = registry.counter(
            "telemetry_dropped_total", "Spans and log records not sent, and why.", ("signal", "reason")
        )
        self.exported.add(target.signal, amount=0)
        self._limit, self._batch = target.queue, target.batch
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ends = 0.0  # when, on the monotonic clock, everything must be over; 0: not stopping
        self._failing = False
        self._in_hand = 0  # entries taken from the queue whose fate is open

    def offer(self, entry: Entry) -> None:
        waiting = len(self.queue)
        if waiting >= self._limit:
            self.drop("queue_full", 1)
            return
        self.queue.append(entry)
        if (waiting == 0 or waiting == self._batch - 1) and self._loop is not None:
            self._wake(self._loop)

    def offer_all(self, entries: Sequence[Entry]) -> None:
        room = self.room()
        if len(entries) > room:
            self.drop("queue_full", len(entries) - room)
            entries = entries[:room]
        waiting = len(self.queue)
        self.queue.extend(entries)
        if (waiting == 0 or waiting < self._batch <= len(self.queue)) and self._loop is not None:
            self._wake(self._loop)

    def room(self) -> int:
        """How many entries the queue takes before it drops."""
        return max(0, self._limit - len(self.queue))

    def drop(self, reason: str, count: int) -> None:
        self.dropped.add(self.target.signal, reason, amount=count)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(self._kick.set)

    async def start(self) -> None:
        """Begin. Nobody waits for the transport: what it imports takes a tenth of a second."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run(), name=f"export of {self.target.signal}")

    async def stop(self) -> None:
        """Send what is left, for at most 2.5 s; what then remains is dropped and counted."""
        for hand_over in self.before_stop:
            hand_over()
        self._ends = time.monotonic() + _STOP_SECONDS
        self._kick.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(_STOP_SECONDS + 0.2):
                    await self._task
        if left := len(self.queue) + self._in_hand:
            self.drop("shutdown", left)
            self.queue.clear()
            self._in_hand = 0
        await self.transport.close()

    async def _run(self) -> None:
        await self._pause(_SETTLE_SECONDS)
        try:
            await self.transport.open()
        except Exception as error:  # a certificate that is not there, a package that is missing; the service goes on
            log.error("%s are not exported: %s: %s", self.target.signal, type(error).__name__, error)
            self._limit = 0
            return
        while True:
            if not self.queue:
                if self._ends:
                    return
                self._kick.clear()
                await self._kick.wait()
            if len(self.queue) < self._batch and not self._ends:
                self._kick.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.target.delay):
                        await self._kick.wait()
            try:
                count, body = await self._take()
                if count:
                    await self._deliver(body, count)
            except Exception:  # a defect of ours must not end the export, nor the service
                log.exception("export of %s", self.target.signal)
                self.drop("failed", self._in_hand)
            self._in_hand = 0

    async def _take(self) -> tuple[int, bytes]:
        """The next batch: how many entries, and the request that holds them."""
        scoped: dict[bytes, list[bytes]] = {}
        ours, queue, count = scoped.setdefault(self.scope, []), self.queue, 0
        while queue and count < self._batch:
            entry = queue.popleft()
            self._in_hand = count = count + 1
            if type(entry) is bytes:
                ours.append(entry)
                continue
            if type(entry) is tuple:
                scoped.setdefault(entry[0], []).append(entry[1])
                continue
            assert isinstance(entry, Span)
            scope = otlp.scope(*entry.scope) if entry.scope[0] else self.scope
            scoped.setdefault(scope, []).append(encoded(entry, self.redactor))
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        return count, otlp.request(self.resource, {scope: found for scope, found in scoped.items() if found})

    async def _deliver(self, body: bytes, count: int) -> None:
        until, wait = time.monotonic() + _PATIENCE, _FIRST_WAIT
        while True:
            timeout = self.target.timeout
            if self._ends:
                timeout = max(0.05, min(timeout, self._ends - time.monotonic()))
            outcome = await self.transport.send(body, timeout)
            if not outcome.why:
                self._arrived(count, outcome.rejected)
                return
            self._failed(outcome)
            pause = max(outcome.after, wait * random.uniform(0.5, 1.0))
            ends = self._ends or until
            if not outcome.again or time.monotonic() + pause > ends:
                reason = "refused" if not outcome.again else "shutdown" if self._ends else "unreachable"
                self.drop(reason, count)
                return
            await self._pause(pause)
            wait = min(_LONGEST_WAIT, wait * 2)

    async def _pause(self, seconds: float) -> None:
        """Wait, but for the end of the process not for long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._ends:
            self._kick.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._kick.wait()
                await asyncio.sleep(0)

    def _arrived(self, count: int, rejected: int) -> None:
        self.exported.add(self.target.signal, amount=count - rejected)
        if rejected:
            self.drop("rejected", rejected)
        if self._failing:
            self._failing = False
            log.info("%s reach %s again", self.target.signal, self.target.url)

    def _failed(self, outcome: Outcome) -> None:
        if not self._failing:
            self._failing = True
            log.warning(
                "%s do not reach %s: %s; the service goes on, what is dropped is counted in telemetry_dropped_total",
                *(self.target.signal, self.target.url, outcome.why),
            )


def encoded(span: Span, redactor: Redactor) -> bytes:
    """`span` as OTLP wants it, with the secrets in its values struck out."""
    chunk = otlp.span(span)
    if redactor.finds(chunk):
        redact(span, redactor)
        chunk = otlp.span(span)
    return chunk
