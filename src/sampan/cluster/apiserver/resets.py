"""What the endpoints of an object leave as it is, whatever is written: nobody comes to own it by such a write."""

from __future__ import annotations

from sampan.cluster.apiserver.kind import Kind
from sampan.kube.patch.fields import Fields
from sampan.kube.patch.managed_fields import Reset

_STATUS: Fields = {"f:status": {}}
_SPEC: Fields = {"f:spec": {}}
_ALL_BUT_STATUS: Fields = {"f:metadata": {}, **_SPEC}

BY_STATUS: dict[tuple[str, str], Fields] = {
    ("", "Pod"): {**_SPEC, "f:metadata": {"f:deletionTimestamp": {}, "f:ownerReferences": {}}},
    ("apps", "Deployment"): {**_SPEC, "f:metadata": {"f:labels": {}}},
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"): _ALL_BUT_STATUS,
    ("storage.k8s.io", "VolumeAttachment"): _ALL_BUT_STATUS,
}  # fmt: skip
"""Built-in kinds of which the status leaves more than the spec alone."""


METADATA = ("labels", "annotations", "finalizers", "ownerReferences", "generateName")


def status_metadata(kind: Kind) -> tuple[str, ...]:
    """The metadata that a write of the status of a kind may change besides."""
    cut = of(kind, "status")(kind.resource.api_version).get("f:metadata", {"f:": {}})
    return tuple(name for name in METADATA if cut and f"f:{name}" not in cut)


def keeps_marks(kind: Kind, subresource: str | None) -> bool:
    """Whether a write may say what a deletion leaves in the metadata, if only to be refused."""
    cut = of(kind, subresource)(kind.resource.api_version).get("f:metadata")
    return cut is None or (cut != {} and "f:deletionTimestamp" not in cut)


def of(kind: Kind, subresource: str | None) -> Reset:
    """By version. A custom kind leaves as it is what it does in the version of the request, and no other."""
    resource = kind.resource
    if subresource == "status":
        cut = _ALL_BUT_STATUS if kind.crd is not None else BY_STATUS.get((resource.group, resource.kind), _SPEC)
    else:
        cut = _STATUS if kind.has_status else {}
    if kind.crd is None:
        return lambda _: cut
    return lambda version: cut if version == resource.api_version else {}
