"""PersistentVolumeClaim, PersistentVolume and StorageClass."""

from __future__ import annotations

import math
from typing import ClassVar

from sampan.cluster.apiserver.registry.advice import claim_advice, label_advice, node_term_advice
from sampan.cluster.apiserver.registry.base import TableStrategy, default_phase, lookup
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import DNS_SUBDOMAIN, Faults, maps, qualified_name_problems, sub
from sampan.cluster.apiserver.strategy import Context
from sampan.kube import quantity
from sampan.kube.objects import Object, now

_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")


def _storage(faults: Faults, value: object, path: str) -> None:
    if value is None:
        faults.required(path)
        return
    try:
        if quantity.parse(str(value)) <= 0:
            faults.invalid(path, str(value), "must be greater than zero")
    except ValueError as error:
        faults.invalid(path, str(value), str(error))


def _access_modes(faults: Faults, spec: Object, path: str, detail: str = "") -> None:
    modes, where = spec.get("accessModes") or (), f"{path}.accessModes"
    if not modes:
        faults.required(where, detail)
    for mode in modes:
        faults.one_of(where, mode or "", _MODES, required=None)
    if "ReadWriteOncePod" in modes and {*modes} & {"ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce"}:
        faults.forbidden(where, "may not use ReadWriteOncePod with other access modes")


def validate_claim(faults: Faults, spec: Object, path: str) -> None:
    """The spec of a claim, or of a template of claims."""
    _access_modes(faults, spec, path, "at least 1 access mode is required")
    _storage(faults, sub(spec, "resources", "requests").get("storage"), f"{path}.resources[storage]")
    faults.name(f"{path}.storageClassName", spec.get("storageClassName"), DNS_SUBDOMAIN, required=False)
    faults.one_given(f"{path}.volumeMode", spec.get("volumeMode"), ("Block", "Filesystem"))
    faults.label_selector(f"{path}.selector", spec.get("selector"))


def _protect(obj: Object, finalizer: str) -> None:
    """A finalizer that a controller takes off when nobody uses the volume any more."""
    finalizers = obj["metadata"].get("finalizers") or []
    if finalizer not in finalizers:
        obj["metadata"]["finalizers"] = [*finalizers, finalizer]


_BETA_CLASS = "volume.beta.kubernetes.io/storage-class"


class Claim(TableStrategy):
    rows: ClassVar[Rows] = (("spec.volumeMode", "Filesystem"),)

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["status"] = {"phase": "Pending"}
        _protect(obj, "kubernetes.io/pvc-protection")

    def default(self, obj: Object) -> None:
        super().default(obj)
        default_phase(obj, "Pending")

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        found = claim_advice(sub(new, "spec"), "spec")
        if _BETA_CLASS in (lookup(new, "metadata.annotations") or {}):
            found.append(
                f'metadata.annotations[{_BETA_CLASS}]: deprecated since v1.8; use "storageClassName" attribute instead'
            )
        return found

    def validate(self, faults: Faults, obj: Object) -> None:
        validate_claim(faults, sub(obj, "spec"), "spec")

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        def fixed(obj: Object) -> Object:
            spec = {key: value for key, value in sub(obj, "spec").items() if key != "volumeAttributesClassName"}
            if lookup(old, "status.phase") == "Bound":
                spec["resources"] = {k: v for k, v in sub(spec, "resources").items() if k != "requests"}
            for settable in ("volumeName", "storageClassName"):  # both may be set while they are not
                if lookup(old, f"spec.{settable}") is None:
                    spec.pop(settable, None)
            return spec

        if fixed(new) != fixed(old):
            faults.forbidden(
                "spec",
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound"
                " claims",
            )
        request = "spec.resources.requests.storage"
        sizes = ((new, request), (old, request), (old, "status.capacity.storage"))
        try:
            after, before, had = (quantity.parse(str(lookup(obj, path) or 0)) for obj, path in sizes)
            if after < before and after <= had:
                faults.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")
        except ValueError:  # named by `validate`
            return


_SOURCES = (
    "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd", "quobyte", "cephfs",
    "iscsi", "cinder", "fc", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk",
    "scaleIO", "local", "storageos", "csi", "flexVolume",
)  # fmt: skip
"""Where a volume may be: it is in one of these places."""


_OLD_SOURCES = {
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
}
_OLD_NOTES = {
    _BETA_CLASS: 'deprecated since v1.8; use "storageClassName" attribute instead',
    "volume.beta.kubernetes.io/mount-options": 'deprecated since v1.31; use "mountOptions" attribute instead',
}
_RECYCLE = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."


