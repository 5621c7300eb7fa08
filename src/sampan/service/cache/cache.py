"""What stands behind a Cache: the level in the process, where one is declared, in front of the one all replicas share;
and `get_or_load`, by which of many callers one loads."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from sampan.model.handles.cache import Local
from sampan.service.bindings import Binding
from sampan.service.cache import entry as entries
from sampan.service.cache.entry import Entry
from sampan.service.cache.local import LocalLevel
from sampan.service.cache.redis import RedisLevel
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.cache")

Load = Callable[[], Awaitable[Any]]

LEASE_SECONDS: Final = 3.0  # how long a loader that died keeps others waiting; renewed while it lives
_JITTER: Final = 0.1
_POLL_SECONDS: Final = (0.005, 0.05)
_WAIT_SECONDS: Final = 30.0  # for a load elsewhere; then one loads oneself

_INCREMENT: Final = """
local n = redis.call('INCRBY', KEYS[1], ARGV[1])
if ARGV[2] ~= '0' and redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return n"""
# the value, or the lock (1), or neither (0)
_VALUE_OR_LOCK: Final = """
local v = redis.call('GET', KEYS[1])
if v then return v end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0"""
# a loader whose lock is gone was overtaken: by a change of the key, or by another loader
_STORE: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1"""
_RENEW: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Keep(NamedTuple):
    """For how many seconds: a value, and that there is none."""

    ttl: float | None
    missing: float

    def seconds(self, value: bytes | None) -> float | None:
        if value is not None:
            return self.ttl
        return self.missing if self.ttl is None else min(self.missing, self.ttl)


def milliseconds(ttl: float | None) -> int | None:
    return None if ttl is None else max(1, int(ttl * 1000))


