"""What an update keeps whatever it says: the server's metadata, the other half of spec and status, the generation."""

from __future__ import annotations

from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.catalog import Kind
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.store import Entry
from sampan.kube.objects import Object

POD_PARTS = {"ephemeralcontainers": ("ephemeralContainers",), "resize": ("containers", "initContainers")}
"""Subresources of a pod that change only these fields of its spec."""

SERVER_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")

STATUS_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")
"""What a write of the status of a built-in kind may change besides."""


def carry_over(call: Call, kind: Kind, new: Object, old: Object) -> None:
    """Keep what a write of this kind may not touch: the server's metadata, and the other half of spec/status."""
    if call.subresource == "status":
        given, status = new["metadata"], new.get("status")
        new.clear()
        new.update(json_copy({key: value for key, value in old.items() if key != "status"}))
        if status is not None:
            new["status"] = status
        for field in ("managedFields", *(() if kind.crd else STATUS_METADATA)):
            if field == "labels" and kind.resource.kind == "Deployment":
                continue
            new["metadata"].pop(field, None)
            if given.get(field) is not None:
                new["metadata"][field] = given[field]
        return
    if call.subresource in POD_PARTS:
        spec = new.get("spec") or {}
        parts = {name: spec[name] for name in POD_PARTS[call.subresource] if name in spec}
        managed = new["metadata"].get("managedFields")
        new.clear()
        new.update(json_copy(old))
        new["spec"].update(parts)
        if managed is not None:
            new["metadata"]["managedFields"] = managed
        return
    if kind.has_status and call.subresource != "binding":
        new.pop("status", None)
        if "status" in old:
            new["status"] = json_copy(old["status"])
    metadata, present = new["metadata"], old["metadata"]
    metadata["name"] = present["name"]
    for field in ("namespace", *SERVER_METADATA):
        metadata.pop(field, None)
        if field in present:
            metadata[field] = present[field]


def bump(call: Call, kind: Kind, new: Object, old: Object) -> None:
    if not kind.counts_generation or kind.resource.kind == "PriorityClass":  # which shows one, always the first
        return
    apart = {"metadata", "status", "apiVersion", "kind"} if kind.has_status else {"metadata", "apiVersion", "kind"}
    counts = kind.resource.kind == "Deployment" and call.subresource != "status"
    noted = [obj["metadata"].get("annotations") for obj in (new, old) if counts]
    if noted[:1] != noted[1:] or {k: v for k, v in new.items() if k not in apart} != {
        k: v for k, v in old.items() if k not in apart
    }:
        new["metadata"]["generation"] = int(old["metadata"].get("generation") or 0) + 1


def versioned(obj: Object, entry: Entry) -> Object:
    """The metadata of `obj` under the version of `entry`."""
    return {**obj["metadata"], "resourceVersion": entry.object["metadata"]["resourceVersion"]}


def alike(new: Object, old: Object) -> bool:
    """Whether two objects are the same but for who owns what of them."""

    def unowned(obj: Object) -> Object:
        return {**obj, "metadata": {key: item for key, item in obj["metadata"].items() if key != "managedFields"}}

    return unowned(new) == unowned(old)
