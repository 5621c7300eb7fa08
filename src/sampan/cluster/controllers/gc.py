"""The garbage collector: what becomes of objects whose owners go.

It keeps a graph of every object by uid, custom resources included. Guarantees: an object is deleted only when each of
its owners is known to be gone, which a live read confirms for owners not in the graph; owners are told apart by uid,
so a recreated owner is another one; and deletes carry the uid, so a recreated dependent is safe.

Background: dependents go after their owner. Foreground: the owner waits, held by a finalizer, for those dependents
that say `blockOwnerDeletion`. Orphan: dependents forget their owner first.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from sampan.cluster.controllers.everything import Everything
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, is_deleting, key_of, name_of, namespace_of, uid_of
from sampan.operator import Controller, Result
from sampan.operator.cache import Cache
from sampan.operator.events import Recorder
from sampan.operator.finalizers import remove

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


class Node(Struct, frozen=True):
    """What the graph knows of one object."""

    resource: Resource
    key: str
    namespace: str | None
    name: str
    owners: tuple[Object, ...]
    finalizers: frozenset[str]
    deleting: bool

    @property
    def waits(self) -> bool:
        """Deleting in the foreground."""
        return self.deleting and FOREGROUND in self.finalizers


class GarbageCollector(Controller):
    """Its keys are uids."""

    name, resource = "garbage-collector", kinds.NAMESPACE
    workers = 16

    def __init__(self, everything: Everything) -> None:
        super().__init__()
        self.everything = everything
        self.nodes: dict[str, Node] = {}
        self.dependents: dict[str, set[str]] = {}
        self.told: set[tuple[str, str]] = set()
        """Owners in other namespaces, with the key of the dependent, that have been told of."""

    def bind(self, cache: Cache, events: Recorder) -> None:
        self.cache, self.client, self.events = cache, cache.client, events
        self.everything.subscribe(self._note)
        self.everything.bind(cache)

    # The graph

    def _note(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None:
                self._gone(uid_of(old))
            return
        uid, metadata = uid_of(new), new["metadata"]
        before = self.nodes.get(uid)
        node = Node(
            resource,
            key_of(new),
            namespace_of(new),
            name_of(new),
            tuple(metadata.get("ownerReferences") or ()),
            frozenset(metadata.get("finalizers") or ()),
            is_deleting(new),
        )
        if node == before:
            return
        self.nodes[uid] = node
        were = {owner["uid"] for owner in before.owners} if before else set()
        are = {owner["uid"] for owner in node.owners}
        for owner in are - were:
            self.dependents.setdefault(owner, set()).add(uid)
        for owner in were - are:
            self._unlink(owner, uid)
        if node.deleting and node.finalizers & {FOREGROUND, ORPHAN}:
            self.queue.add(uid)
        if are != were and any(self._doubtful(owner, node) for owner in are):
            self.queue.add(uid)

    def _doubtful(self, owner: str, node: Node) -> bool:
        """Whether an owner may be none: unknown so far, about to go, or in another namespace."""
        known = self.nodes.get(owner)
        return known is None or known.waits or known.namespace not in (None, node.namespace)

    def _gone(self, uid: str) -> None:
        node = self.nodes.pop(uid, None)
        for owner in node.owners if node else ():
            self._unlink(owner["uid"], uid)
        for dependent in self.dependents.get(uid, ()):
            self.queue.add(dependent)

    def _unlink(self, owner: str, uid: str) -> None:
        present = self.dependents.get(owner)
        if present is not None:
            present.discard(uid)
            if not present:
                del self.dependents[owner]
        if owner in self.nodes and self.nodes[owner].waits:
            self.queue.add(owner)

    # Collecting

    async def reconcile(self, key: str) -> Result | None:
        node = self.nodes.get(key)
        if node is None:
            return None
        if node.deleting:
            if ORPHAN in node.finalizers:
                await self._orphan(key, node)
            elif FOREGROUND in node.finalizers:
                await self._foreground(key, node)
            return None
        if node.owners:
            await self._judge(key, node)
        return None

    async def _judge(self, uid: str, node: Node) -> None:
        states = await asyncio.gather(*(self._state(owner, node) for owner in node.owners))
        solid = [owner for owner, state in zip(node.owners, states, strict=True) if state == "solid"]
        if len(solid) == len(node.owners):
            return
        if solid:
            await self._set_owners(uid, node, solid)
            return
        if "waiting" in states and self.dependents.get(uid):
            policy = "Foreground"
        elif ORPHAN in node.finalizers:
            policy = "Orphan"
        else:
            policy = "Foreground" if FOREGROUND in node.finalizers else "Background"
        try:
            await self.client.delete(node.resource, node.name, node.namespace, propagation=policy, uid=uid)
        except ApiError as error:
            if error.code not in (404, 409):
                raise
        if self.nodes.get(uid) == node:  # its informer has not heard yet
            obj = self.everything.get(node.resource, node.key)
            if obj is None or uid_of(obj) != uid:
                self._gone(uid)

    async def _state(self, owner: Object, node: Node) -> str:
        """`solid`, `waiting` (deleting in the foreground) or `absent`."""
        known = self.nodes.get(owner["uid"])
        if known is not None:
            if known.namespace not in (None, node.namespace):
                self._misplaced(owner, node)
                return "absent" if node.namespace else "solid"
            return "waiting" if known.waits else "solid"
        resource = self.everything.find(owner["apiVersion"], owner["kind"])
        if resource is None or (resource.namespaced and node.namespace is None):
            return "solid"  # cannot be looked up: leave its dependents alone
        try:
            found = await self.client.get(resource, owner["name"], node.namespace if resource.namespaced else None)
        except ApiError as error:
            if error.code != 404:
                raise
            return "absent"
        return "solid" if uid_of(found) == owner["uid"] else "absent"

    def _misplaced(self, owner: Object, node: Node) -> None:
        """Tell of an owner that is in another namespace than its dependent."""
        obj, told = self.everything.get(node.resource, node.key), (owner["uid"], node.key)
        if obj is None or told in self.told:
            return
        self.told.add(told)
        named = {"apiVersion": node.resource.api_version, "kind": node.resource.kind, **obj}
        where = node.namespace or ""
        said = (
            f"ownerRef [{owner['apiVersion']}/{owner['kind']}, namespace: {where}, name: {owner['name']}, uid:"
            f' {owner["uid"]}] does not exist in namespace "{where}"'
        )
        self.events.warning(named, "OwnerRefInvalidNamespace", said)

    async def _foreground(self, uid: str, node: Node) -> None:
        waiting = False
        for dependent in list(self.dependents.get(uid, ())):
            child = self.nodes.get(dependent)
            if child is None:
                continue
            if not child.deleting:
                self.queue.add(dependent)
            references = [owner for owner in child.owners if owner["uid"] == uid]
            waiting = waiting or any(reference.get("blockOwnerDeletion") for reference in references)
        if not waiting:
            await self._release(uid, node, FOREGROUND)

    async def _orphan(self, uid: str, node: Node) -> None:
        for dependent in list(self.dependents.get(uid, ())):
            child = self.nodes.get(dependent)
            if child is not None:
                await self._set_owners(dependent, child, [owner for owner in child.owners if owner["uid"] != uid])
        await self._release(uid, node, ORPHAN)

    async def _release(self, uid: str, node: Node, finalizer: str) -> None:
        obj = self.everything.get(node.resource, node.key)
        if obj is not None and uid_of(obj) == uid:
            await remove(self.client, node.resource, obj, finalizer)

    async def _set_owners(self, uid: str, node: Node, owners: list[Object]) -> None:
        obj = self.everything.get(node.resource, node.key)
        if obj is None or uid_of(obj) != uid:
            return
        metadata = {
            "uid": uid,
            "resourceVersion": obj["metadata"]["resourceVersion"],
            "ownerReferences": owners or None,
        }
        try:
            await self.client.patch(node.resource, node.name, node.namespace, {"metadata": metadata})
        except ApiError as error:
            if error.code != 404:
                raise
