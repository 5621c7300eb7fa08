"""ReplicaSet: so many pods of one template, no more and no fewer.

The cache reads our own writes, so counting is exact and there are no expectations to time out.
"""

from __future__ import annotations

import asyncio
import math
from typing import ClassVar

from sampan.cluster.controllers import pods
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, controller_of, is_deleting, key_of, labels_of, name_of, namespace_of, uid_of
from sampan.kube.selectors import LabelSelector, from_label_selector, from_labels
from sampan.operator import Controller, Maps, Owns, Result, Watch
from sampan.operator.cache import OWNER
from sampan.operator.conditions import put, without

BURST = 500
"""At most so many pods made or deleted per reconcile."""


class ReplicaSetController(Controller):
    name: ClassVar = "replicaset"
    resource: ClassVar = kinds.REPLICA_SET
    workers = 8

    def watches(self) -> tuple[Watch, ...]:
        self.pods = self.cache.informer(kinds.POD, indexes=pods.INDEXES)
        self.sets = self.cache.informer(self.resource)
        return Owns(kinds.POD), Maps(kinds.POD, self._adopters)

    def _adopters(self, pod: Object) -> list[str]:
        """The sets that might want a pod nobody controls."""
        if controller_of(pod) or is_deleting(pod):
            return []
        labels = labels_of(pod)
        sets = self.sets.list(namespace_of(pod)) if labels else ()
        return [key_of(s) for s in sets if self.selector(s).matches(labels)]

    def selector(self, owner: Object) -> LabelSelector:
        return from_label_selector(owner["spec"].get("selector") or {})

    async def reconcile(self, key: str) -> Result | None:
        owner = self.sets.get(key)
        if owner is None:
            return None
        claimed = await pods.claim(self.client, kinds.POD, owner, self.pods, selector=self.selector(owner))
        error: Exception | None = None
        if not is_deleting(owner):
            error = await self._scale(owner, [pod for pod in claimed if pods.is_active(pod)])
        wait = await self._status(owner, error)
        if error is not None:
            raise error
        return Result(wait) if math.isfinite(wait) else None

    async def _scale(self, owner: Object, active: list[Object]) -> Exception | None:
        missing = owner["spec"].get("replicas", 1) - len(active)
        if missing > 0:
            template = owner["spec"].get("template") or {}
            prefix = f"{name_of(owner)}-"

            async def make(_: int) -> None:
                pod = await self.client.create(kinds.POD, pods.from_template(template, owner, generateName=prefix))
                self.events.normal(owner, "SuccessfulCreate", f"Created pod: {name_of(pod)}")

            _, error = await pods.slow_start(min(missing, BURST), make)
            if error is not None:
                self.events.warning(owner, "FailedCreate", f"Error creating: {error}")
            return error
        if missing < 0:
            chosen = pods.to_delete(active, min(-missing, BURST), self._related(owner))
            results = await asyncio.gather(*(self._delete(owner, pod) for pod in chosen), return_exceptions=True)
            return next((result for result in results if isinstance(result, Exception)), None)
        return None

    def _related(self, owner: Object) -> list[Object]:
        """Active pods of all ReplicaSets of the same Deployment."""
        parent = controller_of(owner)
        sets = self.sets.by_index(OWNER, parent["uid"]) if parent else [owner]
        return [pod for s in sets for pod in self.pods.by_index(OWNER, uid_of(s)) if pods.is_active(pod)]

    async def _delete(self, owner: Object, pod: Object) -> None:
        try:
            deleted = await pods.delete(self.client, kinds.POD, pod)
        except ApiError as error:
            self.events.warning(owner, "FailedDelete", f"Error deleting: {error}")
            raise
        if deleted:
            self.events.normal(owner, "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    async def _status(self, owner: Object, error: Exception | None) -> float:
        """Write what the cache shows. Returns seconds until a ready pod becomes available."""
        current = self.sets.get(key_of(owner))
        if current is None or uid_of(current) != uid_of(owner):
            return math.inf
        owner, spec = current, current["spec"]
        selector = self.selector(owner)
        active = [p for p in self.pods.by_index(OWNER, uid_of(owner)) if pods.is_active(p)]
        active = [p for p in active if selector.matches(labels_of(p))]
        waits = [pods.until_available(pod, spec.get("minReadySeconds") or 0) for pod in active]
        wanted = (spec.get("template", {}).get("metadata") or {}).get("labels") or {}
        old = owner.get("status") or {}
        conditions = old.get("conditions") or []
        if error is None:
            conditions = without(conditions, "ReplicaFailure")
        else:
            reason = "FailedCreate" if len(active) < spec.get("replicas", 1) else "FailedDelete"
            conditions = put(conditions, "ReplicaFailure", True, reason, str(error))
        status: Object = {
            "replicas": len(active),
            **pods.counts(
                fullyLabeledReplicas=sum(wanted.items() <= labels_of(pod).items() for pod in active),
                readyReplicas=sum(math.isfinite(wait) for wait in waits),
                availableReplicas=sum(wait == 0 for wait in waits),
            ),
            "observedGeneration": owner["metadata"].get("generation", 1),
            **({"conditions": conditions} if conditions else {}),
        }
        try:
            await pods.write_status(self.client, self.resource, owner, status)
        except ApiError as failure:
            if failure.code != 404:
                raise
        return min((wait for wait in waits if wait > 0), default=math.inf)


class ReplicationControllerController(ReplicaSetController):
    """The ReplicaSet's ancestor: the same but for its selector, which is plain labels."""

    name: ClassVar = "replication"
    resource: ClassVar = kinds.REPLICATION_CONTROLLER

    def selector(self, owner: Object) -> LabelSelector:
        return from_labels(owner["spec"].get("selector") or {})
