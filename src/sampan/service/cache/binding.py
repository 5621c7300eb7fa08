"""Binds a Cache."""

from __future__ import annotations

from sampan.model import Cache
from sampan.service.cache.cache import TwoLevelCache
from sampan.service.cache.invalidation import Invalidations
from sampan.service.lifecycle import Stage
from sampan.service.process import Process


def bind(process: Process, handle: Cache) -> None:
    writable = "read_write" in process.accesses(handle)
    cache = TwoLevelCache(handle.name, process.find(handle), process.registry, handle.local, writable=writable)
    handle.bind(cache)
    process.add_resource(f"cache {handle.name}", cache, lambda: False)
    if cache.local is not None:
        news = Invalidations(cache.level, cache.local, cache.prefix)
        process.add(Stage.BACKGROUND, f"invalidations of cache {handle.name}", news)
