"""The consuming side of a topic: a durable pull consumer per group.

An event is acknowledged after its handler's transaction has committed. The inbox entry commits in that same
transaction, so a handler that takes a session has its effect once however often the event arrives. A handler
that fails is tried again with growing delays; after `attempts` deliveries, or at once when the payload cannot be
decoded, the event goes to the dead-letter stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from sampan.service.messaging.broker import DEAD_LETTERS, MESSAGE_ID, Broker, PublishError, dead_letter_subject
from sampan.service.messaging.codec import decode
from sampan.service.telemetry.context import CURRENT, from_headers
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from sampan.service.data.database import SqlDatabase

log = logging.getLogger("sampan.messaging")

ACK_SECONDS: Final = 5.0  # how long the event of a killed consumer waits; a live one keeps sending heartbeats
_FETCH_SECONDS: Final = 5.0
_RETRY_FIRST, _RETRY_LONGEST = 0.2, 60.0

Handler = Callable[..., Awaitable[None]]


class Duplicate(Exception):
    """The inbox knows this event already."""


def wants_session(handler: Handler) -> bool:
    """Whether `handler` takes a session beside the event."""
    parameters = list(inspect.signature(handler).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 and positional[1].default is inspect.Parameter.empty


def retry_delay(delivery: int) -> float:
    """Seconds before the delivery after the `delivery`-th: doubling from 0.2 s to a minute, with jitter."""
    return min(_RETRY_LONGEST, _RETRY_FIRST * 2.0 ** min(delivery - 1, 16)) * (0.5 + random.random())


class Consumer:
    def __init__(  # noqa: PLR0917
        self,
        broker: Broker,
        topic: str,
        type: Any,
        group: str,
        handler: Handler,
        registry: Registry,
        *,
        database: SqlDatabase | None = None,
        concurrency: int = 1,
        attempts: int = 5,
    ) -> None:
        self.broker, self.topic, self.type, self.group, self.handler = broker, topic, type, group, handler
        self.database = database if wants_session(handler) else None
        if self.database is None and wants_session(handler):
            raise ValueError(f"the handler of topic {topic!r} takes a session, but no one database can give it")
        self.concurrency, self.attempts = max(1, concurrency), max(1, attempts)
        self.consumed = registry.counter(
            "messages_consumed_total", "Deliveries handled.", ("topic", "group", "outcome")
        )
        self.durations = registry.histogram("message_duration_seconds", "Time in the handler.", ("topic", "group"))
        self._task: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[list[Msg]] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self) -> None:
        self.broker.on_reconnect(self._refetch)
        self._task = asyncio.create_task(self._run(), name=f"consumer-{self.topic}-{self.group}")

    def _refetch(self) -> None:
        if self._fetching is not None:  # the request the server held was lost with its connection
            self._fetching.cancel()

    async def _run(self) -> None:
        wait = 0.05
        while not self._stopping:
            try:
                await self.broker.ready()
                subscription = await self._subscribe()
                wait = 0.05
                try:
                    await self._consume(subscription)
                finally:
                    with contextlib.suppress(NatsError, OSError):
                        await subscription.unsubscribe()
            except (NatsError, OSError, TimeoutError) as error:
                log.info("consumer %s of %s starts again: %s", self.group, self.topic, error or type(error).__name__)
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        await self.broker.ensure(self.topic)
        await self.broker.ensure(DEAD_LETTERS)
        js = self.broker.js
        try:
            await js.consumer_info(self.topic, self.group)
        except NotFoundError:
            config = ConsumerConfig(
                durable_name=self.group,
                ack_policy=AckPolicy.EXPLICIT,
                deliver_policy=DeliverPolicy.ALL,
                ack_wait=ACK_SECONDS,
                max_deliver=-1,  # counted here: the server's own limit would drop the event without a word
                max_ack_pending=4096,
            )
            try:
                await js.add_consumer(self.topic, config)
            except APIError as error:
                if error.err_code not in (10148, 10105):  # another instance made it in the meantime
                    raise
        return await js.pull_subscribe_bind(self.group, self.topic)

    async def _consume(self, subscription: JetStreamContext.PullSubscription) -> None:
        while not self._stopping:
            free = self.concurrency - len(self._working)
            if free <= 0:
                await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)
                continue
            self._fetching = asyncio.ensure_future(subscription.fetch(free, timeout=_FETCH_SECONDS))
            try:
                messages = await self._fetching
            except TimeoutError:
                continue
            except asyncio.CancelledError:
                if self._fetching.cancelled() and not self._stopping and not _being_cancelled():
                    return  # after a reconnection: subscribe anew
                raise
            finally:
                self._fetching = None
            for message in messages:
                task = asyncio.create_task(self._deliver(message))
                self._working.add(task)
                task.add_done_callback(self._working.discard)

    async def _deliver(self, message: Msg) -> None:
        started, outcome = time.perf_counter(), "failed"
        headers = {name.lower(): value for name, value in (message.headers or {}).items()}
        CURRENT.set(from_headers(headers))
        delivery = message.metadata.num_delivered or 1
        event_id = headers.get(MESSAGE_ID.lower()) or f"{self.topic}:{message.metadata.sequence.stream}"
        try:
            try:
                event = decode(message.data, self.type)
            except (ValueError, msgspec.MsgspecError) as error:
                outcome = await self._set_aside(message, event_id, delivery, error)
                return
            try:
                await self._with_heartbeat(message, self._handle(event, event_id))
                outcome = "ok"
                await message.ack()
            except Duplicate:
                outcome = "duplicate"
                await message.ack()
            except Exception as error:
                attributes = {"topic": self.topic, "group": self.group, "event_id": event_id, "delivery": delivery}
                if delivery >= self.attempts and await self._database_answers():
                    log.error("event handler failed for the last time", exc_info=error, extra=attributes)
                    outcome = await self._set_aside(message, event_id, delivery, error)
                else:
                    log.warning("event handler failed, will retry: %s", error, exc_info=error, extra=attributes)
                    await message.nak(delay=retry_delay(delivery))
        except (NatsError, OSError, PublishError) as error:  # not acknowledged: it will come again
            log.warning("event of %s not acknowledged: %s", self.topic, error)
        finally:
            self.consumed.add(self.topic, self.group, outcome)
            self.durations.observe(time.perf_counter() - started, self.topic, self.group)

    async def _handle(self, event: Any, event_id: str) -> None:
        if self.database is None:
            await self.handler(event)
            return
        from sampan.service.messaging.inbox import enter

        await self.database.ensure_tables()
        async with self.database.transaction() as session:
            if not await enter(session, f"{self.topic}/{self.group}", event_id):
                raise Duplicate
            await self.handler(event, session)

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

    async def _with_heartbeat(self, message: Msg, work: Awaitable[None]) -> None:
        """Run `work`, telling the broker now and then that it is still in hand."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=ACK_SECONDS / 3))[0]:
                with contextlib.suppress(NatsError, OSError):
                    await message.in_progress()
        except asyncio.CancelledError:
            task.cancel()
            raise
        await task

    async def _set_aside(self, message: Msg, event_id: str, delivery: int, error: Exception) -> str:
        headers = {
            **(message.headers or {}),
            MESSAGE_ID: f"{event_id}:{self.group}",
            "sampan-topic": self.topic,
            "sampan-group": self.group,
            "sampan-event-id": event_id,
            "sampan-deliveries": str(delivery),
            "sampan-error": " ".join(f"{type(error).__name__}: {error}".split())[:500],
        }
        subject = dead_letter_subject(self.topic, self.group)
        await self.broker.publish(DEAD_LETTERS, message.data, headers, subject=subject)
        await message.ack()
        return "dead"

    async def stop(self, timeout: float = 15.0) -> None:
        """Take no more events; finish, or after `timeout` seconds give back, those in hand."""
        self._stopping = True
        if self._fetching is not None:
            self._fetching.cancel()
        elif self._task is not None and not self._working:
            self._task.cancel()
        if self._working:
            _, late = await asyncio.wait(set(self._working), timeout=timeout)
            for task in late:
                task.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
