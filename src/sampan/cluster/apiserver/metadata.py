"""The checks of `metadata` that all kinds share."""

from __future__ import annotations

import json

from sampan.cluster.apiserver import resets
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.kind import Kind
from sampan.kube import names
from sampan.kube.errors import ApiError, Cause, conflict
from sampan.kube.objects import Object

STANDARD_FINALIZERS = {"orphan", "foregroundDeletion", "kubernetes"}
REGISTRY_PLACES = {
    "services": "services/specs", "endpoints": "services/endpoints", "replicationcontrollers": "controllers",
    "ingresses": "ingress", "nodes": "minions",
}  # fmt: skip
"""Where upstream keeps kinds whose place is not their plural: seen in messages."""
WHOLE_GROUPS = {"apiextensions.k8s.io", "apiregistration.k8s.io"}
"""Groups that are part of the place of their kinds."""
PLAIN_FINALIZERS = {"policy", "coordination.k8s.io", "apiextensions.k8s.io", "admissionregistration.k8s.io"}
"""Groups whose finalizers need not be standard ones or have a domain, as those of custom kinds."""


def _is_core_event(kind: Kind) -> bool:
    return kind.table == "/events" and not kind.resource.group


def causes_of(kind: Kind, obj: Object, name: str) -> list[Cause]:
    metadata = obj["metadata"]
    if not name:
        return [Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")]
    found = [
        names.invalid_value("metadata.name", name, fault)
        for fault in names.object_name(kind.resource.group, kind.resource.kind, name)
    ]
    try:
        found += names.label_map(metadata.get("labels"))
        found += names.annotation_map(metadata.get("annotations"))
        for index, finalizer in enumerate(metadata.get("finalizers") or ()):
            path = f"metadata.finalizers[{index}]"
            found += [names.invalid_value("metadata.finalizers", finalizer, f) for f in names.qualified_name(finalizer)]
            extension = kind.crd is not None or kind.resource.group in PLAIN_FINALIZERS or _is_core_event(kind)
            if not extension and "/" not in finalizer and finalizer not in STANDARD_FINALIZERS:
                fault = "name is neither a standard finalizer name nor is it fully qualified"
                found.append(names.invalid_value(path, finalizer, fault))
        if {"orphan", "foregroundDeletion"} <= set(metadata.get("finalizers") or ()):
            fault = "finalizer orphan and foregroundDeletion cannot be both set"
            shown = json.dumps(metadata["finalizers"], separators=(",", ":"))
            found.append(Cause("metadata.finalizers", f"Invalid value: {shown}: {fault}"))
    except (TypeError, AttributeError):
        pass  # of the wrong type, which the schema reports
    return found + _owner_causes([one for one in metadata.get("ownerReferences") or () if isinstance(one, dict)])


def _owner_causes(owners: list[Object]) -> list[Cause]:
    """What is wrong with owners: fields that are missing, more than one of them in control."""
    found, first = [], ""
    for owner in owners:
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                what = "version " if field == "apiVersion" else ""
                path = f"metadata.ownerReferences.{field}"
                found.append(Cause(path, f'Invalid value: "": {what}must not be empty'))
        if owner.get("controller") is True:
            name = f"{owner.get('kind') or ''}/{owner.get('name') or ''}"
            if first:
                shown = json.dumps([_owner(one) for one in owners], separators=(",", ":"))
                fault = f'Found "true" in references for {first} and {name}'
                text = f"Invalid value: {shown}: Only one reference can have Controller set to true. {fault}"
                found.append(Cause("metadata.ownerReferences", text))
            first = first or name
    return found


def _owner(owner: Object) -> Object:
    """An owner as it is shown: what names it, and what else it says."""
    made = {field: owner.get(field) or "" for field in ("apiVersion", "kind", "name", "uid")}
    return made | {
        field: owner[field] for field in ("controller", "blockOwnerDeletion") if owner.get(field) is not None
    }


def finalizer_warnings(new: Object, old: Object | None) -> list[str]:
    """What to tell of finalizers that a write adds to a custom object: one without a domain may be another's, too."""
    before = set(old["metadata"].get("finalizers") or ()) if old else set()
    added = {one for one in new["metadata"].get("finalizers") or () if isinstance(one, str)} - before
    return [
        f'metadata.finalizers: "{one}": prefer a domain-qualified finalizer name to avoid accidental conflicts with'
        " other finalizer writers"
        for one in sorted(added)
        if "/" not in one and one not in STANDARD_FINALIZERS
    ]


def finalizer_causes(new: Object, old: Object) -> list[Cause]:
    if not old["metadata"].get("deletionTimestamp"):
        return []
    before = set(old["metadata"].get("finalizers") or ())
    added = [one for one in new["metadata"].get("finalizers") or () if one not in before]
    if not added:
        return []
    shown = ", ".join(f'"{one}"' for one in added)
    message = (
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers"
        f" []string{{{shown}}}"
    )
    return [Cause("metadata.finalizers", message, "FieldValueForbidden")]


def change_causes(call: Call, new: Object, old: Object, marks: Object) -> list[Cause]:
    """Faults of what an update makes of the metadata. `marks`: those of a deletion that it brings; they may be of none
    that there was, or tell of another grace."""
    present = old["metadata"]
    if not resets.keeps_marks(call.served, call.subresource):
        marks = {}
    return finalizer_causes(new, old) + [
        names.invalid_value(f"metadata.{field}", value, "field is immutable")
        for field, value in marks.items()
        if value != present.get(field) and not (field == "deletionTimestamp" and field in present)
    ]


def check_unborn(call: Call, metadata: Object) -> None:
    """An update may create an object, whatever version it names, but not one of a uid."""
    metadata.pop("resourceVersion", None)
    if uid := metadata.get("uid"):
        raise uid_conflict(call, uid, "")


def uid_conflict(call: Call, wanted: str, present: str) -> ApiError:
    """409 for a write to an object of another uid, which tells its place in etcd, or as far as a dry run comes."""
    resource = call.served.resource
    place = REGISTRY_PLACES.get(resource.plural, resource.plural)
    if call.served.crd is not None or resource.group in WHOLE_GROUPS:
        place = f"{resource.group}/{place}"
    root = "" if call.dry_run else "/registry"
    return conflict(
        resource.plural, call.name,
        f"StorageError: invalid object, Code: 4, Key: {root}/{place}/{call.key}, ResourceVersion: 0,"
        f" AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {present}",
        resource.group,
    )  # fmt: skip
