"""NATS JetStream: one connection, a stream per topic, a dead-letter stream.

The connection is made in the background and for ever again; streams are made when first needed, and looked
after again when the server has been away, since it may have come back empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from sampan.service.bindings import Binding
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.messaging")

MESSAGE_ID: Final = "Nats-Msg-Id"
DEAD_LETTERS: Final = "DLQ"
_DUPLICATE_SECONDS: Final = 600.0
_KEEP_SECONDS: Final = 7 * 86400.0
_ACK_SECONDS: Final = 2.0
_PUBLISH_SECONDS: Final = 10.0


class PublishError(Exception):
    """The broker did not store the event in time; whether a later copy of it exists is unknown."""

    http_status = 503


def dead_letter_subject(topic: str, group: str) -> str:
    return f"dlq.{topic}.{group}"


class Broker:
    def __init__(self, binding: Binding, registry: Registry, name: str = "sampan") -> None:
        self.uri, self.name = binding.uri, name
        self.values = binding.values
        self.client = Client()
        self.js: JetStreamContext = self.client.jetstream(timeout=_ACK_SECONDS)
        self.connected_once = False
        self.published = registry.counter("messages_published_total", "Events stored by the broker.", ("topic",))
        self._ensured: set[str] = set()
        self._ensuring = asyncio.Lock()
        self._on_reconnect: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._connect(), name="broker")

    async def _connect(self) -> None:
        wait, said = 0.02, False
        while True:
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
                    ping_interval=10,
                    max_outstanding_pings=2,
                    error_cb=self._error,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                )
            except (NatsError, OSError, TimeoutError) as error:
                if not said:
                    log.warning("broker not reachable yet: %s", error)
                    said = True
                with contextlib.suppress(Exception):
                    await self.client.close()
                self.client = Client()
                self.js = self.client.jetstream(timeout=_ACK_SECONDS)
                await asyncio.sleep(wait)
                wait = min(1.0, wait * 1.5)
            else:
                self.connected_once = True
                self._ready.set()
                return

    async def _error(self, error: Exception) -> None:
        log.debug("broker connection: %s: %s", type(error).__name__, error)

    async def _disconnected(self) -> None:
        if not self.client.is_closed:
            self._ready.clear()
            log.warning("broker connection lost")

    async def _reconnected(self) -> None:
        log.warning("broker connection restored")
        self._ensured.clear()
        self._ready.set()
        for callback in self._on_reconnect:
            callback()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._on_reconnect.append(callback)

    @property
    def connected(self) -> bool:
        return self._ready.is_set() and self.client.is_connected

    async def ready(self) -> None:
        """Wait for the connection."""
        await self._ready.wait()

    async def check(self) -> None:
        if not self.connected:
            raise ConnectionError("not connected to the broker")

    async def ensure(self, topic: str) -> None:
        """Make the stream of `topic` (or the dead-letter stream) if it is not there; settings are left alone."""
        if topic in self._ensured:
            return
        async with self._ensuring:
            if topic in self._ensured:
                return
            try:
                await self.js.stream_info(topic)
            except NotFoundError:
                replicas = int(os.environ.get("SAMPAN_MESSAGING_REPLICAS", "1"))
                config = StreamConfig(
                    name=topic,
                    subjects=["dlq.>"] if topic == DEAD_LETTERS else [topic],
                    retention=RetentionPolicy.LIMITS,
                    storage=StorageType.FILE,
                    max_age=4 * _KEEP_SECONDS if topic == DEAD_LETTERS else _KEEP_SECONDS,
                    duplicate_window=_DUPLICATE_SECONDS,
                    num_replicas=replicas,
                )
                try:
                    await self.js.add_stream(config)
                except APIError as error:
                    if error.err_code != 10058:  # somebody else made it in the meantime
                        raise
            self._ensured.add(topic)

    async def publish(self, topic: str, payload: bytes, headers: dict[str, str], *, subject: str = "") -> None:
        """Returns when the broker has stored the event. Repeats carry the same message id, so that one copy is kept.

        PublishError when that took more than 10 s.
        """
        give_up = time.monotonic() + _PUBLISH_SECONDS
        wait, last = 0.02, "not connected to the broker"
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + give_up - time.monotonic()):
                    await self.ready()
                    await self.ensure(topic)
                    await self.js.publish(subject or topic, payload, headers=dict(headers), timeout=_ACK_SECONDS)
                self.published.add(topic)
                return
            except (NatsError, OSError, TimeoutError) as error:
                last = f"{type(error).__name__}: {error}" if str(error) else last
                self._ensured.discard(topic)
            if time.monotonic() + wait >= give_up:
                raise PublishError(f"event for topic {topic!r} was not stored within {_PUBLISH_SECONDS:g} s: {last}")
            await asyncio.sleep(wait)
            wait = min(0.5, wait * 2)

    async def publish_many(self, events: list[tuple[str, bytes, dict[str, str]]]) -> list[bool]:
        """Send all in order without waiting in between, then collect the acknowledgements: which were stored."""
        if not self.connected:
            return [False] * len(events)
        acks: list[asyncio.Future[PubAck] | None] = []
        for topic, payload, headers in events:
            try:
                await self.ensure(topic)
                acks.append(await self.js.publish_async(topic, payload, headers=dict(headers)))
            except (NatsError, OSError, TimeoutError) as error:
                log.debug("publishing to %s: %s", topic, error)
                acks.append(None)
        waiting = [ack for ack in acks if ack is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=_ACK_SECONDS)
        stored = [ack is not None and ack.done() and not ack.cancelled() and ack.exception() is None for ack in acks]
        for (topic, _, _), good in zip(events, stored, strict=True):
            if good:
                self.published.add(topic)
            else:
                self._ensured.discard(topic)
        for ack in waiting:
            if not ack.done():
                ack.cancel()
        return stored

    async def close(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                if self.client.is_connected:
                    await self.client.flush(1)
                await self.client.close()
