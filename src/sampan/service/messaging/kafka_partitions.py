"""How a member of a group reads its partitions on Kafka, and how the next one learns that a member died.

Kafka does not count deliveries. But an offset is committed with a few words of ours, and those count: a member that
begins with a partition notes "somebody is at it", and one that leaves strikes the note out. Who finds a note knows
that the member before ended without a word; what that one may have had in hand has then been given out before, once
for each of the members in a row that ended so. The count is fenced as offsets are, and goes with the partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from sampan.service.messaging.port import Delivery, Sink
from sampan.service.tasks import end, quietly

if TYPE_CHECKING:
    from sampan.service.messaging.kafka import KafkaBroker

log = logging.getLogger("sampan.messaging")

ID: Final = "sampan-id"
_COMMIT_SECONDS: Final = 0.5
_FETCH_SECONDS: Final = 5.0
_IN_HAND: Final = 1024  # so many events from its first on a member may have begun


def headers_of(record: Any) -> dict[str, str]:
    return {name.lower(): value.decode("utf-8", "replace") for name, value in record.headers if value is not None}


class Track:
    """Offsets of one partition: those delivered and not yet handled, and up to where it may be committed.

    `note` is what stood beside the committed offset: "DEAD UNTIL", the members in a row that ended without a word and
    the offset before which they may have had events in hand; "" where the last one left as it should.
    """

    __slots__ = ("committed", "dead", "done", "position", "until", "waiting")

    def __init__(self, first: int, note: str = "") -> None:
        self.waiting: deque[int] = deque()
        self.done: set[int] = set()
        self.position, self.committed = first, -1
        dead, _, until = note.partition(" ")
        self.dead, self.until = (int(dead), int(until)) if dead.isdigit() and until.isdigit() else (0, 0)

    def attempt(self, offset: int) -> int:
        return self.dead + 1 if offset < self.until else 1

    def handled(self, offset: int) -> None:
        self.done.add(offset)
        while self.waiting and self.waiting[0] in self.done:
            first = self.waiting.popleft()
            self.done.discard(first)
            self.position = first + 1

    def commit(self) -> tuple[int, str]:
        """What is committed while we are at it."""
        if self.position >= self.until:
            self.dead, self.until = 0, self.position + _IN_HAND
        return self.position, f"{self.dead + 1} {self.until}"

    def farewell(self) -> tuple[int, str]:
        return self.position, ""


class KafkaDelivery(Delivery):
    __slots__ = ("_offset", "_subscription", "_track")

    def __init__(self, subscription: KafkaSubscription, record: Any, track: Track) -> None:
        headers = headers_of(record)
        lane = f"{record.topic}-{record.partition}"
        key = record.key.decode("utf-8", "replace") if record.key else ""
        event_id = headers.pop(ID, "") or f"{lane}:{record.offset}"
        attempt = track.attempt(record.offset)
        super().__init__(record.value or b"", headers, event_id, key=key, attempt=attempt, lane=lane)
        self._subscription, self._track, self._offset = subscription, track, record.offset

    async def ack(self) -> None:
        self._track.handled(self._offset)
        self._subscription.settled()

    async def release(self) -> None:
        self._subscription.settled()


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]  # has no types
    def __init__(self, broker: KafkaBroker, topic: str, group: str, sink: Sink, window: int) -> None:
        self.broker, self.topic, self.group, self.sink = broker, topic, group, sink
        self._window = window
        self._outstanding = 0
        self._room = asyncio.Event()
        self._fetched = asyncio.Lock()  # held while records are on their way from the client to the sink
        self._tracks: dict[TopicPartition, Track] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._outlived = False  # the consumer has been through an outage
        broker.on_reconnect(self._outlive)
        self._consumer = self._new()

    def _new(self) -> AIOKafkaConsumer:
        settings = self.broker.settings
        return AIOKafkaConsumer(
            **self.broker.common,
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_min_bytes=settings.fetch_min_bytes,
            fetch_max_bytes=settings.fetch_max_bytes,
            max_partition_fetch_bytes=settings.fetch_max_bytes,
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=max(200, settings.session_timeout_ms // 4),
            rebalance_timeout_ms=15_000,
            max_poll_interval_ms=24 * 3600 * 1000,  # a full window is no failure; a stuck loop sends no heartbeats
            request_timeout_ms=16_000,
            retry_backoff_ms=50,
            metadata_max_age_ms=60_000,
        )

    @property
    def window(self) -> int:
        return self._window

    @window.setter
    def window(self, amount: int) -> None:
        self._window = amount
        self._room.set()

    def settled(self) -> None:
        self._outstanding -= 1
        self._room.set()

    def _outlive(self) -> None:
        self._outlived = True
        self._room.set()

    async def open(self) -> None:
        await self._join()
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._commit_often())]

    async def _join(self) -> None:
        self._consumer.subscribe([self.topic], listener=self)
        try:
            await self._consumer.start()
        except BaseException:
            await quietly(self._consumer.stop())
            raise

    async def _join_again(self) -> None:
        """With another consumer: one whose broker has been away may wait for an answer that never comes, or be told
        that it is no member any more and not notice."""
        await self.on_partitions_revoked(list(self._tracks))
        await quietly(self._consumer.stop())
        self._consumer = self._new()
        await self._join()
        self._outlived = False

    async def _pump(self) -> None:
        while True:
            room = self._window - self._outstanding
            if room <= 0 and not self._outlived:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                if self._outlived:
                    await self._join_again()
                    continue
                fetched = await self._fetch(room)
                async with self._fetched:  # taken without a pause after the records
                    await self._begin(fetched)
                    for records in fetched.values():
                        for record in records:
                            self._deliver(record)
                await asyncio.sleep(0)  # whoever waits for the lock comes first
            except self.broker.errors as error:
                self.broker.trouble(self.topic, self.group, error)
                await asyncio.sleep(0.2)
                with contextlib.suppress(*self.broker.errors):
                    await self.broker.ensure(self.topic)

    async def _fetch(self, room: int) -> dict[TopicPartition, list[Any]]:
        """Wait for records, not for long. While partitions change hands the client waits too, without a bound of its
        own and for `on_partitions_revoked`: nothing that takes may be held here."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FETCH_SECONDS):
                fetched: dict[TopicPartition, list[Any]]
                fetched = await self._consumer.getmany(timeout_ms=200, max_records=room)
                return fetched
        return {}

    async def _begin(self, fetched: dict[TopicPartition, list[Any]]) -> None:
        """Before the first event of a partition: what the member before noted, and a note of our own."""
        first = {p: records[0].offset for p, records in fetched.items() if p not in self._tracks}
        if not first:
            return
        try:
            async with asyncio.timeout(10):
                kept = await self.broker.committed(self.group, list(first))
                tracks = {p: Track(offset, kept[p].metadata if p in kept else "") for p, offset in first.items()}
                await self._consumer.commit({p: track.commit() for p, track in tracks.items()})
        except BaseException:
            for partition, records in fetched.items():  # none of these has been delivered
                with contextlib.suppress(*self.broker.errors):
                    self._consumer.seek(partition, records[0].offset)
            raise
        for track in tracks.values():
            track.committed = track.position
        self._tracks |= tracks

    def _deliver(self, record: Any) -> None:
        track = self._tracks[TopicPartition(record.topic, record.partition)]
        track.waiting.append(record.offset)
        self._outstanding += 1
        self.sink.deliver(KafkaDelivery(self, record, track))

    async def on_partitions_revoked(self, revoked: Any) -> None:
        async with self._fetched:
            await self.sink.revoke({f"{p.topic}-{p.partition}" for p in revoked})
            await self._commit(leaving=revoked)
            for partition in revoked:
                track = self._tracks.pop(partition, None)
                if track is not None:
                    self._outstanding -= len(track.waiting) - len(track.done)
                    track.waiting.clear()
            self._room.set()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        log.debug("consumer %s of %s has %s", self.group, self.topic, sorted(p.partition for p in assigned))

    async def _commit(self, leaving: Any = ()) -> None:
        going = {p: t for p, t in self._tracks.items() if p in leaving}
        new = {p: t for p, t in self._tracks.items() if t.position > t.committed or p in going}
        if not new:
            return
        try:
            async with asyncio.timeout(5):
                await self._consumer.commit({p: t.farewell() if p in going else t.commit() for p, t in new.items()})
        except self.broker.errors as error:  # they come again
            log.info("offsets of %s in %s not committed: %s", self.group, self.topic, error or type(error).__name__)
            return
        for track in new.values():
            track.committed = track.position

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_SECONDS)
            await self._commit()

    async def halt(self) -> None:
        pump = self._tasks.pop(0)
        await end(pump)

    async def close(self) -> None:
        await end(*self._tasks)
        await self._commit(leaving=list(self._tracks))
        await quietly(self._consumer.stop())