class Volume(TableStrategy):
    def warnings(self, new: Object, old: Object | None) -> list[str]:
        spec, notes = sub(new, "spec"), lookup(new, "metadata.annotations") or {}
        found = [f"metadata.annotations[{key}]: {said}" for key, said in _OLD_NOTES.items() if key in notes]
        if spec.get("persistentVolumeReclaimPolicy") == "Recycle":
            found.append(f"spec.persistentVolumeReclaimPolicy: {_RECYCLE}")
        for index, term in enumerate(maps(sub(spec, "nodeAffinity", "required").get("nodeSelectorTerms"))):
            found += node_term_advice(term, f"spec.nodeAffinity.required.nodeSelectorTerms[{index}]")
        names = {"storageos": "storageOS"}  # as upstream writes it here
        return found + [
            f"spec.{names.get(source, source)}: {said}"
            for source, said in _OLD_SOURCES.items()
            if spec.get(source) is not None
        ]

    optional = frozenset({"spec.csi.driver", "spec.csi.volumeHandle", "spec.nfs.server", "spec.nfs.path",
                          "spec.hostPath.path"})  # fmt: skip
    """Of several sources only the first is looked into: here, not by the schema."""
    rows: ClassVar[Rows] = (
        ("spec.persistentVolumeReclaimPolicy", "Retain"),
        ("spec.volumeMode", "Filesystem"),
        ("spec.hostPath.type", ""),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        default_phase(obj, "Pending")

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["status"] = {"phase": "Pending", "lastPhaseTransitionTime": now()}
        _protect(obj, "kubernetes.io/pv-protection")

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        status, since = sub(new, "status"), lookup(old, "status.lastPhaseTransitionTime")
        if ctx.subresource == "status" and status.get("phase") != lookup(old, "status.phase"):
            new["status"] = {**status, "lastPhaseTransitionTime": now()}
        elif since and not status.get("lastPhaseTransitionTime"):
            new["status"] = {**status, "lastPhaseTransitionTime": since}

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        _access_modes(faults, spec, "spec")
        capacity = spec.get("capacity") or {}
        if not capacity:
            faults.required("spec.capacity")
        if list(capacity) != ["storage"]:
            faults.one_of("spec.capacity", capacity, ("storage",), required=None)
        for name, amount in capacity.items():
            if quantity.parse(str(amount)) <= -1:
                whole = math.ceil(quantity.parse(str(amount)))
                faults.invalid(f"spec.capacity[{name}]", whole, "must be a valid resource quantity")
            _storage(faults, amount, f"spec.capacity[{name}]")
        policies = ("Delete", "Recycle", "Retain")
        faults.one_of("spec.persistentVolumeReclaimPolicy", spec.get("persistentVolumeReclaimPolicy"), policies)
        faults.name("spec.storageClassName", spec.get("storageClassName"), DNS_SUBDOMAIN, required=False)
        faults.one_given("spec.volumeMode", spec.get("volumeMode"), ("Block", "Filesystem"))
        given = [source for source in _SOURCES if spec.get(source) is not None]
        if not given:
            faults.required("spec", "must specify a volume type")
        for extra in given[1:]:
            faults.forbidden(f"spec.{extra}", "may not specify more than 1 volume type")
        if given:
            _source(faults, given[0], sub(spec, given[0]))

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        before, after = sub(old, "spec"), sub(new, "spec")
        if any(before.get(source) != after.get(source) for source in _SOURCES):
            faults.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")
        faults.immutable("volumeMode", after.get("volumeMode"), before.get("volumeMode"))


def _source(faults: Faults, name: str, source: Object) -> None:
    path = source.get("path") or ""
    if name == "hostPath":
        if not path:
            faults.required("spec.hostPath.path")
        elif ".." in path.split("/"):
            faults.invalid("spec.hostPath.path", path, "must not contain '..'")
    elif name == "nfs":
        for key in ("server", "path"):
            if not source.get(key):
                faults.required(f"spec.nfs.{key}")
        if not path.startswith("/"):
            faults.invalid("spec.nfs.path", path, "must be an absolute path")
    elif name == "csi":
        driver = source.get("driver") or ""
        if not driver:
            faults.required("spec.csi.driver")
        for problem in DNS_SUBDOMAIN(driver.lower()) if driver else ():
            faults.invalid("spec.csi.driver", driver, problem)
        if not source.get("volumeHandle"):
            faults.required("spec.csi.volumeHandle")


class StorageClass(TableStrategy):
    def warnings(self, new: Object, old: Object | None) -> list[str]:
        return [
            advice
            for index, topology in enumerate(maps(new.get("allowedTopologies")))
            for position, row in enumerate(maps(topology.get("matchLabelExpressions")))
            for advice in label_advice(
                [row.get("key")], f"allowedTopologies[{index}].matchLabelExpressions[{position}].key"
            )
        ]

    rows: ClassVar[Rows] = (("reclaimPolicy", "Delete"), ("volumeBindingMode", "Immediate"))
    immutable = ("provisioner", "reclaimPolicy", "volumeBindingMode")

    def validate(self, faults: Faults, obj: Object) -> None:
        if not obj.get("provisioner"):
            faults.required("provisioner")
        for problem in qualified_name_problems(str(obj.get("provisioner") or "x").lower()):
            faults.invalid("provisioner", obj["provisioner"], problem)
        faults.one_of("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"), required=False)
        modes = ("Immediate", "WaitForFirstConsumer")
        faults.one_given("volumeBindingMode", obj.get("volumeBindingMode"), modes, required=True)

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        faults.immutable("parameters", new.get("parameters") or {}, old.get("parameters") or {})


STRATEGIES = {
    ("", "PersistentVolumeClaim"): Claim(),
    ("", "PersistentVolume"): Volume(),
    ("storage.k8s.io", "StorageClass"): StorageClass(),
}
