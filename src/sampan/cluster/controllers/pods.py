"""What workload controllers share: judging pods, making them from a template, claiming them, slow starts, revisions'
hash."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import (
    Object,
    controller_of,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    parse_time,
    uid_of,
)
from sampan.kube.selectors import LabelSelector, from_label_selector
from sampan.operator.cache import OWNER
from sampan.operator.conditions import find, is_true

ORPHANS = "orphans"
FINISHED = ("Succeeded", "Failed")


def by_orphan(obj: Object) -> list[str]:
    """An index of objects without controller, by namespace: candidates for adoption."""
    return [] if controller_of(obj) else [namespace_of(obj) or ""]


INDEXES = {ORPHANS: by_orphan}


def phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_active(pod: Object) -> bool:
    """Neither finished nor on its way out."""
    return phase(pod) not in FINISHED and not is_deleting(pod)


def is_ready(pod: Object) -> bool:
    return is_true((pod.get("status") or {}).get("conditions"), "Ready")


def until_available(pod: Object, min_ready_seconds: int) -> float:
    """Seconds until the pod counts as available: 0 when it does, infinity while it is not ready."""
    condition = find((pod.get("status") or {}).get("conditions"), "Ready")
    if condition is None or condition.get("status") != "True":
        return math.inf
    if not min_ready_seconds:
        return 0.0
    since = condition.get("lastTransitionTime")
    return math.inf if not since else max(0.0, min_ready_seconds - age(since))


def age(timestamp: str) -> float:
    """Seconds since a `metav1.Time`."""
    return (datetime.now(UTC) - parse_time(timestamp)).total_seconds()


def created(obj: Object) -> str:
    return str(obj["metadata"].get("creationTimestamp") or "")


def from_template(template: Object, owner: Object, **metadata: Any) -> Object:
    """A pod of a `PodTemplateSpec`, controlled by `owner`. `metadata` (`name` or `generateName`, extra `labels`,
    `annotations`, `finalizers`) is merged over the template's."""
    given = template.get("metadata") or {}
    merged: Object = {"namespace": namespace_of(owner), "ownerReferences": [owner_reference(owner)]}
    for field in ("labels", "annotations"):
        if values := {**(given.get(field) or {}), **(metadata.pop(field, None) or {})}:
            merged[field] = values
    if finalizers := [*(given.get("finalizers") or ()), *(metadata.pop("finalizers", None) or ())]:
        merged["finalizers"] = finalizers
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**merged, **metadata},
        "spec": dict(template.get("spec") or {}),
    }


def deletion_rank(pod: Object, crowd: int) -> tuple[Any, ...]:
    """Sort key for scaling down, first to go first: unassigned, pending, not ready, cheap to delete, on a crowded node,
    ready for the shortest time, most restarts, youngest. `crowd` is how many of the set share the pod's node."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    ready = find(status.get("conditions"), "Ready")
    is_up = ready is not None and ready.get("status") == "True"
    cost = (pod["metadata"].get("annotations") or {}).get("controller.kubernetes.io/pod-deletion-cost", "0")
    restarts = max((c.get("restartCount", 0) for c in status.get("containerStatuses") or ()), default=0)
    return (
        bool(spec.get("nodeName")),
        {"Pending": 0, "Unknown": 1}.get(phase(pod), 2),
        is_up,
        int(cost) if cost.lstrip("-").isdigit() else 0,
        -crowd,
        _descending(ready.get("lastTransitionTime") if ready is not None and is_up else ""),
        -restarts,
        _descending(created(pod)),
    )


def _descending(timestamp: str | None) -> float:
    return -parse_time(timestamp).timestamp() if timestamp else 0.0


def to_delete(pods: Sequence[Object], count: int, related: Iterable[Object]) -> list[Object]:
    """The `count` pods to delete first; `related` are all pods of the owner's owner, for spreading."""
    nodes: dict[str, int] = {}
    for pod in related:
        node = (pod.get("spec") or {}).get("nodeName") or ""
        nodes[node] = nodes.get(node, 0) + 1
    ranked = sorted(pods, key=lambda p: deletion_rank(p, nodes.get((p.get("spec") or {}).get("nodeName") or "", 0)))
    return ranked[:count]


async def slow_start(count: int, make: Callable[[int], Awaitable[Any]]) -> tuple[int, Exception | None]:
    """Call `make(0..count-1)` in batches of 1, 2, 4...; stop after the first batch with a failure, so that a
    template the server refuses costs one call. Returns how many succeeded and the first error."""
    done, batch = 0, 1
    while done < count:
        size = min(batch, count - done)
        results = await asyncio.gather(*(make(done + i) for i in range(size)), return_exceptions=True)
        errors = [result for result in results if isinstance(result, Exception)]
        done += size - len(errors)
        if errors:
            return done, errors[0]
        batch *= 2
    return done, None


