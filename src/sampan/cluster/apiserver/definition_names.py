"""Whether the names of a definition are free, and what its status says of it. Custom kinds only: upstream looks at none
but those of the same group."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.store import Entry
from sampan.kube.objects import Object, now

# field of the names, reason of a conflict, whether it is a kind
_FIELDS = (
    ("plural", "PluralConflict", False),
    ("singular", "SingularConflict", False),
    ("shortNames", "ShortNamesConflict", False),
    ("kind", "KindConflict", True),
    ("listKind", "ListKindConflict", True),
)


def condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}


CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""The finalizer that holds a definition from its deletion on, until its objects are gone."""
PENDING = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"


def mark(crd: Object, since: str) -> None:
    """Mark a definition for deletion, in place; a second time it has no grace left, as upstream has it."""
    metadata = crd["metadata"]
    if metadata.get("deletionTimestamp"):
        metadata["deletionGracePeriodSeconds"] = 0
        return
    metadata["deletionTimestamp"] = since
    if CLEANUP not in (metadata.get("finalizers") or ()):
        metadata["finalizers"] = [*(metadata.get("finalizers") or ()), CLEANUP]
    _set(crd, condition("Terminating", "True", "InstanceDeletionPending", PENDING))


def going(current: Entry | None) -> Object | None:
    """A definition whose objects are being deleted says so."""
    if current is None:
        return None
    crd: Object = json_copy(current.object)
    _set(crd, condition("Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"))
    return crd


def _set(crd: Object, row: Object) -> None:
    status = crd.setdefault("status", {})
    status["conditions"] = [c for c in status.get("conditions") or () if c.get("type") != row["type"]] + [row]


def accepted(crd: Object, others: Iterable[Object]) -> tuple[Object, Object]:
    """(names that are accepted, the condition NamesAccepted). `others` are the definitions there are."""
    wanted, present = crd["spec"]["names"], (crd.get("status") or {}).get("acceptedNames") or {}
    resources: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        names = (other.get("status") or {}).get("acceptedNames") or {}
        if other["metadata"]["name"] == crd["metadata"]["name"] or other["spec"]["group"] != crd["spec"]["group"]:
            continue
        resources |= {names.get("plural") or "", names.get("singular") or "", *(names.get("shortNames") or ())}
        kinds |= {names.get("kind") or "", names.get("listKind") or ""}
    said = condition("NamesAccepted", "True", "NoConflicts", "no conflicts found")
    given: Object = {"kind": "", "plural": "", **present}
    for field, reason, is_kind in _FIELDS:
        asked = wanted.get(field)
        if not asked:
            given.pop(field, None)
            continue
        taken = [
            name
            for name in (asked if isinstance(asked, list) else [asked])
            if name not in (present.get(field) or ()) and name in (kinds if is_kind else resources)
        ]
        if not taken:
            given[field] = asked
            continue
        shown = [f'"{name}" is already in use' for name in taken]
        text = shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"
        said = condition("NamesAccepted", "False", reason, text)
    given.pop("categories", None)
    if wanted.get("categories"):
        given["categories"] = wanted["categories"]
    return given, said


def established(before: Iterable[Object], names_accepted: bool) -> Object:
    """The condition Established; once true it stays so."""
    present = next((row for row in before if row.get("type") == "Established"), None)
    if present is not None and present.get("status") == "True":
        return present
    if names_accepted:
        return condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted")
    return condition("Established", "False", "NotAccepted", "not all names are accepted")


def is_waiting(crd: Object) -> bool:
    """Whether a definition waits for names that another one has."""
    rows = (crd.get("status") or {}).get("conditions") or ()
    return any(row.get("type") == "NamesAccepted" and row.get("status") == "False" for row in rows)
