"""The note that `kubectl apply` leaves in an object, and what it means when `kubectl apply --server-side` takes over.

What is noted and still as noted was kubectl's: a server-side apply by the manager `kubectl` may take those fields
from whoever owns them, and keeps the note up to date while there is one. Other managers are not concerned.
"""

from __future__ import annotations

import json
from typing import Any

from sampan.kube.errors import ApiError
from sampan.kube.objects import Object
from sampan.kube.patch import fields as sets
from sampan.kube.patch.fields import Fields
from sampan.kube.schema import Schema

ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER = "kubectl"
LIMIT = 256 * 1024
"""Bytes all annotations of an object may have together."""


def note_in(obj: Object) -> str:
    annotations = obj["metadata"].get("annotations") or {}
    note = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
    return note if isinstance(note, str) else ""


def note_of(applied: Object) -> str:
    """The note that stands for an applied object."""
    metadata = applied["metadata"]
    if metadata.get("annotations", metadata) is None:
        applied = {**applied, "metadata": {key: value for key, value in metadata.items() if key != "annotations"}}
    if isinstance(metadata.get("annotations"), dict):
        annotations = {key: value for key, value in metadata["annotations"].items() if key != ANNOTATION}
        applied = {**applied, "metadata": {**metadata, "annotations": annotations}}
    text = json.dumps(applied, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text + "\n"


def renew(obj: Object, note: str) -> None:
    """Replace the note in `obj`, in place, if it has one; one too long is dropped."""
    if not note_in(obj):
        return
    annotations = {**obj["metadata"]["annotations"], ANNOTATION: note}
    if sum(len(key) + len(str(value)) for key, value in annotations.items()) > LIMIT:
        del annotations[ANNOTATION]
    obj["metadata"]["annotations"] = annotations


def fields_of(live: Object, schema: Schema) -> Fields:
    """The fields the note names that are in `live` as they are in the note; none of a note that says what is no object
    of the kind, or of an object that names an element twice."""
    from sampan.kube.decoding import typed_fault

    try:
        noted: Any = json.loads(note_in(live))
        if not isinstance(noted, dict) or noted.get("apiVersion") != live.get("apiVersion") or not noted.get("kind"):
            return {}
        if typed_fault(schema, noted) or typed_fault(schema, live):
            return {}
        named = sets.field_set(schema, noted)
        changed, removed = sets.compare(schema, noted, live)
    except (ValueError, ApiError):
        return {}
    return sets.difference(named, sets.union(changed, removed))
