"""StatefulSet: pods with names and volumes that stay, made, updated and removed in order."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence

from sampan.cluster.controllers import pods, revisions
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, key_of, labels_of, name_of, namespace_of, owner_reference, uid_of
from sampan.operator import Controller, Owns, Result, Watch

ORDINAL = re.compile(r"(.*)-(\d+)")


def ordinal(owner: Object, pod: Object) -> int | None:
    match = ORDINAL.fullmatch(name_of(pod))
    return int(match[2]) if match and match[1] == name_of(owner) else None


class StatefulSetController(Controller):
    name, resource = "statefulset", kinds.STATEFUL_SET

    def watches(self) -> tuple[Watch, ...]:
        self.sets = self.cache.informer(kinds.STATEFUL_SET)
        self.pods = self.cache.informer(kinds.POD, indexes=pods.INDEXES)
        self.claims = self.cache.informer(kinds.PERSISTENT_VOLUME_CLAIM)
        self.revisions = self.cache.informer(kinds.CONTROLLER_REVISION)
        return (Owns(kinds.POD),)

    async def reconcile(self, key: str) -> Result | None:
        owner = self.sets.get(key)
        if owner is None:
            return None
        own = await pods.claim(
            self.client, kinds.POD, owner, self.pods, belongs=lambda pod: ordinal(owner, pod) is not None
        )
        if is_deleting(owner):
            return None
        status = owner.get("status") or {}
        history = await revisions.sync(self.client, self.revisions, owner, status.get("currentRevision") or "")
        failure: Exception | None = None
        try:
            await self._order(owner, own, history)
        except ApiError as error:
            failure = error
        own = [p for p in (self.pods.get(key_of(p)) for p in self._all(owner)) if p is not None]
        wait = await self._status(owner, own, history)
        live = {history.current, history.update, *(labels_of(p).get(revisions.LABEL, "") for p in own)}
        await revisions.prune(self.client, self.revisions, owner, live)
        if failure is not None:
            raise failure
        return Result(wait) if math.isfinite(wait) else None

    def _all(self, owner: Object) -> list[Object]:
        return [p for p in self.pods.by_index("owner", uid_of(owner)) if ordinal(owner, p) is not None]

    async def _order(self, owner: Object, own: Sequence[Object], history: revisions.Revisions) -> None:
        """One step towards the wanted pods; OrderedReady takes one pod at a time, Parallel does not wait."""
        spec = owner["spec"]
        start, replicas = (spec.get("ordinals") or {}).get("start") or 0, spec.get("replicas", 1)
        parallel = spec.get("podManagementPolicy") == "Parallel"
        present = {ordinal(owner, pod): pod for pod in own}
        wanted = range(start, start + replicas)
        for number in wanted:
            pod = present.get(number)
            if pod is not None and pods.phase(pod) in pods.FINISHED and not is_deleting(pod):
                await self._delete(owner, pod)
                pod = self.pods.get(key_of(pod))
            if pod is None:
                pod = await self._create(owner, number, history)
            elif not is_deleting(pod):
                await self._claims(owner, pod, number)
            if not parallel and not self._healthy(owner, pod):
                return
        condemned = sorted((n for n in present if n is not None and n not in wanted), reverse=True)
        for number in condemned:
            pod = present[number]
            if not is_deleting(pod):
                await self._delete(owner, pod)
            if not parallel and self.pods.get(key_of(pod)) is not None:
                return
        if condemned and not parallel:
            return
        await self._update(owner, wanted, present, history)

    async def _update(
        self, owner: Object, wanted: range, present: dict[int | None, Object], history: revisions.Revisions
    ) -> None:
        """Replace pods of another revision, highest ordinal first, at most maxUnavailable at once, down to the
        partition."""
        strategy = owner["spec"].get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return
        rolling = strategy.get("rollingUpdate") or {}
        budget = max(1, pods.scaled(rolling.get("maxUnavailable", 1), len(wanted), up=True))
        budget -= sum(1 for n in wanted if not (n in present and self._healthy(owner, present[n])))
        stale = [
            present[n]
            for n in reversed(wanted)
            if n >= (rolling.get("partition") or 0)
            and n in present
            and labels_of(present[n]).get(revisions.LABEL) != history.update
        ]
        for pod in stale:
            if is_deleting(pod):
                continue
            broken = not self._healthy(owner, pod)
            if not broken and budget <= 0:
                return
            await self._delete(owner, pod)
            budget -= 0 if broken else 1

    def _healthy(self, owner: Object, pod: Object) -> bool:
        minimum = owner["spec"].get("minReadySeconds") or 0
        return not is_deleting(pod) and pods.phase(pod) == "Running" and pods.until_available(pod, minimum) == 0

    async def _create(self, owner: Object, number: int, history: revisions.Revisions) -> Object:
        spec, name = owner["spec"], f"{name_of(owner)}-{number}"
        rolling = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
        revision = history.current if number < (rolling.get("partition") or 0) else history.update
        labels = {
            revisions.LABEL: revision,
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(number),
        }
        pod = pods.from_template(history.templates[revision], owner, name=name, labels=labels)
        pod["spec"]["hostname"] = name
        if spec.get("serviceName"):
            pod["spec"]["subdomain"] = spec["serviceName"]
        templates = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates") or ()}
        if templates:
            volumes = [v for v in pod["spec"].get("volumes") or () if v["name"] not in templates]
            pod["spec"]["volumes"] = volumes + [
                {"name": t, "persistentVolumeClaim": {"claimName": f"{t}-{name}"}} for t in sorted(templates)
            ]
        try:
            await self._claims(owner, pod, number)
            made = await self.client.create(kinds.POD, pod)
        except ApiError as error:
            text = f"create Pod {name} in StatefulSet {name_of(owner)} failed error: {error}"
            self.events.warning(owner, "FailedCreate", text)
            raise
        self.events.normal(owner, "SuccessfulCreate", f"create Pod {name} in StatefulSet {name_of(owner)} successful")
        return made

    async def _claims(self, owner: Object, pod: Object, number: int) -> None:
        """The pod's volume claims, made where missing. They stay when the pod goes, unless the retention policy says
        Delete."""
        retention = owner["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        for template in owner["spec"].get("volumeClaimTemplates") or ():
            metadata = template.get("metadata") or {}
            name = f"{metadata['name']}-{name_of(owner)}-{number}"
            if self.claims.get(f"{namespace_of(owner)}/{name}") is not None:
                continue
            owners = [owner_reference(owner)] if retention.get("whenDeleted") == "Delete" else []
            selector = (owner["spec"].get("selector") or {}).get("matchLabels") or {}
            body: Object = {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    **{key: metadata[key] for key in ("annotations",) if metadata.get(key)},
                    "name": name,
                    "namespace": namespace_of(owner),
                    "labels": {**(metadata.get("labels") or {}), **selector},
                    **({"ownerReferences": owners} if owners else {}),
                },
                "spec": template["spec"],
            }
            try:
                await self.client.create(kinds.PERSISTENT_VOLUME_CLAIM, body)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise

    async def _delete(self, owner: Object, pod: Object) -> None:
        if await pods.delete(self.client, kinds.POD, pod):
            text = f"delete Pod {name_of(pod)} in StatefulSet {name_of(owner)} successful"
            self.events.normal(owner, "SuccessfulDelete", text)
        retention = owner["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        number, spec = ordinal(owner, pod), owner["spec"]
        first = (spec.get("ordinals") or {}).get("start") or 0
        if retention.get("whenScaled") == "Delete" and number not in range(first, first + spec.get("replicas", 1)):
            names = [f"{t['metadata']['name']}-{name_of(pod)}" for t in spec.get("volumeClaimTemplates") or ()]
            deletes = (self.client.delete(kinds.PERSISTENT_VOLUME_CLAIM, n, namespace_of(pod)) for n in names)
            await asyncio.gather(*deletes, return_exceptions=True)

    async def _status(self, owner: Object, own: Sequence[Object], history: revisions.Revisions) -> float:
        owner = self.sets.get(key_of(owner)) or owner
        spec, old = owner["spec"], owner.get("status") or {}
        waits = [pods.until_available(pod, spec.get("minReadySeconds") or 0) for pod in own if not is_deleting(pod)]
        made = [pod for pod in own if not is_deleting(pod)]
        of = [labels_of(pod).get(revisions.LABEL) for pod in made]
        ready, available = sum(map(math.isfinite, waits)), sum(wait == 0 for wait in waits)
        current = history.current
        updated = of.count(history.update)
        rolls = (spec.get("updateStrategy") or {}).get("type") != "OnDelete"
        if rolls and updated == len(made) == ready == spec.get("replicas", 1):
            current = history.update
        status: Object = {
            "replicas": len(own),
            **pods.counts(
                readyReplicas=ready,
                currentReplicas=of.count(current),
                updatedReplicas=updated,
                collisionCount=history.collisions,
            ),
            "availableReplicas": available,
            "currentRevision": current,
            "updateRevision": history.update,
            "observedGeneration": owner["metadata"].get("generation", 1),
            **({"conditions": old["conditions"]} if old.get("conditions") else {}),
        }
        try:
            await pods.write_status(self.client, kinds.STATEFUL_SET, owner, status)
        except ApiError as error:
            if error.code != 404:
                raise
        return min((wait for wait in waits if wait > 0), default=math.inf)
