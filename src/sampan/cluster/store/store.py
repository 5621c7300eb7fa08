"""The store: every object in memory, every change in the log, recent changes in a window for those who watch.

One revision sequence runs over all tables. Reads are synchronous and see only what is durable. A write is decided by a
function of the present object while no other write to that object is under way, so it never has to be retried.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from sampan.cluster.store.log import Batch, Log, Row
from sampan.kube.errors import ApiError, expired
from sampan.kube.objects import Object, exactly

WINDOW = 8192
"""Changes kept per table for watchers that come late or are slow."""
COMPACT_EVERY = 20_000
"""Revisions between two compactions; the log keeps at least this many changes."""

DECODED_BYTES = 8 << 20
"""Texts of the objects that stay decoded, in bytes, of all stores of a process."""

SCAN = 1024
"""Keys taken from a table's list at a time: who wants one page of many does not copy them all."""

_encoder = msgspec.json.Encoder()
_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


class Entry:
    """One version of an object: JSON bytes, and decoded when asked for. Both are shared: never mutate.

    Decoded, an object takes five times its text: only those asked for lately stay so (`DECODED_BYTES`). An entry
    without text, of a write that is only tried, keeps its object.
    """

    __slots__ = ("_object", "encoded", "key", "revision")

    def __init__(self, key: str, revision: int, encoded: bytes, obj: Object | None = None) -> None:
        self.key = key
        self.revision = revision
        self.encoded = encoded
        self._object = obj
        if obj is not None and encoded:
            _decoded.note(self)

    @property
    def object(self) -> Object:
        obj = self._object
        if obj is None:
            obj = self._object = _decode(self.encoded)
            _decoded.note(self)
        return obj

    def forget(self) -> None:
        self._object = None


