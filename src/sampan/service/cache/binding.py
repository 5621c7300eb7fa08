"""Binds a Cache."""

from __future__ import annotations

from sampan.model import Cache
from sampan.service.cache.redis import RedisCache
from sampan.service.process import Process


def bind(process: Process, handle: Cache) -> None:
    cache = RedisCache(handle.name, process.find(handle), process.registry)
    handle.bind(cache)
    process.add_resource(f"cache {handle.name}", cache, lambda: False)
