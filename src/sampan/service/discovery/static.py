"""Instances written down: `static:users=http://10.0.0.1:8080|http://10.0.0.2:8080,prices=http://10.0.0.3:8080`.

The gRPC ports stand beside them: `users=http://10.0.0.1:8080|grpc://10.0.0.1:9090`, or `grpcs://` for TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from sampan.service.bindings import Binding, BindingError
from sampan.service.discovery.port import Instance


class StaticRegistry:
    def __init__(self, binding: Binding) -> None:
        self.place, self.known = "the static list", {}
        for part in filter(None, binding.uri.partition(":")[2].split(",")):
            name, equals, urls = part.strip().partition("=")
            listed = [url.strip().rstrip("/") for url in urls.split("|") if url.strip()]
            if not (name and equals and listed and all(urlsplit(url).hostname for url in listed)):
                raise BindingError(
                    f"SAMPAN_DISCOVERY: {part!r} is not NAME=URL|URL; for instance static:users=http://10.0.0.1:8080"
                )
            self.known[name] = tuple(_instance(name, url) for url in sorted(set(listed)))

    async def register(self, instance: Instance) -> StaticLease:
        return StaticLease()

    async def watch(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        yield self.known.get(service, ())
        await asyncio.Event().wait()

    async def close(self) -> None: ...


def _instance(name: str, url: str) -> Instance:
    scheme, _, place = url.partition("://")
    if scheme in ("grpc", "grpcs"):
        return Instance(name, place, "", grpc=f"{'https' if scheme == 'grpcs' else 'http'}://{place}")
    return Instance(name, place, url)


class StaticLease:
    """Nobody registers in a list, nor in Kubernetes, which knows its pods."""

    seconds = 0.0

    async def renew(self) -> bool:
        return True

    async def end(self) -> None: ...
