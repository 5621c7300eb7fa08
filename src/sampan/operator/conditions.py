"""Status conditions (`metav1.Condition` and its older relatives without `observedGeneration`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sampan.kube.objects import Object, now


def find(conditions: Iterable[Object] | None, type: str) -> Object | None:
    return next((condition for condition in conditions or () if condition.get("type") == type), None)


def is_true(conditions: Iterable[Object] | None, type: str) -> bool:
    condition = find(conditions, type)
    return condition is not None and condition.get("status") == "True"


def put(
    conditions: Sequence[Object] | None,
    type: str,
    status: bool | str,
    reason: str,
    message: str = "",
    *,
    observed_generation: int | None = None,
    updated: bool = False,
) -> list[Object]:
    """The conditions with one set; the given list is left alone.

    `lastTransitionTime` changes only when `status` does (API conventions). `updated` adds `lastUpdateTime`, as
    Deployments have it, which changes with status, reason or message.
    """
    if isinstance(status, bool):
        status = "True" if status else "False"
    old = find(conditions, type)
    new: Object = {"type": type, "status": status, "reason": reason, "message": message}
    if observed_generation is not None:
        new["observedGeneration"] = observed_generation
    when = now()
    same_status = old is not None and old.get("status") == status
    new["lastTransitionTime"] = (
        old["lastTransitionTime"] if old and same_status and old.get("lastTransitionTime") else when
    )
    if updated:
        same = old is not None and same_status and old.get("reason") == reason and old.get("message") == message
        new["lastUpdateTime"] = old["lastUpdateTime"] if old and same and old.get("lastUpdateTime") else when
    if old is None:
        return [*(conditions or ()), new]
    if updated and not (same_status and old.get("reason") == reason):
        return [*without(conditions, type), new]  # what changed last comes last, as upstream's Deployments have it
    return [new if condition is old else condition for condition in conditions or ()]


def without(conditions: Sequence[Object] | None, type: str) -> list[Object]:
    return [condition for condition in conditions or () if condition.get("type") != type]
