"""The checks of `metadata` that all kinds share."""

from __future__ import annotations

from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.catalog import Kind
from sampan.kube import names
from sampan.kube.errors import Cause, conflict
from sampan.kube.objects import Object

STANDARD_FINALIZERS = {"orphan", "foregroundDeletion", "kubernetes"}
REGISTRY_PLACES = {"services": "services/specs", "endpoints": "services/endpoints"}
"""Where upstream keeps kinds whose place is not their plural: seen in messages."""


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
            extension = kind.crd is not None or kind.resource.group == "apiextensions.k8s.io"
            if not extension and "/" not in finalizer and finalizer not in STANDARD_FINALIZERS:
                fault = "name is neither a standard finalizer name nor is it fully qualified"
                found.append(names.invalid_value(path, finalizer, fault))
    except (TypeError, AttributeError):
        pass  # of the wrong type, which the schema reports
    for owner in metadata.get("ownerReferences") or ():
        for field in ("apiVersion", "kind", "name", "uid"):
            if isinstance(owner, dict) and not owner.get(field):
                what = "version " if field == "apiVersion" else ""
                path = f"metadata.ownerReferences.{field}"
                found.append(Cause(path, f'Invalid value: "": {what}must not be empty'))
    return found


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


def check_unborn(call: Call, metadata: Object) -> None:
    """An update may create an object, whatever version it names, but not one of a uid."""
    metadata.pop("resourceVersion", None)
    if uid := metadata.get("uid"):
        resource = call.served.resource
        place = REGISTRY_PLACES.get(resource.plural, resource.plural)
        raise conflict(
            resource.plural, call.name,
            f"StorageError: invalid object, Code: 4, Key: /registry/{place}/{call.key}, ResourceVersion: 0,"
            f" AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: ",
            resource.group,
        )  # fmt: skip
