"""Volumes: a claim is bound at once, to a volume somebody made for it or to a new directory of this machine.

The class `local` (the default, and what `standard`, `hostpath` and no class at all mean here) makes directories. A
claim in use by a pod is not removed under it; a volume with reclaim policy Delete goes with its claim, directory
included.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from sampan.cluster.controllers import pods
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, key_of, name_of, namespace_of, uid_of
from sampan.kube.quantity import parse
from sampan.operator import Controller, Maps, Result, Watch
from sampan.operator.finalizers import ensure, has, remove

CLASS, PROVISIONER = "local", "sampan.dev/local"
LOCAL = {"", CLASS, "standard", "hostpath", "local-path"}
PROTECTION = "kubernetes.io/pvc-protection"
PROVISIONED = "pv.kubernetes.io/provisioned-by"


class VolumeBinder(Controller):
    """`directory(namespace, claim, uid)` says where a new volume lives; it is made with mode 0700."""

    name, resource = "persistentvolume", kinds.PERSISTENT_VOLUME_CLAIM

    def __init__(self, directory: Callable[[str, str, str], Path]) -> None:
        super().__init__()
        self.directory = directory

    def watches(self) -> tuple[Watch, ...]:
        self.claims = self.cache.informer(kinds.PERSISTENT_VOLUME_CLAIM)
        self.volumes = self.cache.informer(kinds.PERSISTENT_VOLUME)
        self.classes = self.cache.informer(kinds.STORAGE_CLASS)
        self.pods = self.cache.informer(kinds.POD)
        return (
            Maps(kinds.PERSISTENT_VOLUME, self._claims_of),
            Maps(kinds.POD, self._leaving),
            Maps(kinds.STORAGE_CLASS, lambda _: [key_of(c) for c in self.claims.list() if _phase(c) == "Pending"]),
        )

    def _claims_of(self, volume: Object) -> Iterable[str]:
        reference = volume["spec"].get("claimRef")
        if reference:
            return [f"{reference['namespace']}/{reference['name']}"]
        return [key_of(claim) for claim in self.claims.list() if _phase(claim) == "Pending"]

    def _leaving(self, pod: Object) -> list[str]:
        """A deleted claim waits for its last pod."""
        keys = [f"{namespace_of(pod)}/{name}" for name in _used(pod)]
        return [key for key in keys if (claim := self.claims.get(key)) is not None and is_deleting(claim)]

    async def reconcile(self, key: str) -> Result | None:
        claim = self.claims.get(key)
        if claim is None or (is_deleting(claim) and not has(claim, PROTECTION)):
            await self._reclaim(key, claim)
            return None
        if is_deleting(claim):
            await self._let_go(claim)
            return None
        await ensure(self.client, kinds.PERSISTENT_VOLUME_CLAIM, claim, PROTECTION)
        claim = self.claims.get(key) or claim
        volume = self._volume_of(claim)
        if volume is None and not claim["spec"].get("volumeName"):
            volume = self._match(claim) or await self._provision(claim)
        if volume is not None:
            await self._bind(claim, volume)
        elif _phase(claim) != "Pending":
            lost = bool(claim["spec"].get("volumeName"))
            await pods.write_status(
                self.client, kinds.PERSISTENT_VOLUME_CLAIM, claim, {"phase": "Lost" if lost else "Pending"}
            )
        return None

    def _volume_of(self, claim: Object) -> Object | None:
        """The volume that names this claim, or that this claim names and nobody else has."""
        for volume in self.volumes.list():
            reference = volume["spec"].get("claimRef") or {}
            same = (reference.get("namespace"), reference.get("name")) == (namespace_of(claim), name_of(claim))
            if same and reference.get("uid") in (None, "", uid_of(claim)):
                return volume
        named = self.volumes.get(claim["spec"].get("volumeName") or "")
        return named if named is not None and not named["spec"].get("claimRef") else None

    def _match(self, claim: Object) -> Object | None:
        """The smallest free volume of the claim's class that is large enough and has its access modes."""
        spec = claim["spec"]
        size = parse(((spec.get("resources") or {}).get("requests") or {}).get("storage", "0"))
        modes = set(spec.get("accessModes") or ())
        free = [
            (parse((v["spec"].get("capacity") or {}).get("storage", "0")), name_of(v), v)
            for v in self.volumes.list()
            if not v["spec"].get("claimRef")
            and not is_deleting(v)
            and (v["spec"].get("storageClassName") or "") == (spec.get("storageClassName") or "")
            and modes <= set(v["spec"].get("accessModes") or ())
        ]
        return min((entry for entry in free if entry[0] >= size), default=(0, "", None))[2]

    async def _provision(self, claim: Object) -> Object | None:
        spec = claim["spec"]
        wanted = spec.get("storageClassName")
        known = self.classes.get(wanted or "")
        if wanted == "" or (
            wanted not in (None, *LOCAL) and (known is None or known.get("provisioner") != PROVISIONER)
        ):
            text = (
                f'storageclass.storage.k8s.io "{wanted}" not found'
                if wanted and known is None
                else ("no persistent volumes available for this claim and no storage class is set")
            )
            self.events.warning(claim, "ProvisioningFailed", text)
            return None
        path = self.directory(namespace_of(claim) or "", name_of(claim), uid_of(claim))
        await asyncio.to_thread(path.mkdir, mode=0o700, parents=True, exist_ok=True)
        policy = (known or {}).get("reclaimPolicy") or "Delete"
        body: Object = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"pvc-{uid_of(claim)}", "annotations": {PROVISIONED: PROVISIONER}},
            "spec": {
                "accessModes": spec.get("accessModes") or ["ReadWriteOnce"],
                "capacity": {"storage": ((spec.get("resources") or {}).get("requests") or {}).get("storage", "1Gi")},
                "claimRef": _reference(claim),
                "hostPath": {"path": str(path), "type": "DirectoryOrCreate"},
                "persistentVolumeReclaimPolicy": policy,
                "storageClassName": wanted or CLASS,
                "volumeMode": spec.get("volumeMode") or "Filesystem",
            },
        }
        try:
            made = await self.client.create(kinds.PERSISTENT_VOLUME, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return await self.client.get(kinds.PERSISTENT_VOLUME, f"pvc-{uid_of(claim)}")
        self.events.normal(claim, "ProvisioningSucceeded", f"Successfully provisioned volume {name_of(made)}")
        return made

    async def _bind(self, claim: Object, volume: Object) -> None:
        if (volume["spec"].get("claimRef") or {}).get("uid") != uid_of(claim):
            spec = {**volume["spec"], "claimRef": _reference(claim)}
            volume = await self.client.update(kinds.PERSISTENT_VOLUME, {**volume, "spec": spec})
        if (volume.get("status") or {}).get("phase") != "Bound":
            status = {**(volume.get("status") or {}), "phase": "Bound"}
            volume = await pods.write_status(self.client, kinds.PERSISTENT_VOLUME, volume, status)
        if claim["spec"].get("volumeName") != name_of(volume):
            spec = {"volumeName": name_of(volume)}
            if claim["spec"].get("storageClassName") is None and volume["spec"].get("storageClassName"):
                spec["storageClassName"] = volume["spec"]["storageClassName"]
            metadata = {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
            patch = {"metadata": metadata, "spec": spec}
            claim = await self.client.patch(kinds.PERSISTENT_VOLUME_CLAIM, name_of(claim), namespace_of(claim), patch)
        status = {
            **(claim.get("status") or {}),
            "phase": "Bound",
            "accessModes": volume["spec"].get("accessModes") or [],
            "capacity": volume["spec"].get("capacity") or {},
        }
        await pods.write_status(self.client, kinds.PERSISTENT_VOLUME_CLAIM, claim, status)

    async def _let_go(self, claim: Object) -> None:
        users = [
            pod
            for pod in self.pods.list(namespace_of(claim))
            if name_of(claim) in _used(pod) and pods.phase(pod) not in pods.FINISHED
        ]
        if not users:
            await remove(self.client, kinds.PERSISTENT_VOLUME_CLAIM, claim, PROTECTION)
            if self.claims.get(key_of(claim)) is None:
                await self._reclaim(key_of(claim), None)

    async def _reclaim(self, key: str, claim: Object | None) -> None:
        """Volumes of a claim that is gone: delete what we made, keep what must be kept as Released."""
        namespace, _, name = key.partition("/")
        for volume in self.volumes.list():
            reference = volume["spec"].get("claimRef") or {}
            if (reference.get("namespace"), reference.get("name")) != (namespace, name):
                continue
            if not reference.get("uid") or (claim is not None and reference["uid"] == uid_of(claim)):
                continue
            ours = (volume["metadata"].get("annotations") or {}).get(PROVISIONED) == PROVISIONER
            if ours and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
                path = Path(volume["spec"]["hostPath"]["path"])
                if path == self.directory(namespace, name, reference["uid"]):
                    await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
                with contextlib.suppress(ApiError):
                    await self.client.delete(kinds.PERSISTENT_VOLUME, name_of(volume), uid=uid_of(volume))
            elif (volume.get("status") or {}).get("phase") != "Released":
                status = {**(volume.get("status") or {}), "phase": "Released"}
                await pods.write_status(self.client, kinds.PERSISTENT_VOLUME, volume, status)


class VolumePhase(Controller):
    """New volumes without claim are Available."""

    name, resource = "persistentvolume-phase", kinds.PERSISTENT_VOLUME
    workers = 1

    def watches(self) -> tuple[Watch, ...]:
        self.volumes = self.cache.informer(kinds.PERSISTENT_VOLUME)
        return ()

    async def reconcile(self, key: str) -> Result | None:
        volume = self.volumes.get(key)
        if volume is not None and not is_deleting(volume) and not volume["spec"].get("claimRef"):
            status = {**(volume.get("status") or {}), "phase": "Available"}
            await pods.write_status(self.client, kinds.PERSISTENT_VOLUME, volume, status)
        return None


STORAGE_CLASS: Object = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": PROVISIONER,
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
}
"""The default class; `accounts` creates it with the namespace `default`."""


def _phase(obj: Object) -> str:
    return str((obj.get("status") or {}).get("phase") or "Pending")


def _used(pod: Object) -> list[str]:
    """The claims a pod mounts."""
    names = []
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            names.append(volume["persistentVolumeClaim"]["claimName"])
        elif "ephemeral" in volume:
            names.append(f"{name_of(pod)}-{volume['name']}")
    return names


def _reference(claim: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "name": name_of(claim),
        "namespace": namespace_of(claim),
        "uid": uid_of(claim),
        "resourceVersion": claim["metadata"]["resourceVersion"],
    }
