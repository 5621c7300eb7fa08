"""Volumes in use are not deleted. The API server marks claims and volumes with a finalizer at creation; a deleted
volume that no claim is bound to loses its own here, a claim without pods in `volumes.py`."""

from __future__ import annotations

from sampan.kube import kinds
from sampan.kube.objects import Object, is_deleting, key_of, name_of, uid_of
from sampan.operator import Controller, Maps, Result, Watch
from sampan.operator.finalizers import has, remove

FINALIZER = "kubernetes.io/pv-protection"


class VolumeProtection(Controller):
    name, resource = "volume-protection", kinds.PERSISTENT_VOLUME
    workers = 1

    def watches(self) -> tuple[Watch, ...]:
        self.volumes = self.cache.informer(kinds.PERSISTENT_VOLUME)
        self.claims = self.cache.informer(kinds.PERSISTENT_VOLUME_CLAIM)
        return (Maps(kinds.PERSISTENT_VOLUME_CLAIM, self._left),)

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        return new is not None and is_deleting(new)

    def _left(self, claim: Object) -> list[str]:
        if self.claims.get(key_of(claim)) is not None:
            return []
        return [name_of(volume) for volume in self.volumes.list() if is_deleting(volume)]

    async def reconcile(self, key: str) -> Result | None:
        volume = self.volumes.get(key)
        if volume is None or not is_deleting(volume) or not has(volume, FINALIZER):
            return None
        reference = (volume.get("spec") or {}).get("claimRef") or {}
        claim = self.claims.get(f"{reference.get('namespace')}/{reference.get('name')}")
        if claim is None or uid_of(claim) != reference.get("uid"):
            await remove(self.client, kinds.PERSISTENT_VOLUME, volume, FINALIZER)
        return None
