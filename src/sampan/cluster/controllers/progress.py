"""A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.

kubectl's `rollout status` and `wait` read these; reasons and messages are those of Kubernetes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sampan.cluster.controllers import pods
from sampan.cluster.controllers.rolling import available_of, limits, replicas_of
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, name_of, now
from sampan.operator.conditions import find, put, without

NEVER = 2147483647
"""The progressDeadlineSeconds that means none."""


def is_complete(deployment: Object, new: Object) -> bool:
    """Every wanted replica is of the new set and available, and nothing else is left."""
    status, wanted = deployment.get("status") or {}, replicas_of(deployment)
    return bool(
        (new.get("status") or {}).get("replicas", 0) == wanted == available_of(new)
        and status.get("updatedReplicas", 0) == wanted == status.get("replicas", 0)
        and status.get("availableReplicas", 0) == wanted
        and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
    )


async def note_pause(client: Client, deployment: Object) -> Object:
    """Say in the Progressing condition that the rollout is paused, or resumed: paused time is no lack of progress."""
    if not _has_deadline(deployment):
        return deployment
    condition = find((deployment.get("status") or {}).get("conditions"), "Progressing")
    reason = condition.get("reason") if condition else None
    if reason == "ProgressDeadlineExceeded":
        return deployment
    paused = bool(deployment["spec"].get("paused"))
    if paused and reason != "DeploymentPaused":
        return await _note(client, deployment, "Unknown", "DeploymentPaused", "Deployment is paused")
    if not paused and reason == "DeploymentPaused":
        return await _note(client, deployment, "Unknown", "DeploymentResumed", "Deployment is resumed")
    return deployment


async def note_new_set(client: Client, deployment: Object, name: str, *, created: bool) -> None:
    if not _has_deadline(deployment):
        return
    if created:
        await _note(client, deployment, "True", "NewReplicaSetCreated", f'Created new replica set "{name}"')
    elif find((deployment.get("status") or {}).get("conditions"), "Progressing") is None:
        await _note(client, deployment, "True", "FoundNewReplicaSet", f'Found new replica set "{name}"')


async def note_failure(client: Client, deployment: Object, message: str) -> None:
    await _note(client, deployment, "False", "ReplicaSetCreateError", message)


async def note_collision(client: Client, deployment: Object, before: int) -> None:
    """Another set has the name our hash gives: the next attempt hashes differently."""
    status = {**(deployment.get("status") or {}), "collisionCount": before + 1}
    await pods.write_status(client, kinds.DEPLOYMENT, deployment, status)


async def _note(client: Client, deployment: Object, status: str, reason: str, message: str) -> Object:
    present = deployment.get("status") or {}
    conditions = put(present.get("conditions"), "Progressing", status, reason, message, updated=True)
    return await pods.write_status(client, kinds.DEPLOYMENT, deployment, {**present, "conditions": conditions})


async def write(client: Client, deployment: Object, new: Object | None, old: Sequence[Object]) -> float:
    """Write the status. Returns seconds until the progress deadline has to be looked at, or infinity."""
    before = deployment.get("status") or {}
    sets = [*old, new] if new else list(old)
    available = sum(map(available_of, sets))
    wanted = replicas_of(deployment)

    def total(field: str) -> int:
        return sum((s.get("status") or {}).get(field) or 0 for s in sets)

    status: Object = {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **pods.counts(
            replicas=total("replicas"),
            updatedReplicas=((new or {}).get("status") or {}).get("replicas") or 0,
            readyReplicas=total("readyReplicas"),
            availableReplicas=available,
            unavailableReplicas=max(0, sum(map(replicas_of, sets)) - available),
            collisionCount=before.get("collisionCount") or 0,
        ),
    }
    conditions = list(before.get("conditions") or ())
    if available >= wanted - limits(deployment)[1]:
        text = "Deployment has minimum availability."
        conditions = put(conditions, "Available", True, "MinimumReplicasAvailable", text, updated=True)
    else:
        text = "Deployment does not have minimum availability."
        conditions = put(conditions, "Available", False, "MinimumReplicasUnavailable", text, updated=True)
    conditions = _replica_failure(conditions, [new] if new else [], old)
    conditions, wait = _progress(deployment, status, conditions, new)
    if conditions:
        status["conditions"] = conditions
    try:
        await pods.write_status(client, kinds.DEPLOYMENT, deployment, status)
    except ApiError as error:
        if error.code != 404:
            raise
    return wait


def _replica_failure(conditions: list[Object], new: Sequence[Object], old: Sequence[Object]) -> list[Object]:
    for replica_set in [*new, *old]:
        failure = find((replica_set.get("status") or {}).get("conditions"), "ReplicaFailure")
        if failure is not None:
            reason, message = failure.get("reason", ""), failure.get("message", "")
            return put(conditions, "ReplicaFailure", failure["status"], reason, message, updated=True)
    return without(conditions, "ReplicaFailure")


def _has_deadline(deployment: Object) -> bool:
    return (deployment["spec"].get("progressDeadlineSeconds") or NEVER) != NEVER


def _progress(
    deployment: Object, status: Object, conditions: list[Object], new: Object | None
) -> tuple[list[Object], float]:
    """Conditions with Progressing brought up to date, and seconds until the deadline."""
    if not _has_deadline(deployment):
        return without(conditions, "Progressing"), math.inf
    before, wanted = deployment.get("status") or {}, replicas_of(deployment)
    present = find(conditions, "Progressing")
    subject = f'ReplicaSet "{name_of(new)}"' if new else f'Deployment "{name_of(deployment)}"'
    replicas, updated = status.get("replicas", 0), status.get("updatedReplicas", 0)
    was_done = present is not None and present.get("reason") == "NewReplicaSetAvailable"
    if deployment["spec"].get("paused") or (
        was_done and replicas == updated and new is not None and _same(before, new)
    ):
        return conditions, math.inf
    if new is not None and updated == replicas == status.get("availableReplicas", 0) == wanted:
        text = f"{subject} has successfully progressed."
        return put(conditions, "Progressing", True, "NewReplicaSetAvailable", text, updated=True), math.inf
    moved = (
        updated > before.get("updatedReplicas", 0)
        or replicas - updated < before.get("replicas", 0) - before.get("updatedReplicas", 0)
        or status.get("readyReplicas", 0) > before.get("readyReplicas", 0)
        or status.get("availableReplicas", 0) > before.get("availableReplicas", 0)
    )
    deadline = float(deployment["spec"]["progressDeadlineSeconds"])
    if moved:
        text = f"{subject} is progressing."
        conditions = put(conditions, "Progressing", True, "ReplicaSetUpdated", text, updated=True)
        fresh = [{**c, "lastUpdateTime": now()} if c["type"] == "Progressing" else c for c in conditions]
        return fresh, deadline
    if present is None or present.get("reason") == "ProgressDeadlineExceeded":
        return conditions, math.inf
    left = deadline - pods.age(present.get("lastUpdateTime") or present["lastTransitionTime"])
    if left < 0:
        text = f"{subject} has timed out progressing."
        return put(conditions, "Progressing", False, "ProgressDeadlineExceeded", text, updated=True), math.inf
    return conditions, left + 1.0


def _same(before: Object, new: Object) -> bool:
    """Whether the rollout that had finished is still the present one: then lost pods are repaired, not rolled out."""
    progressing = find(before.get("conditions"), "Progressing")
    return progressing is not None and f'"{name_of(new)}"' in progressing.get("message", "")
