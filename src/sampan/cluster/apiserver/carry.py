"""What an update keeps whatever it says: the server's metadata, the other half of spec and status, the generation."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver import resets
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.literal import has_empty
from sampan.cluster.store import Entry
from sampan.kube.errors import Cause
from sampan.kube.objects import Object, exactly
from sampan.kube.sameness import same

POD_PARTS = {"ephemeralcontainers": ("ephemeralContainers",), "resize": ("containers", "initContainers")}
"""Subresources of a pod that change only these fields of its spec."""

SERVER_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def carry_over(call: Call, kind: Kind, new: Object, old: Object) -> None:
    """Keep what a write of this kind may not touch: the server's metadata, and the other half of spec/status."""
    if call.subresource == "status":
        given, status = new["metadata"], new.get("status")
        new.clear()
        new.update(json_copy({key: value for key, value in old.items() if key != "status"}))
        if status is not None:
            new["status"] = status
        for field in ("managedFields", *resets.status_metadata(kind)):
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
    if metadata.get("managedFields") == []:  # of a built-in kind it means what is not lost with what is empty
        metadata["managedFields"] = [{}] if kind.crd is None else None
    metadata["name"] = present["name"]
    for field in ("namespace", *SERVER_METADATA):
        metadata.pop(field, None)
        if field in present:
            metadata[field] = present[field]


MARKS = ("deletionTimestamp", "deletionGracePeriodSeconds")
"""What a deletion leaves in the metadata: no update can change it, and one that does not say it takes its owners."""


def marks(sent: Object) -> Object:
    """The marks of a deletion that a write brings."""
    return {field: sent["metadata"][field] for field in MARKS if sent["metadata"].get(field) is not None}


def marked(new: Object, brought: Object) -> Object:
    """`new` with the marks that were brought, as its owners are told by; `new` itself where they are its own."""
    metadata = {field: value for field, value in new["metadata"].items() if field not in MARKS} | brought
    return new if metadata == new["metadata"] else {**new, "metadata": metadata}


LABELLED = {"Job", "ReplicationController"}
"""Built-in kinds without labels of their own have those of their template, as whose nobody owns them."""


def is_owned_as_sent(kind: Kind) -> bool:
    """Whether a write of the status is tracked with all that was sent: the owners of a custom kind in several versions
    may be unknowable by it, and a kind may have metadata by its spec."""
    if kind.crd is None:
        return kind.builtin in LABELLED
    return kind.converter is None and len(kind.crd["spec"]["versions"]) > 1


def without_spec(obj: Object, status: Any) -> Object:
    """What one who creates an object by way of its status comes to own of it."""
    kept = {key: value for key, value in obj.items() if key != "spec"}
    return kept if status is None else {**kept, "status": json_copy(status)}


def own(new: Object, sent: Object, *, readable: bool) -> None:
    """Give an object, in place, the owners of what was sent; none where that is not `readable` as its types."""
    owners = sent["metadata"].get("managedFields") if readable else None
    new["metadata"].pop("managedFields", None)
    if owners is not None:
        new["metadata"]["managedFields"] = owners


LITERAL = {"NetworkPolicy": "spec", "MutatingWebhookConfiguration": "webhooks",
           "ValidatingWebhookConfiguration": "webhooks"}  # fmt: skip
"""Built-in kinds whose generation counts a change of this field by Go's letter, where an empty list that was given is
another than none at all, as which it is stored."""


FILLED = {"policyTypes"}
"""Fields of them that have a default where nothing is in them."""


def gives_empty(kind: Kind, wanted: Object) -> bool:
    """Whether an object says of a list or map, in the field that counts by the letter, that nothing is in it."""
    name = LITERAL.get(kind.builtin, "")
    node, said = kind.schema.properties.get(name), wanted.get(name)
    if isinstance(said, dict):
        said = {field: value for field, value in said.items() if field not in FILLED}
    return node is not None and has_empty(node, said)


FROZEN = {"ConfigMap": ("binaryData",), "Secret": ("data",)}
"""Built-in kinds of which, once they are immutable, an empty map is another than none at all."""


def emptied(kind: Kind, wanted: Object, old: Object) -> list[Cause]:
    """What an update of such a kind says is empty and is not there."""
    if not old.get("immutable"):
        return []
    return [
        Cause(field, "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")
        for field in FROZEN.get(kind.builtin, ())
        if wanted.get(field) == {} and not old.get(field)
    ]


def bump(call: Call, kind: Kind, new: Object, old: Object, *, literal: bool = False) -> None:
    """Count a change in the generation; `literal`: what was sent `gives_empty`."""
    if not kind.counts_generation or kind.builtin == "PriorityClass":  # which shows one, always the first
        return
    apart = {"metadata", "status", "apiVersion", "kind"} if kind.has_status else {"metadata", "apiVersion", "kind"}
    counts = COUNTED.get(kind.builtin) if call.subresource != "status" else None
    noted = [obj["metadata"].get(counts) or {} for obj in (new, old) if counts]
    if (
        literal
        or noted[:1] != noted[1:]
        or not same(kind.written_schema, *({k: v for k, v in obj.items() if k not in apart} for obj in (new, old)))
    ):
        new["metadata"]["generation"] = int(old["metadata"].get("generation") or 0) + 1


COUNTED = {"Deployment": "annotations", "EndpointSlice": "labels"}
"""Built-in kinds whose generation counts changes of this field of their metadata, too."""


def versioned(obj: Object, entry: Entry) -> Object:
    """The metadata of `obj` under the version of `entry`."""
    return {**obj["metadata"], "resourceVersion": entry.object["metadata"]["resourceVersion"]}


def alike(new: Object, old: Object) -> bool:
    """Whether two objects are the same but for who owns what of them."""

    def unowned(obj: Object) -> Object:
        return {**obj, "metadata": {key: item for key, item in obj["metadata"].items() if key != "managedFields"}}

    return exactly(unowned(new), unowned(old))
