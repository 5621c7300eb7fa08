"""The consuming side of a topic, on any broker.

An event is acknowledged after its handler's transaction has committed. The inbox entry commits in that same
transaction, so a handler that takes a session has its effect once however often the event arrives. A handler
that fails is tried again with growing delays, here, with the event still in hand; after `attempts` deliveries, or at
once when the payload cannot be decoded, the event goes to the dead letters; so does one that ends its process
(lasttries.py). Events of one key are handled one at a time and in order, and wait while an earlier one is to be tried
again.

With commit="automatic" an event is acknowledged before it is handled: at most once, and never tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from sampan.service.messaging.codec import decode
from sampan.service.messaging.hand import Hand
from sampan.service.messaging.handler import Duplicate, Function, Handler
from sampan.service.messaging.lasttries import LastTries
from sampan.service.messaging.letters import letter
from sampan.service.messaging.port import ACK_SECONDS, ONLY_GROUP, Broker, Delivery, Subscription
from sampan.service.resilience.limit import Timers
from sampan.service.tasks import end
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, Context, arrived, from_headers
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from sampan.service.data.database import SqlDatabase

log = logging.getLogger("sampan.messaging")

R = TypeVar("R")

_RETRY_FIRST, _RETRY_LONGEST = 0.2, 60.0
_LAG_SECONDS: Final = 10.0
_BATCH: Final = 100
_AHEAD_SECONDS, _AHEAD_MOST = 0.1, 512  # how much work is fetched ahead, in the time it takes and in events


def retry_delay(delivery: int) -> float:
    """Seconds before the delivery after the `delivery`-th: doubling from 0.2 s to a minute, with jitter."""
    return min(_RETRY_LONGEST, _RETRY_FIRST * 2.0 ** min(delivery - 1, 16)) * (0.5 + random.random())


class Consumer:
    """Implements `port.Sink`. `batch` is for a handler that takes a list: how many events at most."""

    def __init__(  # noqa: PLR0917
        self,
        broker: Broker,
        topic: str,
        type: Any,
        group: str,
        function: Function,
        registry: Registry,
        *,
        database: SqlDatabase | None = None,
        concurrency: int = 1,
        attempts: int = 5,
        batch: int = 0,
        commit: str = "handled",
        timeout: float | None = 300.0,
    ) -> None:
        self.broker, self.topic, self.type, self.group = broker, topic, type, group
        self.handler = Handler(function)
        self.database = database if self.handler.needs else None
        if self.database is None and self.handler.needs:
            raise ValueError(
                f"the handler of topic {topic!r} takes a {self.handler.needs}, but no one database can give it; "
                f"say which: subscribe(..., database=...)"
            )
        self.concurrency, self.attempts = max(1, concurrency), max(1, attempts)
        self.batch = max(1, batch or _BATCH) if self.handler.batches else 1
        self.automatic = commit == "automatic"
        if timeout is not None and not timeout > 0:
            raise ValueError(
                f"the subscription to topic {topic!r} has timeout={timeout}: write seconds above 0, or None for no end"
            )
        self.timeout = timeout
        self._timers = Timers()
        self.inbox = f"{topic}/{group}"
        labels = ("topic", "group")
        self.consumed = registry.counter("messages_consumed_total", "Deliveries handled.", (*labels, "outcome"))
        self.retries = registry.counter("messages_retries_total", "Deliveries to be tried again.", labels)
        self.dead = registry.counter("messages_dead_letters_total", "Events set aside.", labels)
        self.durations = registry.histogram("message_duration_seconds", "Time in the handler.", labels)
        self.lag = registry.gauge("messages_lag", "Events that wait for the group.", labels)
        self.last_tries = LastTries(broker, topic, group, self.attempts)
        self._hand = Hand(keyed=broker.layout(topic).keyed)
        self._outstanding: dict[Delivery, float] = {}
        self._held: dict[Delivery, asyncio.TimerHandle] = {}
        self._subscription: Subscription | None = None
        self._workers: dict[asyncio.Task[None], list[Delivery]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._stopping = False
        self._each = 0.05  # seconds an event takes, as of late
        self._handled = 0
        self._attributes: dict[str, tracing.Value] = {
            "messaging.system": broker.system,
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._subscribe(), name=f"subscribe-{self.topic}-{self.group}"),
            asyncio.create_task(self._beat(), name=f"heartbeat-{self.topic}-{self.group}"),
            asyncio.create_task(self._measure(), name=f"lag-{self.topic}-{self.group}"),
        ]
        for _ in range(self.concurrency):
            self._hire()

    def _hire(self) -> None:
        task = asyncio.create_task(self._work(), name=f"consumer-{self.topic}-{self.group}")
        self._workers[task] = []

    async def _subscribe(self) -> None:
        wait = 0.05
        while self._subscription is None:
            try:
                await self.broker.ready()
                self._subscription = await self.broker.subscribe(self.topic, self.group, self, self._window())
            except self.broker.errors as error:
                log.info("consumer %s of %s starts again: %s", self.group, self.topic, error or type(error).__name__)
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)

    def _window(self) -> int:
        """Room for what is being handled, a little ahead of it, and what cannot go on."""
        ahead = min(_AHEAD_MOST, int(_AHEAD_SECONDS / self._each) * self.concurrency)
        stuck = min(1000, len(self._held) + self._hand.blocked)
        return self.concurrency * self.batch + max(1, ahead, self.batch if self.batch > 1 else 0) + stuck

    def _resize(self) -> None:
        if self._subscription is not None:
            self._subscription.window = self._window()

    # port.Sink

    def deliver(self, delivery: Delivery) -> None:
        self._outstanding[delivery] = time.monotonic()
        blocked = self._hand.blocked
        self._hand.add(delivery)
        if self._hand.blocked != blocked:
            self._resize()

    async def revoke(self, lanes: set[str]) -> None:
        for delivery in list(self._outstanding):
            if delivery.lane in lanes:
                delivery.revoked = True
                timer = self._held.pop(delivery, None)
                if timer is not None:
                    timer.cancel()
                    self._forget(delivery)
        give_up = time.monotonic() + 10
        while busy := [task for task, batch in self._workers.items() if any(d.lane in lanes for d in batch)]:
            if time.monotonic() > give_up:
                for task in busy:
                    task.cancel()
                await asyncio.wait(busy, timeout=2)
                return
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._changed.wait()

    # one worker for each unit of concurrency

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                batch = await self._hand.take(self.batch)
                self._workers[task] = batch
                started = time.perf_counter()
                await self._handle([delivery for delivery in batch if not delivery.revoked])
                for delivery in batch:
                    if delivery.revoked:
                        self._forget(delivery)
                self._workers[task] = []
                self._changed.set()
                self._each += ((time.perf_counter() - started) / len(batch) - self._each) * 0.1
                self._handled += 1
                if self._handled % 16 == 0:
                    self._resize()
        finally:
            self._changed.set()
            batch = self._workers.pop(task, [])
            if not self._stopping:  # its lane was revoked under it, and it did not end in time
                for delivery in batch:
                    self._forget(delivery)
                self._hire()

    def _forget(self, delivery: Delivery) -> None:
        if self._outstanding.pop(delivery, None) is not None:
            self._hand.done(delivery)

    async def _handle(self, batch: list[Delivery]) -> None:
        """Each of them is acknowledged, set aside or held for another try when this returns."""
        good: list[tuple[Delivery, Any]] = []
        for delivery in batch:
            only = delivery.headers.get(ONLY_GROUP)
            if only and only != self.group:
                await self._settle(delivery)
                continue
            try:
                good.append((delivery, decode(delivery.payload, self.type)))
            except (ValueError, msgspec.MsgspecError) as error:
                await self._set_aside(delivery, error, 0.0)
        if self.automatic:
            for delivery, _ in good:
                await self._acknowledge(delivery)
        if len(good) > 1 and not any(self._is_last(delivery) for delivery, _ in good) and await self._all(good):
            return
        stuck: set[str] = set()
        later: dict[str, list[Delivery]] = {}
        for delivery, event in good:
            if delivery.key in stuck:
                later[delivery.key].append(delivery)
            elif not await self._one(delivery, event) and self._hand.keyed and delivery.key:
                stuck.add(delivery.key)
                later[delivery.key] = []
        for waiting in later.values():
            self._hand.put_behind(waiting)

    async def _all(self, good: list[tuple[Delivery, Any]]) -> bool:
        """Handle a whole batch at once. False when that failed, and each has to show for itself."""
        started = time.perf_counter()
        ids = [delivery.id for delivery, _ in good]
        context = from_headers({})
        CURRENT.set(context)
        came = [arrived(delivery.headers) for delivery, _ in good]
        links = [(trace, parent) for trace, parent, _ in came if parent]
        attributes = {**self._attributes, "messaging.batch.message_count": len(good)}
        await self.broker.alone.enter()
        try:
            with tracing.span(f"process {self.topic}", tracing.CONSUMER, attributes, links=links):
                events = [event for _, event in good]
                known = await self._limited(context, self.handler.run_many(self.database, self.inbox, events, ids))
        except Exception as error:
            log.info("a batch of %s failed, its events one by one: %s", self.topic, error)
            return False
        finally:
            self.broker.alone.leave()
        each = (time.perf_counter() - started) / len(good)
        for delivery, _ in good:
            await self._finish(delivery, "duplicate" if delivery.id in known else "ok", each)
        return True

    def _is_last(self, delivery: Delivery) -> bool:
        return not self.automatic and self.last_tries.due(delivery)

    async def _one(self, delivery: Delivery, event: Any) -> bool:
        """Whether it is done with, one way or another; else it is held to be tried again."""
        if self._is_last(delivery):
            return await self._last(delivery, event)
        await self.broker.alone.enter()
        try:
            return await self._try(delivery, event)
        finally:
            self.broker.alone.leave()

    async def _last(self, delivery: Delivery, event: Any) -> bool:
        """The last try of what may have ended the processes that had it before."""
        more = {"topic": self.topic, "group": self.group, "event_id": delivery.id, "delivery": delivery.attempt}
        try:
            if await self.last_tries.set_aside(delivery, self._outstanding.get(delivery, 0.0)):
                log.error("event set aside: the processes that handled it ended", extra=more)
                self.dead.add(self.topic, self.group)
                return await self._finish(delivery, "dead", 0.0)
            async with self.broker.alone.alone(), self.last_tries.written_down(delivery):
                return await self._try(delivery, event)
        except self.broker.errors as trouble:
            log.warning("the last try of an event of %s waits for the broker: %s", self.topic, trouble)
            self._hold(delivery)
            return False

    async def _try(self, delivery: Delivery, event: Any) -> bool:
        started = time.perf_counter()
        context = from_headers(delivery.headers)
        CURRENT.set(context)
        try:
            attributes = {**self._attributes, "messaging.message.id": delivery.id}
            with tracing.span(f"process {self.topic}", tracing.CONSUMER, attributes):
                await self._limited(context, self.handler.run(self.database, self.inbox, event, delivery.id))
        except Duplicate:
            return await self._finish(delivery, "duplicate", time.perf_counter() - started)
        except Exception as error:
            return await self._failed(delivery, error, time.perf_counter() - started)
        return await self._finish(delivery, "ok", time.perf_counter() - started)

    async def _limited(self, context: Context, handling: Coroutine[Any, Any, R]) -> R:
        """What a handler asks of others has as long as the handler itself; what comes after it has no deadline."""
        if self.timeout is None:
            return await handling
        context.deadline = time.monotonic() + self.timeout
        limit = self._timers.limit(self.timeout)
        try:
            with limit:
                return await handling
        except TimeoutError as error:
            if limit.expired:
                raise TimeoutError(f"the handler took longer than {self.timeout:g} s") from error
            raise
        finally:
            context.deadline = None

    async def _failed(self, delivery: Delivery, error: Exception, seconds: float) -> bool:
        attempt = delivery.attempt + delivery.tries
        more = {"topic": self.topic, "group": self.group, "event_id": delivery.id, "delivery": attempt}
        if self.automatic:
            log.error("event handler failed, the event is lost", exc_info=error, extra=more)
            return await self._finish(delivery, "lost", seconds)
        if attempt >= self.attempts and await self._database_answers():
            log.error("event handler failed for the last time", exc_info=error, extra=more)
            return await self._set_aside(delivery, error, seconds)
        log.warning("event handler failed, will retry: %s", error, exc_info=error, extra=more)
        self._count("failed", seconds)
        self._hold(delivery)
        return False

    def _hold(self, delivery: Delivery) -> None:
        delay = retry_delay(delivery.attempt + delivery.tries)
        delivery.tries += 1
        self.retries.add(self.topic, self.group)
        self._held[delivery] = asyncio.get_running_loop().call_later(delay, self._again, delivery)
        self._resize()

    def _again(self, delivery: Delivery) -> None:
        if self._held.pop(delivery, None) is not None:
            self._hand.again(delivery)

    async def _database_answers(self) -> bool:
        """False while the database is away: a failure then says nothing about the event, which has to wait for it."""
        if self.database is None:
            return True
        try:
            async with asyncio.timeout(2):
                await self.database.check()
        except Exception:
            return False
        return True

    async def _set_aside(self, delivery: Delivery, error: Exception, seconds: float) -> bool:
        attempt = delivery.attempt + delivery.tries
        try:
            async with asyncio.timeout(10):
                await self.broker.set_aside(letter(self.topic, self.group, delivery, attempt, error))
        except self.broker.errors as trouble:
            log.warning("event of %s could not be set aside yet: %s", self.topic, trouble)
            self._count("failed", seconds)
            self._hold(delivery)
            return False
        self.dead.add(self.topic, self.group)
        return await self._finish(delivery, "dead", seconds)

    def _count(self, outcome: str, seconds: float) -> None:
        self.consumed.add(self.topic, self.group, outcome)
        self.durations.observe(seconds, self.topic, self.group)

    async def _finish(self, delivery: Delivery, outcome: str, seconds: float) -> bool:
        self._count(outcome, seconds)
        await self._settle(delivery)
        return True

    async def _settle(self, delivery: Delivery) -> None:
        if not self.automatic:
            await self._acknowledge(delivery)
        self._forget(delivery)

    async def _acknowledge(self, delivery: Delivery) -> None:
        try:
            await delivery.ack()
        except self.broker.errors as error:  # it will come again
            level = logging.DEBUG if delivery.revoked else logging.WARNING
            log.log(level, "event of %s not acknowledged: %s", self.topic, error)

    # beside the work

    async def _beat(self) -> None:
        """Tell the broker of everything in hand, now and then, that it still is."""
        while True:
            await asyncio.sleep(ACK_SECONDS / 3)
            before = time.monotonic() - ACK_SECONDS / 4
            for delivery, since in list(self._outstanding.items()):
                if since < before and not self.automatic:
                    with contextlib.suppress(*self.broker.errors):
                        await delivery.heartbeat()

    async def _measure(self) -> None:
        while True:
            try:
                await self.broker.ready()
                waiting = await self.broker.lag(self.topic, self.group)
                if waiting is not None:
                    self.lag.set(waiting, self.topic, self.group)
            except self.broker.errors as error:
                log.debug("lag of %s: %s", self.topic, error)
            await asyncio.sleep(_LAG_SECONDS)

    async def stop(self, timeout: float = 15.0) -> None:
        """Take no more events; finish, or after `timeout` seconds give back, those in hand."""
        self._stopping = True
        subscribing, beside = self._tasks[:1], self._tasks[1:]
        await end(*subscribing)
        subscription = self._subscription
        if subscription is not None:
            with contextlib.suppress(*self.broker.errors):
                await subscription.halt()
        self._hand.clear()
        for timer in self._held.values():
            timer.cancel()
        busy = [task for task, batch in self._workers.items() if batch]
        idle = [task for task, batch in self._workers.items() if not batch]
        given_back = set(self._outstanding).difference(*self._workers.values()) if self._workers else set()
        await end(*idle)
        await self._give_back(given_back)
        if busy:
            self._changed.clear()
            await self._finished(busy, timeout)
        await end(*busy, *beside)
        await self._give_back(set(self._outstanding))
        if subscription is not None:
            with contextlib.suppress(*self.broker.errors):
                await subscription.close()

    async def _finished(self, busy: list[asyncio.Task[None]], timeout: float) -> None:
        give_up = time.monotonic() + timeout
        while any(self._workers.get(task) for task in busy) and (left := give_up - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def _give_back(self, deliveries: set[Delivery]) -> None:
        for delivery in deliveries:
            self._outstanding.pop(delivery, None)
            if not self.automatic:
                with contextlib.suppress(*self.broker.errors):
                    await delivery.release()
