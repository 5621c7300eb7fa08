"""The shape of Kubernetes objects, and the small accessors that everything else shares."""

from __future__ import annotations

import os
import time
from copy import deepcopy
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TypedDict
from uuid import UUID

import msgspec

Object = dict[str, Any]
"""A Kubernetes object in its JSON shape."""


class WatchEvent(TypedDict):
    """One element of a watch stream. An ERROR event carries a `Status`; a BOOKMARK only kind and resourceVersion."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: Object


def name_of(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Object) -> str | None:
    """The object's namespace; None for a cluster-scoped one."""
    found: str | None = obj["metadata"].get("namespace")
    return found


def uid_of(obj: Object) -> str:
    return str(obj["metadata"]["uid"])


def key_of(obj: Object) -> str:
    """`namespace/name`, or `name` for a cluster-scoped object: the key of caches and work queues."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def split_key(key: str) -> tuple[str | None, str]:
    """The inverse of `key_of`: (namespace or None, name)."""
    namespace, slash, name = key.rpartition("/")
    return (namespace if slash else None), name


def labels_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def is_deleting(obj: Object) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def copy_of(obj: Object) -> Object:
    """A deep copy that may be changed."""
    return deepcopy(obj)


_sorted = msgspec.json.Encoder(order="sorted").encode


def exactly(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, where no number is a truth value: Python takes 1 and True for one."""
    if one is other:
        return True
    if one != other:
        return False
    if isinstance(one, dict | list):
        return _sorted(one) == _sorted(other)
    return one.__class__ is other.__class__  # quicker than their text, which is what most comparisons are of


_random = bytearray()
os.register_at_fork(after_in_child=_random.clear)


def new_uid() -> str:
    """A random (version 4) UUID. The system's randomness is fetched for many at once: each fetch lets other threads
    in, which costs far more than the bytes."""
    if not _random:
        _random.extend(os.urandom(16 * 64))
    raw = bytes(_random[-16:])
    del _random[-16:]
    return str(UUID(bytes=raw, version=4))


def now() -> str:
    """The present as `metav1.Time`: RFC 3339, UTC, whole seconds."""
    return _second_text(int(time.time()))


@lru_cache(maxsize=4)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    """The present as `metav1.MicroTime`: RFC 3339, UTC, exactly six digits."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """A `metav1.Time` or `MicroTime` as an aware datetime. Raises ValueError."""
    return datetime.fromisoformat(text)


def controller_of(obj: Object) -> Object | None:
    """The owner reference with `controller: true`, if there is one."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def owner_reference(owner: Object, *, controller: bool = True, block: bool = True) -> Object:
    """An owner reference to `owner`, to be put in a child's `metadata.ownerReferences`."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": controller,
        "blockOwnerDeletion": block,
    }
