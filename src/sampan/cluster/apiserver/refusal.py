"""What is wrong with an object, from all who look into it, as one answer says it."""

from __future__ import annotations

import re
from collections.abc import Callable

from sampan.cluster.apiserver.kind import Kind
from sampan.kube.errors import Cause

APART = {("policy", "PodDisruptionBudget"), ("", "Event")}
"""Kinds whose metadata are checked only where nothing else is wrong with them, when they are new."""


_INDEX = re.compile(r"\[\d+\]")


def without(optional: frozenset[str], causes: list[Cause]) -> list[Cause]:
    """`causes` but for fields that are called required and may be missing; in their paths `[]` is any element."""
    if not optional:
        return causes
    return [c for c in causes if c.reason != "FieldValueRequired" or _INDEX.sub("[]", c.field) not in optional]


def all_causes(
    kind: Kind, metadata: list[Cause], typed: list[Cause], more: Callable[[], list[Cause]], *, fresh: bool
) -> list[Cause]:
    """Every fault at once. The kind's own checks run only where the types are right; what the schema requires is said
    only where they say nothing of the same field."""
    if any(cause.field.startswith("metadata.ownerReferences.") for cause in metadata):
        typed = [cause for cause in typed if not cause.field.startswith("metadata.ownerReferences[")]
    if any(cause.reason != "FieldValueRequired" for cause in typed):
        return metadata + typed
    own = more()
    if not own or not fresh or (kind.resource.group, kind.resource.kind) not in APART:
        own = metadata + own
    else:
        typed = [cause for cause in typed if not cause.field.startswith("metadata.")]
    said = {cause.field for cause in own}
    return own + [cause for cause in typed if cause.field not in said]