async def delete(client: Client, resource: Resource, obj: Object) -> bool:
    """Delete this very object; whether it was still there. ApiError for anything but that."""
    try:
        await client.delete(resource, name_of(obj), namespace_of(obj), uid=uid_of(obj))
    except ApiError as error:
        if error.code not in (404, 409):
            raise
        return False
    return True


async def claim(
    client: Client,
    resource: Resource,
    owner: Object,
    informer: Any,
    *,
    selector: LabelSelector | None = None,
    belongs: Callable[[Object], bool] = lambda obj: True,
) -> list[Object]:
    """The objects of `informer` that `owner` controls: those it has, less those its selector no longer matches
    (released), plus matching orphans (adopted). A deleting owner adopts and releases nothing. The informer needs
    `INDEXES`."""
    if selector is None:
        selector = from_label_selector((owner.get("spec") or {}).get("selector") or {})
    claimed = []
    for obj in informer.by_index(OWNER, uid_of(owner)):
        if selector.matches(labels_of(obj)) and belongs(obj):
            claimed.append(obj)
        elif not is_deleting(owner):
            await _set_owners(client, resource, obj, [r for r in _references(obj) if r.get("uid") != uid_of(owner)])
    if is_deleting(owner):
        return claimed
    for obj in informer.by_index(ORPHANS, namespace_of(owner) or ""):
        if selector.matches(labels_of(obj)) and belongs(obj) and not is_deleting(obj):
            adopted = await _set_owners(client, resource, obj, [*_references(obj), owner_reference(owner)])
            if adopted is not None:
                claimed.append(adopted)
    return claimed


def _references(obj: Object) -> list[Object]:
    return obj["metadata"].get("ownerReferences") or []


async def _set_owners(client: Client, resource: Resource, obj: Object, owners: list[Object]) -> Object | None:
    """None when the object is gone. The resourceVersion makes sure that nobody else took it meanwhile (ApiError
    409)."""
    metadata = {
        "uid": uid_of(obj),
        "resourceVersion": obj["metadata"]["resourceVersion"],
        "ownerReferences": owners or None,
    }
    try:
        return await client.patch(resource, name_of(obj), namespace_of(obj), {"metadata": metadata})
    except ApiError as error:
        if error.code != 404:
            raise
        return None


_ENCODE = msgspec.json.Encoder(order="sorted").encode
_SAFE = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words; what resource names are made of


def safe_hash(value: Any, collisions: int = 0) -> str:
    """A short name-safe hash (FNV-1a, 32 bits) of a JSON value; `collisions` gives another one for the same value."""
    data = _ENCODE(value) + (b"#%d" % collisions if collisions else b"")
    number = 2166136261
    for byte in data:
        number = (number ^ byte) * 16777619 & 0xFFFFFFFF
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(number))


def pruned(value: Any) -> Any:
    """Without nulls and empty maps, which mean the same as absence when two templates are compared."""
    if isinstance(value, dict):
        small = {key: pruned(item) for key, item in value.items()}
        return {key: item for key, item in small.items() if item is not None and item not in ({}, [])}
    if isinstance(value, list):
        return [pruned(item) for item in value]
    return value


def template_without(template: Object, *labels: str) -> Any:
    """A pod template in comparable form, less the labels that controllers add."""
    metadata = template.get("metadata") or {}
    kept = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in labels}
    return pruned({**template, "metadata": {**metadata, "labels": kept, "creationTimestamp": None}})


def scaled(value: int | str | None, total: int, *, up: bool) -> int:
    """An IntOrString against `total`: `"25%"` of it, rounded up or down."""
    if value is None:
        return 0
    if isinstance(value, str) and value.endswith("%"):
        product = int(value[:-1]) * total
        return -(-product // 100) if up else product // 100
    return int(value)


def counts(**numbers: int) -> dict[str, int]:
    """Status fields that the API omits when they are zero."""
    return {key: number for key, number in numbers.items() if number}


async def write_status(client: Client, resource: Resource, obj: Object, status: Object) -> Object:
    """Replace the status when it differs; the object as it is now. ApiError 409 when it changed meanwhile."""
    if status == (obj.get("status") or {}):
        return obj
    return await client.update(resource, {**obj, "status": status}, subresource="status")
