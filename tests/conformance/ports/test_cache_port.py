"""What a cache must do, on a real server: alone, with a level in the process, and from several replicas."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from sampan.model import Local
from sampan.service.bindings import Binding, BindingError
from sampan.service.cache import cache as caching
from sampan.service.cache import redis
from sampan.service.cache.cache import TwoLevelCache
from sampan.service.cache.local import LocalLevel
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, Context
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.caches import Replica, replicas, until
from tests.faults import FaultProxy

pytestmark = pytest.mark.usefixtures("patient_cache")


class Price(msgspec.Struct):
    product: int
    cents: int


@pytest.fixture(params=["redis", "local"])
async def cache(redis_server: Any, request: pytest.FixtureRequest) -> AsyncIterator[TwoLevelCache]:
    async with replicas(1, redis_server.uri, Local() if request.param == "local" else None) as (replica,):
        yield replica.cache


@pytest.fixture
def key() -> str:
    return os.urandom(6).hex()


class Loads:
    """A load that counts; `gate` holds it."""

    def __init__(self, *values: Any) -> None:
        self.values, self.count = list(values), 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Any:
        value = self.values[min(self.count, len(self.values) - 1)]
        self.count += 1
        await self.gate.wait()
        if isinstance(value, Exception):
            raise value
        return value


async def test_get_set_delete(cache: TwoLevelCache, key: str) -> None:
    assert await cache.get(key) is None
    await cache.set(key, b"\x00\xff")
    assert await cache.get(key) == await cache.get(key) == b"\x00\xff"
    await cache.set(key, "text ✓")
    assert await cache.get(key) == "text ✓".encode()
    await cache.delete(key)
    assert await cache.get(key) is None


async def test_typed_values(cache: TwoLevelCache, key: str) -> None:
    await cache.set(key, Price(1, 250))
    assert await cache.get(key, type=Price) == Price(1, 250)
    assert await cache.get(key) == b'{"product":1,"cents":250}'
    await cache.set(key, b"not JSON")
    assert await cache.get(key, type=Price) is None
    assert await cache.get_or_load(key, Loads(Price(2, 3)), 5, type=Price) == Price(2, 3)
    assert await cache.get(key, type=Price) == Price(2, 3)


async def test_a_value_that_looks_like_a_header_is_kept_as_it_is(cache: TwoLevelCache, key: str) -> None:
    awkward = b"\x00s\xc1\x01" + bytes(40)
    await cache.set(key, awkward)
    assert await cache.get(key) == awkward


async def test_ttl_is_in_seconds_and_may_be_a_fraction(cache: TwoLevelCache, key: str) -> None:
    began = time.monotonic()
    await cache.set(key, b"1", ttl=0.3)
    assert await cache.get(key) == b"1" or time.monotonic() - began > 0.3
    await asyncio.sleep(0.4)
    assert await cache.get(key) is None


async def test_many_at_once(cache: TwoLevelCache, key: str) -> None:
    await cache.set_many({f"{key}{n}": Price(n, n) for n in range(300)}, ttl=30)
    found = await cache.get_many([f"{key}{n}" for n in range(250, 310)], type=Price)
    assert found == {f"{key}{n}": Price(n, n) for n in range(250, 300)}
    together = await asyncio.gather(*(cache.get(f"{key}{n}", type=Price) for n in range(305)))
    assert together == [Price(n, n) for n in range(300)] + [None] * 5
    await cache.delete(*(f"{key}{n}" for n in range(300)))
    assert await cache.get_many([f"{key}{n}" for n in range(300)]) == {}


async def test_add_and_increment(cache: TwoLevelCache, key: str) -> None:
    assert await cache.add(key, b"first", 30)
    assert not await cache.add(key, b"second", 30)
    assert await cache.get(key) == b"first"
    results = await asyncio.gather(*(cache.increment(f"{key}n", 2, ttl=30) for _ in range(20)))
    assert sorted(n for n in results if n is not None) == list(range(2, 42, 2))
    assert await cache.get(f"{key}n", type=int) == 40
    assert 0 < await cache.level.redis.pttl(f"test:{key}n") <= 30_000
    with pytest.raises(ValueError, match="not an integer"):
        await cache.increment(key)


async def test_one_load_for_all_callers_of_all_replicas(redis_server: Any, key: str) -> None:
    load = Loads(Price(1, 2))
    load.gate.clear()
    async with replicas(3, redis_server.uri) as three:
        asked = [asyncio.create_task(replica.cache.get_or_load(key, load, 30, type=Price)) for replica in three * 10]
        await until(lambda: sum(replica.loads("coalesced") for replica in three) == 27)
        load.gate.set()
        results = await asyncio.gather(*asked)
        assert results == [Price(1, 2)] * 30
        assert len({id(result) for result in results}) == 30  # nobody can change another's
        assert load.count == 1
        assert sum(replica.loads("waited") for replica in three) == 2
        assert three[0].cache.load_seconds.count("test") + three[1].cache.load_seconds.count("test") <= 1


async def test_a_failing_load_fails_its_callers_and_is_tried_again(cache: TwoLevelCache, key: str) -> None:
    load = Loads(LookupError("gone"), b"ok")
    with pytest.raises(LookupError):
        await cache.get_or_load(key, load)
    assert await cache.get_or_load(key, load, 5) == b"ok"


async def test_that_there_is_nothing_is_remembered_for_a_shorter_time(cache: TwoLevelCache, key: str) -> None:
    load = Loads(None, b"now")
    assert await cache.get_or_load(key, load, 60, missing=0.5) is None
    assert await cache.get_or_load(key, load, 60, missing=0.5) is None
    assert await cache.get(key) is None
    assert load.count == 1
    await asyncio.sleep(0.6)
    assert await cache.get_or_load(key, load, 60) == b"now"
    other = Loads(None)
    for _ in range(2):
        assert await cache.get_or_load(f"{key}2", other, 60, missing=0) is None
    assert other.count == 2


async def test_expiry_is_spread_and_never_later_than_asked(cache: TwoLevelCache, key: str) -> None:
    for n in range(20):
        await cache.get_or_load(f"{key}{n}", Loads(b"1"), 100)
    left = [await cache.level.redis.pttl(f"test:{key}{n}") / 1000 for n in range(20)]
    assert 85 < min(left) < max(left) <= 100
    assert max(left) - min(left) > 1


async def test_a_value_that_is_asked_for_is_loaded_again_before_it_expires(cache: TwoLevelCache, key: str) -> None:
    load = Loads(b"old", b"new")
    load.gate.clear()
    asked = asyncio.create_task(cache.get_or_load(key, load, 2.0))
    await asyncio.sleep(0.4)  # it takes long: it is worth beginning early
    load.gate.set()
    assert await asked == b"old"
    async with asyncio.timeout(10):
        while (found := await cache.get_or_load(key, load, 2.0)) == b"old":
            assert await cache.get(key) is not None or load.count > 1  # nobody ever waits for a load
            await asyncio.sleep(0.01)
    assert found == b"new"


@pytest.mark.parametrize("change", ["set", "delete"])
async def test_a_change_overtakes_the_load_under_way(cache: TwoLevelCache, key: str, change: str) -> None:
    load = Loads(b"stale")
    load.gate.clear()
    asked = asyncio.create_task(cache.get_or_load(key, load, 30))
    await until(lambda: load.count == 1)
    await (cache.set(key, b"fresh", 30) if change == "set" else cache.delete(key))
    load.gate.set()
    assert await asked == b"stale"  # it was asked before the change
    assert await cache.get(key) == (b"fresh" if change == "set" else None)
    assert cache.loads.value("test", "overtaken") == 1


async def test_a_dead_loader_blocks_nobody_for_longer_than_its_lease(
    redis_server: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "LEASE_SECONDS", 0.5)
    async with replicas(1, redis_server.uri) as (replica,):
        await replica.cache.level.redis.set(f"lock:test:{key}", "of the dead", px=500)
        assert await replica.cache.get_or_load(key, Loads(b"1"), 5) == b"1"


async def test_a_slow_loader_keeps_its_lock(redis_server: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "LEASE_SECONDS", 0.6)
    load = Loads(b"1")
    load.gate.clear()
    async with replicas(2, redis_server.uri) as (first, second):
        asked = [asyncio.create_task(r.cache.get_or_load(key, load, 30)) for r in (first, second)]
        await asyncio.sleep(1.5)
        load.gate.set()
        assert await asyncio.gather(*asked) == [b"1", b"1"]
    assert load.count == 1


async def test_a_caller_that_gives_up_takes_nobody_with_it(cache: TwoLevelCache, key: str) -> None:
    load = Loads(b"1")
    load.gate.clear()
    first, second = (asyncio.create_task(cache.get_or_load(key, load, 30)) for _ in range(2))
    await until(lambda: load.count == 1)
    first.cancel()
    load.gate.set()
    assert await second == b"1"
    assert load.count == 1


def hit_locally(replica: Replica) -> bool:
    return replica.count("local", "get", "hit") >= 1


def not_stale(local: LocalLevel, key: str) -> bool:
    entry = local.get(key)
    return entry is None or entry.value == b"2"


async def test_other_replicas_hear_of_a_change(redis_server: Any, key: str) -> None:
    async with replicas(3, redis_server.uri, Local(seconds=60)) as three:
        await three[0].cache.set(key, b"1", 60)
        for replica in three:
            assert [await replica.cache.get(key) for _ in range(3)] == [b"1"] * 3
            await until(functools.partial(hit_locally, replica))
        await three[1].cache.set(key, b"2", 60)
        assert await three[1].cache.get(key) == b"2"  # who writes reads it at once
        for replica in three:
            local = replica.cache.local
            assert local is not None
            await until(functools.partial(not_stale, local, key))
            assert await replica.cache.get(key) == b"2"
        await three[0].cache.level.redis.delete(f"test:{key}")  # another program
        await until(lambda: all(r.cache.local is not None and r.cache.local.get(key) is None for r in three))
        assert [await replica.cache.get(key) for replica in three] == [None] * 3


async def test_local_hits_do_not_ask_the_server(own_redis: Any) -> None:
    async with replicas(1, own_redis.uri, Local(seconds=60)) as (replica,):
        await replica.cache.set("a", b"1", 60)
        await until(lambda: replica.cache.local is not None and not replica.cache.local._reading)
        async with asyncio.timeout(10):
            while replica.count("local", "get", "hit") == 0:
                assert await replica.cache.get("a") == b"1"
        asked = replica.count("redis", "get", "hit")
        for _ in range(100):
            assert await replica.cache.get("a") == b"1"
        assert replica.count("redis", "get", "hit") == asked


async def test_without_news_of_changes_nothing_is_kept_in_the_process(own_redis: Any) -> None:
    async with replicas(1, own_redis.uri, Local(seconds=60)) as (replica,):
        local = replica.cache.local
        assert local is not None
        await replica.cache.set("a", b"1", 60)
        async with asyncio.timeout(10):
            while not len(local):
                await replica.cache.get("a")
        own_redis.kill()
        await until(lambda: not local.open and not len(local))
        assert await replica.cache.get("a") is None
        own_redis.start()
        await until(lambda: local.open)


async def test_an_outage_is_a_miss_and_ends_with_the_server_back(own_redis: Any) -> None:
    async with replicas(1, own_redis.uri) as (replica,):
        cache = replica.cache
        await cache.set("a", b"1")
        own_redis.kill()
        assert await cache.get("a") is None
        await cache.set("a", b"2")
        await cache.delete("a")
        assert not await cache.add("a", b"3")
        assert await cache.increment("n") is None
        assert await cache.get_many(["a"]) == {}
        assert await asyncio.gather(*(cache.get("a") for _ in range(5))) == [None] * 5
        load = Loads(b"loaded")
        assert await asyncio.gather(*(cache.get_or_load("k", load, 5) for _ in range(5))) == [b"loaded"] * 5
        assert load.count == 1
        assert replica.count("redis", "GET", "error") == 1
        assert replica.count("redis", "SET", "skipped") >= 1
        with pytest.raises(Exception):  # noqa: B017  # readiness reports it; of what type is the driver's affair
            await cache.check()
        own_redis.start()
        await cache.check()
        await cache.set("a", b"3")
        assert await cache.get("a") == b"3"


async def test_resets_are_misses_and_nothing_stale_is_kept(redis_server: Any, key: str) -> None:
    with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
        through = f"redis://127.0.0.1:{proxy.port}/0"
        async with replicas(1, through, Local(seconds=60)) as (near,), replicas(1, redis_server.uri) as (far,):
            for number in range(5):
                await far.cache.set(key, b"%d" % number, 60)
                if number == 3:
                    proxy.reset_after(20)  # in the middle of an answer
                async with asyncio.timeout(20):
                    while (found := await near.cache.get(key)) != b"%d" % number:
                        assert found is None or found == b"%d" % (number - 1)  # the news are on their way
                proxy.reset_all()
                assert await near.cache.get(key) in (None, b"%d" % number)


async def test_a_server_whose_memory_is_full_stores_nothing_and_fails_nobody(own_redis: Any) -> None:
    async with replicas(1, own_redis.uri) as (replica,):
        cache = replica.cache
        await cache.set("before", b"1", 60)
        await cache.level.redis.config_set("maxmemory", "1")
        await cache.set("after", b"2", 60)
        assert replica.count("redis", "SET", "error") == 1
        await asyncio.sleep(1.1)  # an error keeps the server alone for a second
        assert await cache.get("before") == b"1"
        assert await cache.get_or_load("after", Loads(b"3"), ttl=60) == b"3"
        await cache.level.redis.config_set("maxmemory", "0")
        await asyncio.sleep(1.1)
        await cache.set("after", b"4", 60)
        assert await cache.get("after") == b"4"


async def test_a_half_open_connection_costs_half_a_second_and_closes_the_local_level(
    redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
        async with replicas(1, f"redis://127.0.0.1:{proxy.port}/0", Local(seconds=60)) as (replica,):
            await replica.cache.set("half-open", b"1", 60)
            async with asyncio.timeout(10):
                while replica.count("local", "get", "hit") == 0:
                    await replica.cache.get("half-open")
            monkeypatch.setattr(redis, "SECONDS", 0.5)
            proxy.blackhole = True
            local = replica.cache.local
            await until(lambda: local is not None and not local.open)
            assert await replica.cache.get("half-open") is None
            assert replica.count("redis", "GET", "error") == 1
            monkeypatch.setattr(redis, "SECONDS", 10.0)
            proxy.blackhole = False
            proxy.reset_all()
            for _ in range(100):
                if await replica.cache.get("half-open") == b"1":
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("the cache did not come back")


async def test_it_never_waits_past_the_deadline_of_the_request(redis_server: Any) -> None:
    with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
        async with replicas(1, f"redis://127.0.0.1:{proxy.port}/0") as (replica,):
            await replica.cache.set("slow", b"1", 60)
            proxy.latency = 0.04
            token = CURRENT.set(Context("1" * 32, "2" * 16, deadline=time.monotonic() + 0.03))
            assert await asyncio.gather(*(replica.cache.get("slow") for _ in range(3))) == [None] * 3
            assert await replica.cache.get("slow") is None
            CURRENT.reset(token)
            assert replica.count("redis", "GET", "deadline") + replica.count("redis", "GET", "error") == 4
            assert await replica.cache.get("slow") == b"1"  # who had the time was not kept from it


async def test_operations_are_spans_with_the_names_of_the_semantic_conventions(redis_server: Any, key: str) -> None:
    async with replicas(1, redis_server.uri, Local(seconds=60)) as (replica,):
        trace = os.urandom(16).hex()
        token = CURRENT.set(Context(trace, "2" * 16))
        await replica.cache.set(key, b"secret value", 60)
        async with asyncio.timeout(10):
            while replica.count("local", "get", "hit") == 0:
                await replica.cache.get(key)
        CURRENT.reset(token)
        spans = [span for span in tracing.RECORDED if span.context is not None and span.context.trace_id == trace]
        assert [span.name for span in spans[:2]] == ["SET", "GET"]
        assert len(spans) == 1 + replica.count("local", "get", "miss")  # none for what the process knew
        assert {**spans[1].attributes, "server.port": 0} == {
            "db.system.name": "redis",
            "db.operation.name": "GET",
            "db.namespace": "0",
            "server.address": "127.0.0.1",
            "server.port": 0,
        }


async def test_a_process_with_a_read_grant_cannot_write(redis_server: Any) -> None:
    cache = TwoLevelCache("test", Binding("c", "redis", redis_server.uri), Registry(), writable=False)
    for write in (cache.set("a", b""), cache.delete("a"), cache.add("a", b""), cache.increment("a")):
        with pytest.raises(PermissionError, match="read_write"):
            await write
    assert await cache.get("a-key") is None
    await cache.close()


async def test_the_prefix_is_the_cache_name_or_the_bindings(redis_server: Any, key: str) -> None:
    mine, theirs = Replica(redis_server.uri), Replica(redis_server.uri, prefix="shared/")
    await mine.cache.set(key, b"1", 5)
    assert await theirs.cache.get(key) is None
    await theirs.cache.set(key, b"2", 5)
    assert await mine.cache.level.redis.mget(f"test:{key}", f"shared/{key}") == [b"1", b"2"]
    await mine.stop()
    await theirs.stop()


def test_another_type_of_binding_is_refused() -> None:
    with pytest.raises(BindingError, match="memcached"):
        Replica("memcached://x")
