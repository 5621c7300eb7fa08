"""NATS JetStream: a stream per topic, durable pull consumers per group, a stream of dead letters.

A topic with keys has a subject per partition (`orders.0` ...), and each group a consumer per partition that is given
one event at a time (`max_ack_pending` 1): the server itself keeps the order, across any number of instances.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sampan.imports import courteous, without
from sampan.service.bindings import Binding
from sampan.service.messaging.letters import from_headers, to_headers
from sampan.service.messaging.port import (
    ACK_SECONDS,
    KEEP_DEAD_SECONDS,
    KEEP_SECONDS,
    KEY,
    STORE_SECONDS,
    Broker,
    DeadLetter,
    Delivery,
    Layout,
    Message,
    Sink,
)
from sampan.service.tasks import end
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:  # else by `_library`
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription as Inbox
    from nats.errors import Error as NatsError
    from nats.js import JetStreamContext
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import APIError, NotFoundError

if find_spec("nats") is None:
    raise ModuleNotFoundError("No module named 'nats'", name="nats")

log = logging.getLogger("sampan.messaging")

MESSAGE_ID: Final = "Nats-Msg-Id"
DEAD_LETTERS: Final = "DLQ"
_DUPLICATE_SECONDS: Final = 600.0
_PULL_SECONDS: Final = 5.0
_GONE: Final = (10043, 10057)
_EXISTS: Final = (10058, 10148, 10105, 10013)  # somebody else made it in the meantime


def _library() -> None:
    """Import nats-py, whose names the rest of this module takes for granted: when the first connection is made, since
    that is a twelfth of the start of a service and nothing it answers with."""
    with without("aiohttp"):  # as much again; it is for WebSockets alone
        from nats import errors
        from nats.aio import client
        from nats.js import api
        from nats.js import errors as refusals
    used = {
        client: ("Client",),
        api: ("AckPolicy", "ConsumerConfig", "DeliverPolicy", "RetentionPolicy", "StorageType", "StreamConfig"),
        refusals: ("APIError", "NotFoundError"),
    }
    globals().update({name: getattr(module, name) for module, names in used.items() for name in names})
    globals()["NatsError"] = errors.Error
    NatsBroker.errors = (errors.Error, OSError, TimeoutError)


class NatsBroker(Broker):
    system: ClassVar[str] = "nats"
    errors: ClassVar[tuple[type[Exception], ...]] = (OSError, TimeoutError)
    client: Client
    js: JetStreamContext

    def __init__(self, binding: Binding, registry: Registry, name: str = "sampan") -> None:
        super().__init__(binding, registry, name)
        self._replies = ""
        self._number = 0
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def _connect(self) -> None:
        if "nats.js.errors" in sys.modules:
            _library()
        else:
            with courteous():  # whoever asks meanwhile is answered
                await asyncio.to_thread(_library)
        await self._reach(self._dial)
        self._connected()

    async def _dial(self) -> None:
        self.client = Client()
        self.js = self.client.jetstream(timeout=STORE_SECONDS)
        try:
            await self.client.connect(
                self.uri,
                name=self.name,
                user=self.values.get("username"),
                password=self.values.get("password"),
                token=self.values.get("token"),
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds, a fraction is fine
                connect_timeout=2,
                ping_interval=5,
                max_outstanding_pings=2,
                error_cb=self._error,
                disconnected_cb=self._lost,
                reconnected_cb=self._back,
            )
            self._replies = self.client.new_inbox()
            await self.client.subscribe(f"{self._replies}.*", cb=self._replied)
        except self.errors:
            with contextlib.suppress(Exception):
                await self.client.close()
            raise

    async def _error(self, error: Exception) -> None:
        log.debug("broker connection: %s: %s", type(error).__name__, error)

    async def _lost(self) -> None:
        if not self.client.is_closed:
            self._disconnected()

    async def _back(self) -> None:
        self._connected()

    @property
    def connected(self) -> bool:
        return self._ready.is_set() and self.client.is_connected

    async def _disconnect(self) -> None:
        if not hasattr(self, "client"):
            return  # nothing was tried
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                if self.client.is_connected:
                    await self.client.flush(1)
                await self.client.close()

    async def _make(self, layout: Layout) -> None:
        dead = layout.name == DEAD_LETTERS
        subjects = ["dlq.>"] if dead else [layout.name, f"{layout.name}.*"]
        try:
            info = await self.js.stream_info(layout.name)
        except NotFoundError:
            config = StreamConfig(
                name=layout.name,
                subjects=subjects,
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE,
                max_age=KEEP_DEAD_SECONDS if dead else KEEP_SECONDS,
                duplicate_window=_DUPLICATE_SECONDS,
                num_replicas=int(os.environ.get("SAMPAN_MESSAGING_REPLICAS", "1")),
            )
            with _unless_made():
                await self.js.add_stream(config)
            return
        if missing := set(subjects) - set(info.config.subjects or ()):
            info.config.subjects = [*(info.config.subjects or ()), *sorted(missing)]
            await self.js.update_stream(info.config)

    def _subject(self, message: Message) -> str:
        layout = self.layout(message.topic)
        return f"{layout.name}.{layout.partition(message.key)}" if layout.keyed else layout.name

    async def _replied(self, reply: Msg) -> None:
        future = self._waiting.pop(reply.subject, None)
        if future is not None and not future.done():
            future.set_result(reply.data or b'{"error":{"code":503,"description":"no stream takes it"}}')

    async def _send(self, subject: str, payload: bytes, headers: dict[str, str]) -> asyncio.Future[bytes]:
        """Sends, and returns the future of the acknowledgement."""
        self._number += 1
        reply = f"{self._replies}.{self._number}"
        future = self._waiting[reply] = asyncio.get_running_loop().create_future()
        try:
            await self.client.publish(subject, payload, reply=reply, headers=headers)
        except BaseException:
            self._waiting.pop(reply, None)
            raise
        return future

    async def _store(self, message: Message) -> None:
        await self._put(self._subject(message), message.payload, _outgoing(message))

    async def _put(self, subject: str, payload: bytes, headers: dict[str, str]) -> bytes:
        future = await self._send(subject, payload, headers)
        timer = asyncio.get_running_loop().call_later(STORE_SECONDS, _late, future)
        try:
            data = await future
        finally:
            timer.cancel()
        _stored(data)
        return data

    async def _store_many(self, messages: Sequence[Message]) -> list[bool]:
        futures = [await self._send(self._subject(m), m.payload, _outgoing(m)) for m in messages]
        await asyncio.wait(futures, timeout=STORE_SECONDS)
        return [_good(future) for future in futures]

    async def subscribe(self, topic: str, group: str, sink: Sink, window: int) -> NatsSubscription:
        subscription = NatsSubscription(self, topic, group, sink, window)
        await subscription.open()
        return subscription

    async def lag(self, topic: str, group: str) -> int | None:
        total = 0
        for name in consumer_names(self.layout(topic), group):
            try:
                info = await self.js.consumer_info(topic, name)
            except NotFoundError:
                return None
            total += (info.num_pending or 0) + (info.num_ack_pending or 0)
        return total

    async def set_aside(self, letter: DeadLetter) -> None:
        await self.ensure(DEAD_LETTERS)
        headers = {**to_headers(letter), MESSAGE_ID: letter.id}
        stored = await self._put(f"dlq.{letter.topic}.{letter.group}", letter.payload, headers)
        letter.handle = json.loads(stored)["seq"]  # of a copy, that of the first

    async def dead_letters(self, topic: str, group: str) -> list[DeadLetter]:
        await self.ensure(DEAD_LETTERS)
        letters: list[DeadLetter] = []
        subject, after = f"dlq.{topic}.{group}", 0
        while True:
            try:
                found = await self.js.get_msg(DEAD_LETTERS, after + 1, subject=subject, next=True)
            except NotFoundError:
                return letters
            after = found.seq or 0
            headers = {name.lower(): value for name, value in (found.headers or {}).items()}
            letters.append(from_headers(topic, group, found.data or b"", headers, handle=after))

    async def drop(self, letter: DeadLetter) -> None:
        try:
            await self.js.delete_msg(DEAD_LETTERS, letter.handle)
        except APIError as error:
            if error.err_code not in _GONE:
                raise


def consumer_names(layout: Layout, group: str) -> list[str]:
    return [f"{group}-{number}" for number in range(layout.partitions)] if layout.keyed else [group]


def _outgoing(message: Message) -> dict[str, str]:
    headers = {**message.headers, MESSAGE_ID: message.id}
    if message.key:
        headers[KEY] = message.key
    return headers


def _late(future: asyncio.Future[bytes]) -> None:
    if not future.done():
        future.set_exception(TimeoutError("no acknowledgement"))


def _stored(acknowledgement: bytes) -> None:
    if b'"error"' in acknowledgement and "error" in (reply := json.loads(acknowledgement)):
        raise APIError.from_error(reply["error"])


def _good(future: asyncio.Future[bytes]) -> bool:
    if not future.done():
        future.cancel()
        return False
    try:
        _stored(future.result())
    except (NatsError, TimeoutError):
        return False
    return True


@contextlib.contextmanager
def _unless_made() -> Any:
    try:
        yield
    except APIError as error:
        if error.err_code not in _EXISTS:
            raise


class NatsDelivery(Delivery):
    __slots__ = ("_pull", "_reply", "_subscription")

    def __init__(self, subscription: NatsSubscription, pull: Pull, message: Msg, parts: list[str]) -> None:
        headers = {name.lower(): value for name, value in (message.headers or {}).items()}
        event_id = headers.get("nats-msg-id") or f"{subscription.topic}:{parts[-4]}"
        super().__init__(
            message.data, headers, event_id, key=headers.get(KEY, ""), attempt=int(parts[-5]), lane=pull.name
        )
        self._subscription, self._pull, self._reply = subscription, pull, message.reply

    async def ack(self) -> None:
        await self._settle(b"+ACK")

    async def release(self) -> None:
        await self._settle(b"-NAK")

    async def _settle(self, word: bytes) -> None:
        try:
            await self._subscription.broker.client.publish(self._reply, word)
        finally:
            self._pull.outstanding -= 1
            await self._subscription.pump(self._pull)

    async def heartbeat(self) -> None:
        await self._subscription.broker.client.publish(self._reply, b"+WPI")


@dataclass(slots=True)
class Pull:
    """What one durable consumer owes us: `requested` deliveries until `until`, on time.monotonic()."""

    name: str
    limit: int
    outstanding: int = 0
    requested: int = 0
    until: float = 0.0


class NatsSubscription:
    """Keeps a pull request open at each consumer, for as many events as there is room for."""

    def __init__(self, broker: NatsBroker, topic: str, group: str, sink: Sink, window: int) -> None:
        self.broker, self.topic, self.group, self.sink = broker, topic, group, sink
        self.keyed = broker.layout(topic).keyed
        self._window = window
        names = consumer_names(broker.layout(topic), group)
        self.pulls = {name: Pull(name, 1 if self.keyed else window) for name in names}
        self._inbox: Inbox | None = None
        self._prefix = ""
        self._tending: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()

    @property
    def window(self) -> int:
        return self._window

    @window.setter
    def window(self, amount: int) -> None:
        self._window = amount
        if not self.keyed:
            for pull in self.pulls.values():
                pull.limit = amount

    async def open(self) -> None:
        await self._look_after()
        self._prefix = self.broker.client.new_inbox()
        self._inbox = await self.broker.client.subscribe(f"{self._prefix}.*", cb=self._arrived)
        self.broker.on_reconnect(self._broken.set)
        for pull in self.pulls.values():
            await self.pump(pull)
        self._tending = asyncio.create_task(self._tend(), name=f"pull-{self.topic}-{self.group}")

    async def _look_after(self) -> None:
        """Make the stream and the consumers where they are not there."""
        await self.broker.ensure(self.topic)
        for number, name in enumerate(self.pulls):
            try:
                await self.broker.js.consumer_info(self.topic, name)
            except NotFoundError:
                config = ConsumerConfig(
                    durable_name=name,
                    ack_policy=AckPolicy.EXPLICIT,
                    deliver_policy=DeliverPolicy.ALL,
                    ack_wait=ACK_SECONDS,
                    max_deliver=-1,  # counted by the consumer: the server's limit would drop the event without a word
                    max_ack_pending=1 if self.keyed else 4096,
                    filter_subject=f"{self.topic}.{number}" if self.keyed else None,
                )
                with _unless_made():
                    await self.broker.js.add_consumer(self.topic, config)

    async def pump(self, pull: Pull) -> None:
        """Ask for as many events as there is room for; not for every single one."""
        room = pull.limit - pull.outstanding - pull.requested
        if self._inbox is None or room <= 0 or (pull.requested and room < (pull.limit + 1) // 2):
            return
        pull.requested += room
        pull.until = time.monotonic() + _PULL_SECONDS + 2
        request = b'{"batch":%d,"expires":%d}' % (room, int(_PULL_SECONDS * 1e9))
        with contextlib.suppress(NatsError, OSError):
            await self.broker.client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self.topic}.{pull.name}", request, reply=f"{self._prefix}.{pull.name}"
            )

    async def _arrived(self, message: Msg) -> None:
        if not message.reply.startswith("$JS.ACK."):
            await self._status(message)
            return
        parts = message.reply.split(".")  # ... stream, consumer, deliveries, sequence, consumer's, time, pending
        if len(parts) > 9:  # with domain and account, and perhaps a random token behind
            parts = parts[:11]
        pull = self.pulls[parts[-6]]
        pull.requested = max(0, pull.requested - 1)
        pull.outstanding += 1
        self.sink.deliver(NatsDelivery(self, pull, message, parts))
        await self.pump(pull)

    async def _status(self, message: Msg) -> None:
        """A request has ended: 408 its time, 404 nothing there, 409 and 503 trouble."""
        pull = self.pulls[message.subject.rpartition(".")[2]]
        headers = message.headers or {}
        status, left = headers.get("Status", ""), headers.get("Nats-Pending-Messages")
        if status == "100":
            return
        pull.requested = max(0, pull.requested - int(left)) if left else 0
        if status in ("408", "404"):
            await self.pump(pull)
        else:
            log.debug("consumer %s of %s: %s %s", self.group, self.topic, status, headers.get("Description", ""))
            self._broken.set()

    async def _tend(self) -> None:
        """Ask again where a request was lost; make again what is gone, for instance after a reconnection."""
        wait = 0.05
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._broken.wait()
            try:
                if self._broken.is_set():
                    await self.broker.ready()
                    await asyncio.sleep(wait)
                    self._broken.clear()
                    await self._look_after()
                    for pull in self.pulls.values():
                        pull.requested = 0
                    wait = 0.05
                for pull in self.pulls.values():
                    if pull.requested and time.monotonic() > pull.until:
                        pull.requested = 0
                    await self.pump(pull)
            except (NatsError, OSError, TimeoutError) as error:
                self.broker.trouble(self.topic, self.group, error)
                self._broken.set()
                wait = min(2.0, wait * 2)

    async def close(self) -> None:
        await self.halt()

    async def halt(self) -> None:
        if self._tending is not None:
            await end(self._tending)
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            with contextlib.suppress(NatsError, OSError):
                await inbox.unsubscribe()
