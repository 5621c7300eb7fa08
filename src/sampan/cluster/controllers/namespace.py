"""Namespaces: a deleted one takes all it holds with it, then is let go through `finalize`."""

from __future__ import annotations

import asyncio

from sampan.cluster.controllers.everything import FollowsEverything
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, is_deleting, name_of, namespace_of
from sampan.operator import Result, Watch
from sampan.operator.conditions import put

FINALIZER = "kubernetes"


class NamespaceController(FollowsEverything):
    name, resource = "namespace", kinds.NAMESPACE

    def watches(self) -> tuple[Watch, ...]:
        self.namespaces = self.cache.informer(kinds.NAMESPACE)
        return ()

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        return new is not None and is_deleting(new)

    def content(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        """Something in a terminating namespace has gone."""
        namespace = namespace_of(old) if old is not None and new is None else None
        present = self.namespaces.get(namespace) if namespace else None
        if present is not None and is_deleting(present):
            self.queue.add(name_of(present))

    async def reconcile(self, key: str) -> Result | None:
        namespace = self.namespaces.get(key)
        if namespace is None or not is_deleting(namespace):
            return None
        if FINALIZER not in (namespace["spec"].get("finalizers") or ()):
            return None
        failures = await self._empty(key)
        left = self._left(key)
        if not left and not failures:
            left = await self._verify(key)
        if left or failures:
            await self._say(namespace, left, failures)
            return Result(1.0 if failures else 5.0)  # what remains reports its own end; this is only a net
        finalizers = [f for f in namespace["spec"]["finalizers"] if f != FINALIZER]
        body = {**namespace, "spec": {**namespace["spec"], "finalizers": finalizers}}
        try:
            await self.client.update(kinds.NAMESPACE, body, subresource="finalize")
        except ApiError as error:
            if error.code == 409:
                return Result(0.0)
            if error.code != 404:
                raise
        return None

    def _kinds(self) -> list[Resource]:
        return [i.resource for i in self.everything.informers() if i.resource.namespaced]

    def _left(self, namespace: str) -> dict[str, list[Object]]:
        lists = {
            i.resource.group_plural: i.list(namespace) for i in self.everything.informers() if i.resource.namespaced
        }
        return {plural: objects for plural, objects in lists.items() if objects}

    async def _empty(self, namespace: str) -> list[str]:
        """Ask for the deletion of everything that is not going yet. Returns what could not be done."""
        targets = [
            informer.resource
            for informer in self.everything.informers()
            if informer.resource.namespaced and any(not is_deleting(obj) for obj in informer.list(namespace))
        ]
        results = await asyncio.gather(
            *(self.client.delete_collection(resource, namespace) for resource in [*targets, kinds.EVENT]),
            return_exceptions=True,
        )
        failed = [result for result in results if isinstance(result, Exception)]
        return [str(f) for f in failed if not (isinstance(f, ApiError) and f.code in (404, 405))]

    async def _verify(self, namespace: str) -> dict[str, list[Object]]:
        """Ask the server itself before the last step: the cache may not have heard of an object made just before."""
        left: dict[str, list[Object]] = {}
        for resource in self._kinds():
            try:
                if items := (await self.client.list(resource, namespace)).items:
                    left[resource.group_plural] = items
            except ApiError as error:
                if error.code != 404:
                    raise
        return left

    async def _say(self, namespace: Object, left: dict[str, list[Object]], failures: list[str]) -> None:
        status = namespace.get("status") or {}
        conditions = status.get("conditions")
        said = ", ".join(
            f"{plural if '.' in plural else f'{plural}.'} has {len(objects)} resource instances"
            for plural, objects in sorted(left.items())
        )
        held: dict[str, int] = {}
        for obj in (obj for objects in left.values() for obj in objects):
            for finalizer in obj["metadata"].get("finalizers") or ():
                held[finalizer] = held.get(finalizer, 0) + 1
        waits = ", ".join(f"{finalizer} in {count} resource instances" for finalizer, count in sorted(held.items()))
        for type, bad, yes, no, message in (
            ("NamespaceDeletionDiscoveryFailure", False, "", "ResourcesDiscovered",
             "All resources successfully discovered"),
            ("NamespaceDeletionGroupVersionParsingFailure", False, "", "ParsedGroupVersions",
             "All legacy kube types successfully parsed"),
            ("NamespaceDeletionContentFailure", bool(failures), "ContentDeletionFailed", "ContentDeleted",
             "; ".join(failures[:5]) or "All content successfully deleted, may be waiting on finalization"),
            ("NamespaceContentRemaining", bool(left), "SomeResourcesRemain", "ContentRemoved",
             f"Some resources are remaining: {said}" if left else "All content successfully removed"),
            ("NamespaceFinalizersRemaining", bool(held), "SomeFinalizersRemain", "ContentHasNoFinalizers",
             f"Some content in the namespace has finalizers remaining: {waits}" if held
             else "All content-preserving finalizers finished"),
        ):  # fmt: skip
            conditions = put(conditions, type, bad, yes if bad else no, message)
        if conditions != status.get("conditions"):
            body = {**namespace, "status": {**status, "phase": "Terminating", "conditions": conditions}}
            try:
                await self.client.update(kinds.NAMESPACE, body, subresource="status")
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