class TwoLevelCache:
    """Implements `model.bound.BoundCache`."""

    def __init__(
        self, name: str, binding: Binding, registry: Registry, local: Local | None = None, *, writable: bool = True
    ) -> None:
        self.name, self.writable = name, writable
        self.prefix = binding.values.get("prefix", f"{name}:")
        self.level = RedisLevel(name, binding, registry)
        self.requests = self.level.requests
        self.local = None if local is None else LocalLevel(name, local, registry)
        self.loads = registry.counter("cache_loads_total", "Values that were not there.", ("cache", "outcome"))
        self.load_seconds = registry.histogram("cache_load_duration_seconds", "Time per load.", ("cache",))
        self._loading: dict[str, asyncio.Task[bytes | None]] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    # ------------------------------------------------------------------ reading

    async def get(self, key: str, *, type: Any = None) -> Any:
        found = await self._read(key)
        return None if found is None else self._decoded(found.value, type)[1]

    async def _read(self, key: str) -> Entry | None:
        local = self.local
        if local is None:
            return await self._fetch(key)
        found = local.get(key)
        self.requests.add(self.name, "local", "get", "miss" if found is None else "hit")
        if found is not None:
            return found
        token = local.reading(key)
        try:
            found = await self._fetch(key)
        finally:
            local.keep(key, token, found)
        return found

    async def _fetch(self, key: str) -> Entry | None:
        good, stored = await self.level.get(self.prefix + key)
        if not good:
            return None
        if stored is None:
            self.level.count("get", "miss")
            return None
        self.level.count("get", "hit")
        return entries.unpack(stored)

    def _decoded(self, value: bytes | None, type: Any) -> tuple[bool, Any]:
        """Whether it fits `type`, and the value. What another release wrote otherwise is a miss."""
        if value is None:
            return True, None
        try:
            return True, entries.decode(value, type)
        except msgspec.DecodeError:
            self.level.count("get", "unfit")
            return False, None

    async def get_many(self, keys: Iterable[str], *, type: Any = None) -> dict[str, Any]:
        local, found, tokens = self.local, dict[str, Entry](), dict[str, object]()
        wanted = list(dict.fromkeys(keys))
        if local is not None:
            found = {key: entry for key in wanted if (entry := local.get(key)) is not None}
            wanted = [key for key in wanted if key not in found]
            tokens = {key: local.reading(key) for key in wanted}
            self.requests.add(self.name, "local", "get", "hit", amount=len(found))
            self.requests.add(self.name, "local", "get", "miss", amount=len(wanted))
        stored: list[bytes | None] = [None] * len(wanted)
        try:
            stored = await self.level.get_many([self.prefix + key for key in wanted])
        finally:
            for key, value in zip(wanted, stored, strict=True):
                entry = None if value is None else entries.unpack(value)
                if entry is not None:
                    found[key] = entry
                if local is not None:
                    local.keep(key, tokens[key], entry)
        hits = sum(value is not None for value in stored)
        self.level.count("get", "hit", hits)
        self.level.count("get", "miss", len(stored) - hits)
        decoded = ((key, self._decoded(entry.value, type)[1]) for key, entry in found.items())
        return {key: value for key, value in decoded if value is not None}

    # ------------------------------------------------------------------ writing

    def _may_write(self) -> None:
        if not self.writable:
            raise PermissionError(f"this process may only read cache {self.name!r}: declare .read_write() in its uses")

    def _changed(self, *keys: str) -> None:
        if self.local is not None:
            for key in keys:
                self.local.forget(key)

    def _stored(self, value: Any, ttl: float | None) -> bytes:
        """With a local level and a ttl it says when it expires, so that no copy in a process outlives it."""
        encoded = entries.encode(value)
        expires = self.local is not None and ttl is not None
        return entries.pack(Entry(encoded, time.time() + (ttl or 0.0))) if expires else entries.plain(encoded)

    def _lock(self, key: str) -> str:
        """Beside the keys of the prefix: the local levels need not hear of locks."""
        return f"lock:{self.prefix}{key}"

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        await self.set_many({key: value}, ttl)

    async def set_many(self, values: Mapping[str, Any], ttl: float | None = None) -> None:
        self._may_write()
        stored = {key: self._stored(value, ttl) for key, value in values.items()}
        if not stored:
            return

        async def write() -> None:
            pipeline = self.level.redis.pipeline(transaction=False)
            pipeline.delete(*map(self._lock, stored))  # first: a load under way must not overwrite this
            for key, value in stored.items():
                pipeline.set(self.prefix + key, value, px=milliseconds(ttl))
            await pipeline.execute()

        good, _ = await self.level.run("SET", write)
        self._changed(*stored)
        if good:
            self.level.count("set", "ok", len(stored))

    async def delete(self, *keys: str) -> None:
        self._may_write()
        if not keys:
            return
        both = [name for key in keys for name in (self._lock(key), self.prefix + key)]
        good, _ = await self.level.run("DEL", lambda: self.level.redis.delete(*both))
        self._changed(*keys)
        if good:
            self.level.count("delete", "ok", len(keys))

    async def add(self, key: str, value: Any, ttl: float | None = None) -> bool:
        self._may_write()
        stored = self._stored(value, ttl)
        good, done = await self.level.run(
            "SET", lambda: self.level.redis.set(self.prefix + key, stored, px=milliseconds(ttl), nx=True)
        )
        self._changed(key)
        return bool(good and done)

    async def increment(self, key: str, by: int = 1, ttl: float | None = None) -> int | None:
        self._may_write()
        good, value = await self._script("INCRBY", _INCREMENT, [self.prefix + key], by, milliseconds(ttl) or 0)
        self._changed(key)
        return int(value) if good else None

    async def _script(
        self, operation: str, script: str, keys: list[str], *arguments: Any, late: bool = False
    ) -> tuple[bool, Any]:
        return await self.level.run(
            operation,
            lambda: self.level.redis.eval(script, len(keys), *keys, *arguments),
            late=late,
        )

    # ------------------------------------------------------------------ loading

    async def get_or_load(
        self, key: str, load: Load, ttl: float | None = None, *, type: Any = None, missing: float = 5.0
    ) -> Any:
        self._may_write()
        keep, found = Keep(ttl, missing), await self._read(key)
        if found is not None:
            fits, value = self._decoded(found.value, type)
            if fits:
                if found.due() and key not in self._refreshing and key not in self._loading:
                    self._refresh(key, load, keep)
                return value
        loading = self._loading.get(key)
        if loading is None:
            unfit = found is not None
            loading = self._loading[key] = asyncio.create_task(self._load(key, load, keep, unfit))
            loading.add_done_callback(lambda task: self._loaded(key, task))
        else:
            self.loads.add(self.name, "coalesced")
        result = await asyncio.shield(loading)
        if result is not None and type is None:
            return result
        return None if result is None else entries.decode(result, type)

    def _loaded(self, key: str, task: asyncio.Task[bytes | None]) -> None:
        self._loading.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have waited

    async def _load(self, key: str, load: Load, keep: Keep, unfit: bool) -> bytes | None:
        token, lock, pause = os.urandom(12).hex(), self._lock(key), _POLL_SECONDS[0]
        give_up = time.monotonic() + _WAIT_SECONDS
        while not unfit and time.monotonic() < give_up:
            good, got = await self._script(
                "EVAL", _VALUE_OR_LOCK, [self.prefix + key, lock], token, milliseconds(LEASE_SECONDS)
            )
            if isinstance(got, bytes):
                self.loads.add(self.name, "waited")
                return entries.unpack(got).value
            if not good or got == 1:
                return await self._holding(key, token if good else "", load, keep)
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(pause * 1.5, _POLL_SECONDS[1])
        # what is there does not fit, or the other one takes too long: whoever comes loads
        good, _ = await self.level.run("SET", lambda: self.level.redis.set(lock, token, px=milliseconds(LEASE_SECONDS)))
        return await self._holding(key, token if good else "", load, keep)

    async def _holding(self, key: str, token: str, load: Load, keep: Keep) -> bytes | None:
        """Load and store, holding the lock `token`; "" when the server is away, and nothing is stored."""
        started = time.perf_counter()
        renewing = asyncio.create_task(self._renew(key, token)) if token else None
        try:
            loaded = await load()
        except BaseException:
            self.loads.add(self.name, "failed")
            if token:
                await asyncio.shield(self._script("EVAL", _RELEASE, [self._lock(key)], token, late=True))
            raise
        finally:
            if renewing is not None:
                renewing.cancel()
        took = time.perf_counter() - started
        self.load_seconds.observe(took, self.name)
        self.loads.add(self.name, "missing" if loaded is None else "loaded")
        value = None if loaded is None else entries.encode(loaded)
        if token:
            await self._store(key, token, value, took, keep)
        return value

    async def _store(self, key: str, token: str, value: bytes | None, took: float, keep: Keep) -> None:
        seconds = keep.seconds(value)
        if seconds is not None and seconds <= 0:
            await self._script("EVAL", _RELEASE, [self._lock(key)], token, late=True)
            return
        expires = 0.0
        if seconds is not None:
            seconds *= 1.0 - _JITTER * random.random()  # what was loaded together does not expire together
            expires = time.time() + seconds
        stored = entries.pack(Entry(value, expires, took))
        keys = [self.prefix + key, self._lock(key)]
        good, done = await self._script("EVAL", _STORE, keys, token, stored, milliseconds(seconds) or 0, late=True)
        self._changed(key)
        if good and not done:
            self.loads.add(self.name, "overtaken")

    async def _renew(self, key: str, token: str) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            await self._script("EVAL", _RENEW, [self._lock(key)], token, milliseconds(LEASE_SECONDS), late=True)

    def _refresh(self, key: str, load: Load, keep: Keep) -> None:
        """Load again in the background, unless somebody does."""

        async def refresh() -> None:
            token, lock = os.urandom(12).hex(), self._lock(key)
            good, done = await self.level.run(
                "SET", lambda: self.level.redis.set(lock, token, nx=True, px=milliseconds(LEASE_SECONDS))
            )
            if not good or not done:
                return
            try:
                await self._holding(key, token, load, keep)
                self.loads.add(self.name, "early")
            except Exception as error:
                log.warning("cache %s: loading %s early: %s", self.name, key, str(error) or type(error).__name__)

        task = self._refreshing[key] = asyncio.create_task(refresh())
        task.add_done_callback(lambda _: self._refreshing.pop(key, None))

    async def check(self) -> None:
        await self.level.check()

    async def close(self) -> None:
        tasks = [*self._loading.values(), *self._refreshing.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        await self.level.close()
