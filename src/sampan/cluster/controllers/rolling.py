"""How many replicas each ReplicaSet of a Deployment gets. Pure: objects in, sizes out.

The arithmetic is that of Kubernetes: maxSurge rounds up, maxUnavailable down, and when both come to nothing one pod
may be unavailable, so that a rollout always can move.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sampan.cluster.controllers.pods import created, scaled
from sampan.kube.objects import Object, annotations_of, is_deleting, name_of

DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"

Sizes = list[tuple[Object, int]]


def is_recreate(deployment: Object) -> bool:
    return bool((deployment["spec"].get("strategy") or {}).get("type") == "Recreate")


def replicas_of(obj: Object) -> int:
    return int(obj["spec"].get("replicas", 1))


def available_of(obj: Object) -> int:
    return int((obj.get("status") or {}).get("availableReplicas") or 0)


def limits(deployment: Object) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; both 0 for Recreate."""
    if is_recreate(deployment):
        return 0, 0
    parameters = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    replicas = replicas_of(deployment)
    surge = scaled(parameters.get("maxSurge", "25%"), replicas, up=True)
    unavailable = scaled(parameters.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, replicas)


def bounds(deployment: Object) -> dict[str, str]:
    """The annotations on every set that say for which scale its size was worked out."""
    replicas = replicas_of(deployment)
    return {DESIRED: str(replicas), MAXIMUM: str(replicas + limits(deployment)[0])}


def was_rescaled(deployment: Object, sets: Sequence[Object]) -> bool:
    """Whether an active set was sized for another number of replicas than the Deployment now wants."""
    wanted = str(replicas_of(deployment))
    return any(replicas_of(s) and annotations_of(s).get(DESIRED, wanted) != wanted for s in sets)


def new_size(deployment: Object, new: Object | None, old: Sequence[Object]) -> int:
    """The new set's size: as much as maxSurge leaves room for."""
    replicas, present = replicas_of(deployment), replicas_of(new) if new else 0
    if present >= replicas or is_recreate(deployment):
        return replicas
    total = sum(map(replicas_of, old)) + present
    room = replicas + limits(deployment)[0] - total
    return present + max(0, min(room, replicas - present))


def old_sizes(deployment: Object, new: Object, old: Sequence[Object]) -> Sizes:
    """Sizes of old sets that shrink: first the pods that are not available anyway, then as many as maxUnavailable
    lets go. New pods that are not available yet count against it."""
    minimum = replicas_of(deployment) - limits(deployment)[1]
    total = sum(map(replicas_of, old)) + replicas_of(new)
    budget = total - minimum - max(0, replicas_of(new) - available_of(new))
    if budget <= 0:
        return []
    ordered = sorted((s for s in old if not is_deleting(s)), key=created)
    sizes = {name_of(s): replicas_of(s) for s in ordered}
    for replica_set in ordered:
        drop = min(budget, max(0, replicas_of(replica_set) - available_of(replica_set)))
        sizes[name_of(replica_set)] -= drop
        budget -= drop
    spare = sum(min(available_of(s), replicas_of(s)) for s in [*old, new]) - minimum
    for replica_set in ordered:
        drop = max(0, min(budget, spare, sizes[name_of(replica_set)]))
        sizes[name_of(replica_set)] -= drop
        budget -= drop
        spare -= drop
    return [(s, sizes[name_of(s)]) for s in ordered if sizes[name_of(s)] != replicas_of(s)]


def proportional(deployment: Object, new: Object | None, old: Sequence[Object]) -> Sizes:
    """Sizes after the Deployment was scaled in the middle of a rollout, or while paused: the change is shared among
    the active sets in proportion to their sizes, the biggest taking what rounding leaves."""
    wanted = replicas_of(deployment)
    sets = [*old, new] if new else list(old)
    active = [s for s in sets if replicas_of(s) > 0]
    if len(active) <= 1:
        chosen = active[0] if active else new or max(old, key=created, default=None)
        return [(chosen, wanted)] if chosen else []
    if new and replicas_of(new) == wanted == available_of(new) and annotations_of(new).get(DESIRED) == str(wanted):
        return [(s, 0) for s in active if s is not new]
    if is_recreate(deployment):
        return []
    allowed = wanted + limits(deployment)[0] if wanted else 0
    change = allowed - sum(map(replicas_of, active))
    active.sort(key=created, reverse=change > 0)
    active.sort(key=replicas_of, reverse=True)
    sizes, given = [], 0
    for replica_set in active:
        share = _share(replica_set, deployment, change, given)
        given += share
        sizes.append(replicas_of(replica_set) + share)
    sizes[0] = max(0, sizes[0] + change - given)
    return list(zip(active, sizes, strict=True))


def _share(replica_set: Object, deployment: Object, change: int, given: int) -> int:
    size, left = replicas_of(replica_set), change - given
    if size == 0 or left == 0:
        return 0
    wanted = replicas_of(deployment)
    if wanted == 0:
        share = -size
    else:
        before = int(annotations_of(replica_set).get(MAXIMUM) or (deployment.get("status") or {}).get("replicas") or 1)
        exact = Fraction(size * (wanted + limits(deployment)[0]), max(1, before))
        share = int(exact + Fraction(1, 2)) - size
    return min(share, left) if change > 0 else max(share, left)
