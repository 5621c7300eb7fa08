"""The level inside the process: bounded in entries, bytes and age; emptied while news of changes cannot come."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from sampan.model.handles.cache import Local
from sampan.service.cache.entry import Entry
from sampan.service.telemetry.metrics import Registry

_OVERHEAD: Final = 200  # bytes an entry costs beside key and value, about


class LocalLevel:
    """Entries in the order of their last use. It is `open` only while it hears of changes.

    A read of the server begins with `reading(key)` and may keep what it found only if `keep` still knows its token: a
    change that was told in between has taken it away.
    """

    def __init__(self, name: str, limits: Local, registry: Registry) -> None:
        self.name, self.limits = name, limits
        self.bytes = 0
        self.open = False
        self._entries: OrderedDict[str, tuple[float, int, Entry]] = OrderedDict()
        self._reading: dict[str, object] = {}
        evictions = ("cache", "reason")
        self.evictions = registry.counter("cache_local_evictions_total", "Entries taken from the process.", evictions)
        self.entries_gauge = registry.gauge("cache_local_entries", "Entries kept in the process.", ("cache",))
        self.bytes_gauge = registry.gauge("cache_local_bytes", "Bytes kept in the process, about.", ("cache",))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] <= time.monotonic():
            self._remove(key, "age")
            return None
        self._entries.move_to_end(key)
        return found[2]

    def reading(self, key: str) -> object:
        return self._reading.setdefault(key, object())

    def keep(self, key: str, token: object, entry: Entry | None) -> None:
        """Keep what a read found, for no longer than the entry itself lasts."""
        if self._reading.get(key) is not token:
            return
        del self._reading[key]
        if entry is None or not self.open:
            return
        seconds = self.limits.seconds
        if entry.expires:
            seconds = min(seconds, entry.expires - time.time())
        size = len(key) + len(entry.value or b"") + _OVERHEAD
        if seconds <= 0 or size > self.limits.bytes:
            return
        if key in self._entries:
            self.bytes -= self._entries.pop(key)[1]
        self._entries[key] = (time.monotonic() + seconds, size, entry)
        self.bytes += size
        while len(self._entries) > self.limits.entries or self.bytes > self.limits.bytes:
            self._remove(next(iter(self._entries)), "size")
        self._tell()

    def forget(self, key: str, reason: str = "changed") -> None:
        """`key` has changed."""
        self._reading.pop(key, None)
        if key in self._entries:
            self._remove(key, reason)

    def clear(self, reason: str) -> None:
        self._reading.clear()
        if self._entries:
            self.evictions.add(self.name, reason, amount=len(self._entries))
        self._entries.clear()
        self.bytes = 0
        self._tell()

    def _remove(self, key: str, reason: str) -> None:
        self.bytes -= self._entries.pop(key)[1]
        self.evictions.add(self.name, reason)
        self._tell()

    def _tell(self) -> None:
        self.entries_gauge.set(len(self._entries), self.name)
        self.bytes_gauge.set(self.bytes, self.name)
