"""Instances in etcd: the key /services/NAME/ID holds {"url": ..., "grpc": ..., "metadata": {...}} under a lease.

`etcd://one:2379,two:2379/services` names another root by its path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from sampan.service.bindings import Binding
from sampan.service.coordination.etcd import Compacted, Etcd, EtcdError
from sampan.service.discovery.port import Instance, arranged

LEASE_SECONDS: Final = 10
_NOT_FOUND: Final = 5  # google.rpc.Code


class EtcdRegistry:
    def __init__(self, binding: Binding) -> None:
        self.etcd = Etcd(binding)
        self.place, self.root = self.etcd.address.place, self.etcd.address.path or "/services"
        self.seconds = int(self.etcd.address.options.get("lease", LEASE_SECONDS))

    async def register(self, instance: Instance) -> EtcdLease:
        lease = await self.etcd.grant(self.seconds)
        key = f"{self.root}/{instance.service}/{instance.id}"
        value = {"url": instance.url, "metadata": dict(instance.metadata)}
        value |= {"grpc": instance.grpc} if instance.grpc else {}
        await self.etcd.put(key, msgspec.json.encode(value).decode(), lease)
        return EtcdLease(self.etcd, lease, key, self.seconds)

    async def watch(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        prefix = f"{self.root}/{service}/"
        while True:
            values, revision = await self.etcd.range(prefix, prefix=True)
            found = {key: made for key, value in values.items() if (made := _instance(service, key, value))}
            yield arranged(found)
            try:
                while True:  # a watch that ended for silence goes on where it was
                    async for seen, changes in self.etcd.watch(prefix, revision + 1):
                        revision = seen
                        for key, value in changes.items():
                            found.pop(key, None)
                            if value is not None and (made := _instance(service, key, value)):
                                found[key] = made
                        yield arranged(found)
            except Compacted:
                continue

    async def close(self) -> None:
        await self.etcd.close()


class EtcdLease:
    def __init__(self, etcd: Etcd, lease: int, key: str, seconds: float) -> None:
        self.etcd, self.lease, self.key, self.seconds = etcd, lease, key, seconds

    async def renew(self) -> bool:
        # somebody may have deleted the key while the lease lives on
        return await self.etcd.keep_alive(self.lease) and bool((await self.etcd.range(self.key))[0])

    async def end(self) -> None:
        try:
            await self.etcd.revoke(self.lease)
        except EtcdError as error:
            if error.code != _NOT_FOUND:
                raise


def _instance(service: str, key: str, value: str) -> Instance | None:
    """What others wrote there may be a plain address as well."""
    try:
        found = msgspec.json.decode(value)
        found = {"url": found} if isinstance(found, str) else found
        url, metadata, grpc = found["url"], found.get("metadata") or {}, found.get("grpc") or ""
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        url, metadata, grpc = value.strip(), {}, ""
    url = url if "://" in url else f"http://{url}"
    if len(url) <= len("http://"):
        return None
    return Instance(service, key.rpartition("/")[2], url.rstrip("/"), metadata, grpc)