class _Decoded:
    """The entries that have their objects, those noted longest ago first; they are let go of when there are many."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._size = 0

    def note(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._size += len(entry.encoded)
        while self._size > DECODED_BYTES:
            oldest = self._entries.popleft()
            self._size -= len(oldest.encoded)
            oldest.forget()


_decoded = _Decoded()


class Event(Struct, frozen=True):
    """One change. `entry` is the object after it (a deleted one: as it was, under the deletion's revision)."""

    revision: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    entry: Entry
    previous: Entry | None


class Remove(Struct, frozen=True):
    """What a write returns to delete; `object` is the object's last state."""

    object: Object


Mutate = Callable[[Entry | None], "Object | Remove | None"]


def _settle(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)


class Table:
    """The objects of one kind, by key (`namespace/name` or `name`), and its window of changes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[str, Entry] = {}
        self.keys: list[str] = []
        self.floor = 0
        """Changes up to this revision are no longer in the window."""
        self._events: list[Event] = []
        self._waiting: dict[asyncio.Future[bool], None] = {}

    def get(self, key: str) -> Entry | None:
        return self.entries.get(key)

    @property
    def last(self) -> int:
        """The revision of the last change in the window."""
        return self._events[-1].revision if self._events else self.floor

    def scan(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """Entries in key order whose key starts with `prefix`, those after the key `after`."""
        at, end = self._range(prefix, after)
        while at < end:
            keys = self.keys[at : min(at + SCAN, end)]
            for key in keys:
                yield self.entries[key]
            at += len(keys)

    def count(self, prefix: str = "", after: str = "") -> int:
        """How many entries `scan` would give."""
        at, end = self._range(prefix, after)
        return max(0, end - at)

    def _range(self, prefix: str, after: str) -> tuple[int, int]:
        """Where in `keys` those with `prefix` that come after `after` begin and end."""
        at = bisect_right(self.keys, after) if after else bisect_left(self.keys, prefix)
        return at, bisect_left(self.keys, prefix + "\U0010ffff") if prefix else len(self.keys)

    def scan_at(self, revision: int, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """`scan` as it would have been at `revision`. Raises ApiError 410 if that is no longer known."""
        later = self.events_after(revision)
        if not later:
            return self.scan(prefix, after)
        then = dict(self.entries)
        for event in reversed(later):
            if event.previous is None:
                then.pop(event.entry.key, None)
            else:
                then[event.entry.key] = event.previous
        return iter([then[key] for key in sorted(then) if key.startswith(prefix) and key > after])

    def events_after(self, revision: int) -> list[Event]:
        """Changes after `revision`, in order. Raises ApiError 410 if some of them are no longer known."""
        if revision < self.floor:
            raise expired(f"too old resource version: {revision} ({self.floor})")
        if not self._events or self._events[-1].revision <= revision:
            return []
        return self._events[bisect_right(self._events, revision, key=lambda event: event.revision) :]

    async def wait(self, timeout: float) -> bool:
        """Until the next change, at most `timeout` seconds; whether there was one."""
        loop = asyncio.get_running_loop()
        # A future and a timer of one's own: of hundreds who wait each costs a few microseconds a change.
        changed: asyncio.Future[bool] = loop.create_future()
        self._waiting[changed] = None
        timer = loop.call_later(timeout, _settle, changed, False)
        try:
            return await changed
        finally:
            timer.cancel()
            self._waiting.pop(changed, None)

    def notify(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for changed in waiting:
            _settle(changed, True)

    def apply(self, event: Event, window: int) -> None:
        key = event.entry.key
        if event.type == "DELETED":
            self.entries.pop(key, None)
            index = bisect_left(self.keys, key)
            if index < len(self.keys) and self.keys[index] == key:
                del self.keys[index]
        else:
            if key not in self.entries:
                if not self.keys or key > self.keys[-1]:
                    self.keys.append(key)
                else:
                    insort(self.keys, key)
            self.entries[key] = event.entry
        self._events.append(event)
        if len(self._events) > window * 2:
            self.forget(self._events[-window - 1].revision)

    def forget(self, revision: int) -> None:
        """Drop changes up to `revision` from the window."""
        self._events = self._events[bisect_right(self._events, revision, key=lambda event: event.revision) :]
        self.floor = max(self.floor, revision)


class Store:
    """All tables over one log. Made by `Store.open` inside a running event loop; used from that loop only."""

    def __init__(self, path: Path, window: int = WINDOW, compact_every: int = COMPACT_EVERY) -> None:
        self._loop = asyncio.get_running_loop()
        self._window = window
        self._compact_every = compact_every
        self._tables: dict[str, Table] = {}
        self._pending: dict[str, asyncio.Future[None]] = {}
        self._wanted: dict[str, dict[str, Object | None]] = {}
        self._tombstones: dict[str, int] = {}
        self._waiting: dict[int, tuple[str, Event, asyncio.Future[Entry]]] = {}
        self._closed = False
        self._log = Log(path, self._hand_over, self._forgotten)
        self.revision, self.compacted, rows = self._log.load()
        self._allocated = self.revision
        self._recover(rows)
        self._log.start()

    @classmethod
    def open(cls, path: Path, window: int = WINDOW, compact_every: int = COMPACT_EVERY) -> Store:
        """Raises sqlite3.Error when `path` is not a usable database."""
        return cls(path, window, compact_every)

    def table(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Table(name)
            table.floor = self.compacted
        return table

    def tables(self) -> list[Table]:
        return list(self._tables.values())

    async def write(self, table: str, key: str, mutate: Mutate) -> Entry | None:
        """Replace the object at `key` by what `mutate` makes of it; the version now stored, None where none is.

        `mutate(entry or None)` returns the whole new object (its own, fresh), `Remove`, or None to leave all as it is;
        an object equal to the stored one changes nothing either. What it raises is passed on. Returns when the write
        is durable and visible. The store sets `metadata.resourceVersion`. Raises ApiError 507 when the disk refuses.
        """
        path = f"{table}:{key}"
        while path in self._pending:
            await asyncio.wait({self._pending[path]})
        if self._closed:
            raise ApiError(503, "ServiceUnavailable", "the API server is shutting down")
        current = self.table(table).get(key)
        made = mutate(current)
        if made is None or (isinstance(made, Remove) and current is None):
            return current
        if current is not None and not isinstance(made, Remove):
            made["metadata"]["resourceVersion"] = str(current.revision)
            if exactly(made, current.object):
                return current
        return await self._append(table, key, current, made)

    async def _append(self, table: str, key: str, current: Entry | None, made: Object | Remove) -> Entry:
        path = f"{table}:{key}"
        removed = isinstance(made, Remove)
        obj = made.object if isinstance(made, Remove) else made
        if "kind" in obj and "apiVersion" in obj:  # these first: lists leave them out by cutting them off
            obj = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], **obj}
        revision = self._allocated + 1
        obj["metadata"]["resourceVersion"] = str(revision)
        entry = Entry(key, revision, _encoder.encode(obj), obj)
        self._allocated = revision
        kind: Literal["ADDED", "MODIFIED", "DELETED"]
        kind = "DELETED" if removed else "ADDED" if current is None else "MODIFIED"
        previous = current.revision if current else self._tombstones.get(path, 0)
        done: asyncio.Future[Entry] = self._loop.create_future()
        gate: asyncio.Future[None] = self._loop.create_future()
        self._pending[path] = gate
        self._wanted.setdefault(table, {})[key] = None if removed else obj
        self._waiting[revision] = (table, Event(revision, kind, entry, current), done)
        self._log.append(Row(revision, path, previous, removed, entry.encoded))
        # A caller that is cancelled leaves; the write itself goes on.
        return await asyncio.shield(done)

    def pending(self, table: str) -> Mapping[str, Object | None]:
        """Writes to a table that are not yet durable: key -> object, None for a deletion."""
        return self._wanted.get(table) or {}

    def _hand_over(self, batch: Batch) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(self._publish, batch)

    def _publish(self, batch: Batch) -> None:
        touched: set[Table] = set()
        for row in batch.rows:
            name, event, done = self._waiting.pop(row.id)
            self._pending.pop(row.key).set_result(None)
            del self._wanted[name][event.entry.key]
            if batch.error is not None:
                if not done.cancelled():
                    done.set_exception(
                        ApiError(507, "InternalError", f"the write could not be stored: {batch.error}; nothing changed")
                    )
                    done.exception()  # a caller that has left is not an error
                continue
            table = self.table(name)
            table.apply(event, self._window)
            touched.add(table)
            self.revision = row.id
            if row.deleted:
                self._tombstones[row.key] = row.id
            else:
                self._tombstones.pop(row.key, None)
            if not done.cancelled():
                done.set_result(event.entry)
        for table in touched:
            table.notify()
        if self.revision - self.compacted >= 2 * self._compact_every:
            self.compact(self.revision - self._compact_every)

    def compact(self, revision: int) -> None:
        """Forget the changes up to `revision`, in memory now and on disk soon: watches from before it get 410."""
        revision = min(revision, self.revision)
        if revision <= self.compacted:
            return
        self.compacted = revision
        for table in self._tables.values():
            table.forget(revision)
        self._log.compact(revision)

    def _forgotten(self, revision: int) -> None:
        def drop() -> None:
            self._tombstones = {path: rev for path, rev in self._tombstones.items() if rev > revision}

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(drop)

    def _recover(self, rows: Iterator[Row]) -> None:
        for row in rows:
            name, _, key = row.key.partition(":")
            table = self.table(name)
            current = table.get(key)
            kind: Literal["ADDED", "MODIFIED", "DELETED"]
            kind = "DELETED" if row.deleted else "ADDED" if current is None else "MODIFIED"
            table.apply(Event(row.id, kind, Entry(key, row.id, row.value), current), self._window)
            if row.deleted:
                self._tombstones[row.key] = row.id
            else:
                self._tombstones.pop(row.key, None)
        for table in self._tables.values():
            table.forget(self.compacted)

    async def close(self) -> None:
        """Finish the writes under way and close the log."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._log.close)
        await asyncio.sleep(0)
        for table in self._tables.values():
            table.notify()
