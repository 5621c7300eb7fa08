"""What every cache back-end must do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sampan.service.bindings import Binding, BindingError
from sampan.service.cache.redis import RedisCache
from sampan.service.telemetry.metrics import Registry


def open_cache(uri: str, registry: Registry | None = None) -> RedisCache:
    return RedisCache("test", Binding("cache-test", uri.partition(":")[0], uri), registry or Registry())


@pytest.fixture
async def cache(redis_server: Any) -> AsyncIterator[RedisCache]:
    cache = open_cache(redis_server.uri)
    yield cache
    await cache.close()


@pytest.fixture
def key() -> str:
    return os.urandom(6).hex()


async def test_get_set_delete(cache: RedisCache, key: str) -> None:
    assert await cache.get(key) is None
    await cache.set(key, b"\x00\xff")
    assert await cache.get(key) == b"\x00\xff"
    await cache.set(key, "text ✓")
    assert await cache.get(key) == "text ✓".encode()
    await cache.delete(key)
    assert await cache.get(key) is None


async def test_ttl_is_in_seconds_and_may_be_a_fraction(cache: RedisCache, key: str) -> None:
    await cache.set(key, b"1", ttl=0.05)
    assert await cache.get(key) == b"1"
    await asyncio.sleep(0.1)
    assert await cache.get(key) is None


async def test_concurrent_callers_share_one_load(cache: RedisCache, key: str) -> None:
    loads = 0

    async def load() -> bytes:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.02)
        return b"loaded"

    assert set(await asyncio.gather(*(cache.get_or_load(key, load, 5) for _ in range(20)))) == {b"loaded"}
    assert loads == 1
    assert await cache.get(key) == b"loaded"


async def test_a_failing_load_fails_its_callers_and_is_tried_again(cache: RedisCache, key: str) -> None:
    async def broken() -> bytes:
        raise LookupError

    async def works() -> bytes:
        return b"ok"

    with pytest.raises(LookupError):
        await cache.get_or_load(key, broken)
    assert await cache.get_or_load(key, works, 5) == b"ok"


async def test_an_outage_is_a_miss_and_ends_with_the_server_back(own_redis: Any) -> None:
    registry = Registry()
    cache = open_cache(own_redis.uri, registry)
    await cache.set("a", b"1")
    own_redis.kill()
    assert await cache.get("a") is None
    await cache.set("a", b"2")
    await cache.delete("a")
    assert cache.requests.value("test", "get", "error") == 1
    with pytest.raises(Exception):  # noqa: B017  # readiness reports it; of what type is the driver's affair
        await cache.check()
    own_redis.start()
    await cache.check()
    await cache.set("a", b"3")
    assert await cache.get("a") == b"3"
    await cache.close()


def test_another_type_of_binding_is_refused() -> None:
    with pytest.raises(BindingError, match="memcached"):
        open_cache("memcached://x")
