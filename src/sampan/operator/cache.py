"""Informers shared by all controllers of a process, and the client whose writes they see at once.

Guarantee: after `await cache.client.create(...)` (or update, patch, apply, delete) returns, the unfiltered informers
of that resource hold the result. A reconciler that lists its children from the cache never misses one it has just
made, so it needs no expectations and no waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from sampan.kube.client import Client
from sampan.kube.informer import Index, Informer
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, controller_of, is_deleting
from sampan.kube.transport import MERGE_PATCH, Transport

OWNER = "owner"
"""The index every informer here has: uid of the controlling owner."""


def by_owner(obj: Object) -> list[str]:
    reference = controller_of(obj)
    return [reference["uid"]] if reference else []


class Cache:
    """One informer per (resource, namespace, selectors). Informers asked for after `start` start at once. `trim` is
    every informer's: what it leaves out of an object (in a copy) is never kept."""

    def __init__(self, client: Client, trim: Callable[[Object], Object] | None = None) -> None:
        self._trim = trim
        self.client = ObservingClient(client.transport, self)
        self._reading = client
        self._informers: dict[tuple[Resource, str | None, str, str], Informer] = {}
        self._started = False

    def informer(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        indexes: Mapping[str, Index] | None = None,
    ) -> Informer:
        """The shared informer, made on first request; `indexes` are added to it."""
        identity = (resource, namespace, labels, fields)
        informer = self._informers.get(identity)
        if informer is None:
            informer = Informer(
                self._reading, resource, namespace=namespace, labels=labels, fields=fields, trim=self._trim
            )
            informer.add_index(OWNER, by_owner)
            self._informers[identity] = informer
            if self._started:
                informer.start()
        for name, index in (indexes or {}).items():
            informer.add_index(name, index)
        return informer

    async def drop(self, resource: Resource) -> None:
        """Stop following a resource that no longer exists."""
        for identity in [identity for identity in self._informers if identity[0] == resource]:
            await self._informers.pop(identity).stop()

    async def start(self, timeout: float | None = 60.0) -> None:
        """Start every informer and wait until all hold their first list. Raises TimeoutError naming those that do
        not."""
        self._started = True
        informers = list(self._informers.values())
        for informer in informers:
            informer.start()
        try:
            async with asyncio.timeout(timeout):
                for informer in informers:
                    await informer.wait_synced()
        except TimeoutError:
            missing = ", ".join(i.resource.plural for i in informers if not i.synced)
            raise TimeoutError(f"no first list of {missing} within {timeout} s") from None

    async def stop(self) -> None:
        self._started = False
        await asyncio.gather(*(informer.stop() for informer in self._informers.values()))

    def following(self, resource: Resource, namespace: str | None) -> list[Informer]:
        """The informers that certainly hold every object of `resource` in `namespace`."""
        return [
            informer
            for (kind, scope, labels, fields), informer in self._informers.items()
            if kind == resource and not labels and not fields and scope in (None, namespace)
        ]

    def observe(self, resource: Resource, obj: Object) -> None:
        """Fold in the answer to a write: the object as it is now, or its last state when it has just ceased to
        exist."""
        for informer in self.following(resource, obj["metadata"].get("namespace")):
            if has_ended(obj):
                informer.observe_gone(obj)
            else:
                informer.observe(obj)


def has_ended(obj: Object) -> bool:
    """Whether the server, answering with this object, has removed it: deleting, and nothing holds it any more."""
    metadata = obj["metadata"]
    held = metadata.get("finalizers") or (obj.get("spec") or {}).get("finalizers")
    return is_deleting(obj) and not held and not metadata.get("deletionGracePeriodSeconds")


class ObservingClient(Client):
    """A client that folds the result of each write into the cache. Reads go to the server; read from informers."""

    def __init__(self, transport: Transport, cache: Cache) -> None:
        super().__init__(transport)
        self._cache = cache

    async def create(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, dry_run: bool = False
    ) -> Object:
        answer = await super().create(resource, obj, subresource=subresource, dry_run=dry_run)
        return answer if dry_run or subresource else self._seen(resource, answer)

    async def update(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, dry_run: bool = False
    ) -> Object:
        answer = await super().update(resource, obj, subresource=subresource, dry_run=dry_run)
        return answer if dry_run else self._seen(resource, answer)

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        patch: Any,
        *,
        content_type: str = MERGE_PATCH,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        answer = await super().patch(
            resource, name, namespace, patch, content_type=content_type, subresource=subresource, dry_run=dry_run
        )
        return answer if dry_run else self._seen(resource, answer)

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        answer = await super().apply(
            resource, obj, field_manager=field_manager, force=force, subresource=subresource, dry_run=dry_run
        )
        return answer if dry_run else self._seen(resource, answer)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> Object:
        answer = await super().delete(
            resource,
            name,
            namespace,
            propagation=propagation,
            grace_seconds=grace_seconds,
            uid=uid,
            resource_version=resource_version,
        )
        if answer.get("kind") != resource.kind:  # a Status: it is gone
            gone = uid or (answer.get("details") or {}).get("uid")
            if gone:
                metadata = {"name": name, "uid": gone} | ({"namespace": namespace} if namespace else {})
                for informer in self._cache.following(resource, namespace):
                    informer.observe_gone({"metadata": metadata})
            return answer
        return self._seen(resource, answer)

    def _seen(self, resource: Resource, answer: Object) -> Object:
        if answer.get("kind") == resource.kind:  # not the Scale of a subresource
            self._cache.observe(resource, answer)
        return answer
