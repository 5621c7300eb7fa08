"""Deployment: ReplicaSets by revision, moved from one to the next.

Which set is new, revisions and annotations are here; how many replicas each set gets is `rolling`; status and its
conditions are `progress`.
"""

from __future__ import annotations

import math
from typing import Any

from sampan.cluster.controllers import pods, progress, rolling
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import (
    Object,
    annotations_of,
    controller_of,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from sampan.kube.selectors import from_label_selector
from sampan.operator import Controller, Maps, Owns, Result, Watch
from sampan.operator.cache import OWNER

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    rolling.DESIRED,
    rolling.MAXIMUM,
    "deprecated.deployment.rollback.to",
}


class DeploymentController(Controller):
    name, resource = "deployment", kinds.DEPLOYMENT

    def watches(self) -> tuple[Watch, ...]:
        self.deployments = self.cache.informer(kinds.DEPLOYMENT)
        self.sets = self.cache.informer(kinds.REPLICA_SET, indexes=pods.INDEXES)
        self.pods = self.cache.informer(kinds.POD)
        return Owns(kinds.REPLICA_SET), Maps(kinds.REPLICA_SET, self._adopters), Maps(kinds.POD, self._waiting)

    def _adopters(self, replica_set: Object) -> list[str]:
        if controller_of(replica_set) or is_deleting(replica_set):
            return []
        labels = labels_of(replica_set)
        return [
            key_of(d)
            for d in self.deployments.list(namespace_of(replica_set))
            if labels and from_label_selector(d["spec"].get("selector") or {}).matches(labels)
        ]

    def _waiting(self, pod: Object) -> list[str]:
        """A Recreate deployment waits for the last old pod to be gone."""
        owner = controller_of(pod)
        if owner is None or owner["kind"] != "ReplicaSet":
            return []
        replica_set = self.sets.get(f"{namespace_of(pod)}/{owner['name']}")
        parent = controller_of(replica_set) if replica_set else None
        deployment = self.deployments.get(f"{namespace_of(pod)}/{parent['name']}") if parent else None
        return [key_of(deployment)] if deployment and rolling.is_recreate(deployment) else []

    async def reconcile(self, key: str) -> Result | None:
        deployment = self.deployments.get(key)
        if deployment is None:
            return None
        sets = await pods.claim(self.client, kinds.REPLICA_SET, deployment, self.sets)
        if is_deleting(deployment):
            return await self._finish(deployment, sets)
        deployment = await progress.note_pause(self.client, deployment)
        new, old = self._split(deployment, sets)
        revision = await self._revise(deployment, new, old)
        new = revision or new
        if deployment["spec"].get("paused") or rolling.was_rescaled(deployment, [*old, *filter(None, [new])]):
            await self._apply(deployment, rolling.proportional(deployment, new, old))
            if deployment["spec"].get("paused"):
                await self._clean(deployment, new, old)
            return await self._finish(deployment, sets)
        if rolling.is_recreate(deployment):
            await self._recreate(deployment, new, old)
        else:
            await self._roll(deployment, new, old)
        return await self._finish(deployment, sets)

    def _split(self, deployment: Object, sets: list[Object]) -> tuple[Object | None, list[Object]]:
        """(the set of the present template or None, the others by age)."""
        wanted = pods.template_without(deployment["spec"]["template"], HASH)
        ordered = sorted(sets, key=lambda s: (pods.created(s), name_of(s)))
        new = next((s for s in ordered if pods.template_without(s["spec"]["template"], HASH) == wanted), None)
        return new, [s for s in ordered if s is not new]

    async def _roll(self, deployment: Object, new: Object | None, old: list[Object]) -> None:
        if new is None:
            new = await self._create(deployment, old, rolling.new_size(deployment, None, old))
        elif await self._apply(deployment, [(new, rolling.new_size(deployment, new, old))]):
            return
        fresh = [self.sets.get(key_of(s)) or s for s in old]
        await self._apply(deployment, rolling.old_sizes(deployment, self.sets.get(key_of(new)) or new, fresh))
        await self._clean(deployment, new, old)

    async def _recreate(self, deployment: Object, new: Object | None, old: list[Object]) -> None:
        if await self._apply(deployment, [(s, 0) for s in old]):
            return
        if any(p for s in old for p in self.pods.by_index(OWNER, uid_of(s)) if pods.phase(p) not in pods.FINISHED):
            return
        replicas = deployment["spec"].get("replicas", 1)
        if new is None:
            new = await self._create(deployment, old, replicas)
        else:
            await self._apply(deployment, [(new, replicas)])
        await self._clean(deployment, new, old)

    # ReplicaSets

    async def _create(self, deployment: Object, old: list[Object], replicas: int) -> Object:
        spec = deployment["spec"]
        template = spec["template"]
        collisions = (deployment.get("status") or {}).get("collisionCount") or 0
        digest = pods.safe_hash(pods.template_without(template, HASH), collisions)
        metadata = template.get("metadata") or {}
        labels = {**(metadata.get("labels") or {}), HASH: digest}
        selector = spec.get("selector") or {}
        revision = str(_latest(old) + 1)
        body: Object = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{name_of(deployment)}-{digest}",
                "namespace": namespace_of(deployment),
                "labels": labels,
                "annotations": {**_inherited(deployment), REVISION: revision, **rolling.bounds(deployment)},
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {
                "replicas": replicas,
                **({"minReadySeconds": spec["minReadySeconds"]} if spec.get("minReadySeconds") else {}),
                "selector": {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), HASH: digest}},
                "template": {**template, "metadata": {**metadata, "labels": labels}},
            },
        }
        try:
            made = await self.client.create(kinds.REPLICA_SET, body)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                await progress.note_collision(self.client, deployment, collisions)
            else:
                await progress.note_failure(self.client, deployment, f"Failed to create new replica set: {error}")
                self.events.warning(deployment, "ReplicaSetCreateError", f"Failed to create new replica set: {error}")
            raise
        if replicas:
            self.events.normal(
                deployment, "ScalingReplicaSet", f"Scaled up replica set {name_of(made)} from 0 to {replicas}"
            )
        await self._annotate(deployment, revision)
        await progress.note_new_set(self.client, self._now(deployment), name_of(made), created=True)
        return made

    async def _revise(self, deployment: Object, new: Object | None, old: list[Object]) -> Object | None:
        """Keep the new set's revision, copied annotations and minReadySeconds up to date (a rollback makes an old set
        new)."""
        if new is None:
            return None
        has = annotations_of(new)
        wanted = {**has, **_inherited(deployment), **rolling.bounds(deployment)}
        if int(has.get(REVISION) or 0) <= (highest := _latest(old)):
            wanted[REVISION] = str(highest + 1)
            if has.get(REVISION):
                wanted[HISTORY] = ",".join(filter(None, [has.get(HISTORY), has[REVISION]]))
        minimum = deployment["spec"].get("minReadySeconds") or 0
        # The bounds say at what scale replicas were last shared out; only `_apply` may move them on.
        for key in rolling.bounds(deployment):
            if key in has:
                wanted[key] = has[key]
        if wanted != has or minimum != (new["spec"].get("minReadySeconds") or 0):
            patch = {"metadata": {"annotations": wanted}, "spec": {"minReadySeconds": minimum or None}}
            new = await self.client.patch(kinds.REPLICA_SET, name_of(new), namespace_of(new), patch)
        await self._annotate(deployment, annotations_of(new)[REVISION])
        await progress.note_new_set(self.client, self._now(deployment), name_of(new), created=False)
        return new

    async def _annotate(self, deployment: Object, revision: str) -> None:
        if annotations_of(self._now(deployment)).get(REVISION) != revision:
            patch = {"metadata": {"annotations": {REVISION: revision}}}
            name, namespace = name_of(deployment), namespace_of(deployment)
            # Through the status, as upstream does: a change of annotations elsewhere counts as a new generation.
            await self.client.patch(kinds.DEPLOYMENT, name, namespace, patch, subresource="status")

    async def _apply(self, deployment: Object, sizes: list[tuple[Object, int]]) -> bool:
        """Give sets their sizes; whether any replica count changed."""
        changed = False
        bounds = rolling.bounds(deployment)
        for replica_set, size in sizes:
            before = replica_set["spec"].get("replicas", 1)
            if size == before and bounds.items() <= annotations_of(replica_set).items():
                continue
            patch: dict[str, Any] = {
                "metadata": {"annotations": bounds, "resourceVersion": replica_set["metadata"]["resourceVersion"]},
                "spec": {"replicas": size},
            }
            await self.client.patch(kinds.REPLICA_SET, name_of(replica_set), namespace_of(replica_set), patch)
            if size != before:
                changed = True
                way = "up" if size > before else "down"
                text = f"Scaled {way} replica set {name_of(replica_set)} from {before} to {size}"
                self.events.normal(deployment, "ScalingReplicaSet", text)
        return changed

    async def _clean(self, deployment: Object, new: Object | None, old: list[Object]) -> None:
        """Delete the oldest empty sets beyond revisionHistoryLimit, once the rollout is complete or paused."""
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        fresh = [s for s in (self.sets.get(key_of(s)) for s in old) if s is not None and not is_deleting(s)]
        complete = new is not None and progress.is_complete(self._now(deployment), self.sets.get(key_of(new)) or new)
        if not (complete or deployment["spec"].get("paused")):
            return
        for replica_set in sorted(fresh, key=_revision)[: max(0, len(fresh) - limit)]:
            status = replica_set.get("status") or {}
            settled = status.get("observedGeneration", 0) >= replica_set["metadata"].get("generation", 1)
            if replica_set["spec"].get("replicas") == 0 and not status.get("replicas") and settled:
                await self.client.delete(
                    kinds.REPLICA_SET, name_of(replica_set), namespace_of(replica_set), uid=uid_of(replica_set)
                )

    async def _finish(self, deployment: Object, sets: list[Object]) -> Result | None:
        """Status from the cache as it is now."""
        deployment = self._now(deployment)
        owned = {key_of(s): s for s in self.sets.by_index(OWNER, uid_of(deployment))}
        new, old = self._split(deployment, list(owned.values()))
        wait = await progress.write(self.client, deployment, new, old)
        return Result(wait) if math.isfinite(wait) else None

    def _now(self, deployment: Object) -> Object:
        return self.deployments.get(key_of(deployment)) or deployment


def _inherited(deployment: Object) -> dict[str, str]:
    return {key: value for key, value in annotations_of(deployment).items() if key not in NOT_COPIED}


def _revision(replica_set: Object) -> int:
    text = annotations_of(replica_set).get(REVISION) or "0"
    return int(text) if text.isdigit() else 0


def _latest(sets: list[Object]) -> int:
    return max(map(_revision, sets), default=0)
