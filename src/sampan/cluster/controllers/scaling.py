"""The arithmetic of the HorizontalPodAutoscaler: from measured use to a number of replicas, and its limits. Pure.

It is the algorithm of Kubernetes: pods that are not ready or have no measurement yet are assumed to use nothing when
scaling up and their whole target when scaling down, so that neither direction is taken on a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from msgspec import Struct

from sampan.cluster.controllers.pods import age, phase
from sampan.cluster.runtime import Usage
from sampan.kube.objects import Object, is_deleting, name_of, namespace_of, parse_time
from sampan.kube.quantity import milli
from sampan.operator.conditions import find

TOLERANCE = 0.1
INITIALIZATION_SECONDS = 300.0
READINESS_DELAY_SECONDS = 30.0

Measured = Mapping[tuple[str, str], Mapping[str, Usage]]


class MetricError(Exception):
    """A metric that gives no number now; `reason` is for the ScalingActive condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Sorted(Struct, frozen=True):
    """Pods by what is known of them: use in thousandths (of a core, of a byte) of those that count, names of the
    rest."""

    use: dict[str, int]
    unready: set[str]
    missing: set[str]


class Proposal(Struct, frozen=True):
    """What one metric asks for; `current` goes into the status."""

    replicas: int
    what: str
    current: Object


def sort_pods(chosen: Iterable[Object], resource: str, container: str | None, measured: Measured) -> Sorted:
    use: dict[str, int] = {}
    unready: set[str] = set()
    missing: set[str] = set()
    for pod in chosen:
        if is_deleting(pod) or phase(pod) == "Failed":
            continue
        name = name_of(pod)
        usage = measured.get((namespace_of(pod) or "", name)) or {}
        wanted = [u for c, u in usage.items() if container in (None, c)]
        if phase(pod) == "Pending":
            unready.add(name)
        elif not wanted:
            missing.add(name)
        elif resource == "cpu" and _cpu_unready(pod, wanted[0]):
            unready.add(name)
        else:
            use[name] = sum(round(u.cpu * 1000) if resource == "cpu" else u.memory * 1000 for u in wanted)
    return Sorted(use, unready, missing)


def _cpu_unready(pod: Object, usage: Usage) -> bool:
    """CPU burnt while starting says nothing about load."""
    status = pod.get("status") or {}
    ready, started = find(status.get("conditions"), "Ready"), status.get("startTime")
    if ready is None or not started or not ready.get("lastTransitionTime"):
        return True
    changed = parse_time(ready["lastTransitionTime"])
    if age(started) < INITIALIZATION_SECONDS:
        return ready["status"] == "False" or usage.timestamp < changed + timedelta(seconds=usage.window)
    return bool(
        ready["status"] == "False" and parse_time(started) + timedelta(seconds=READINESS_DELAY_SECONDS) > changed
    )


def requests(chosen: Iterable[Object], resource: str, container: str | None) -> dict[str, int]:
    """Requested thousandths per pod name. Raises MetricError when a container requests nothing."""
    result = {}
    for pod in chosen:
        total = 0
        spec = pod["spec"]
        sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
        for each in [*spec["containers"], *sidecars]:
            if container not in (None, each["name"]):
                continue
            request = ((each.get("resources") or {}).get("requests") or {}).get(resource)
            if request is None:
                raise MetricError(
                    "FailedGetResourceMetric",
                    f"missing request for {resource} in container {each['name']} of Pod {name_of(pod)}",
                )
            total += milli(request)
        result[name_of(pod)] = total
    return result


def replicas_for(pods: Sorted, wanted: Mapping[str, int], current: int, up: float, down: float) -> tuple[int, float]:
    """(replicas, ratio of use to target). `wanted` is each pod's target use; `up` and `down` are tolerances."""
    if not pods.use:
        raise MetricError(
            "FailedGetResourceMetric", "did not receive metrics for targeted pods (pods might be unready)"
        )
    ratio = _ratio(pods.use, wanted)
    up_with_unready = bool(pods.unready) and ratio > 1
    if not up_with_unready and not pods.missing:
        steady = 1 - down <= ratio <= 1 + up
        return (current if steady else math.ceil(round(ratio * len(pods.use), 9))), ratio
    use = dict(pods.use)
    if ratio < 1:
        use |= {name: wanted[name] for name in pods.missing}
    elif ratio > 1:
        use |= dict.fromkeys(pods.missing, 0)
    if up_with_unready:
        use |= dict.fromkeys(pods.unready, 0)
    again = _ratio(use, wanted)
    if 1 - down <= again <= 1 + up or (ratio < 1 < again) or (ratio > 1 > again):
        return current, ratio
    replicas = math.ceil(round(again * len(use), 9))
    if (again < 1 and replicas > current) or (again > 1 and replicas < current):
        return current, ratio
    return replicas, ratio


def _ratio(use: Mapping[str, int], wanted: Mapping[str, int]) -> float:
    total = sum(wanted[name] for name in use)
    if total <= 0:
        raise MetricError("FailedGetResourceMetric", "the pods' requests or the target are zero")
    return sum(use.values()) / total


# Behaviour: how fast, and how surely


class Change(Struct, frozen=True):
    """A rescale that was made: `by` replicas (negative: fewer) at loop time `at`."""

    at: float
    by: int


DEFAULT_UP: Object = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
DEFAULT_DOWN: Object = {
    "stabilizationWindowSeconds": 300,
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}


def rules(autoscaler: Object, direction: str) -> Object:
    """`behavior.scaleUp` or `.scaleDown` over the defaults."""
    defaults = DEFAULT_UP if direction == "scaleUp" else DEFAULT_DOWN
    given = (autoscaler["spec"].get("behavior") or {}).get(direction) or {}
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}


def stabilize(
    current: int, desired: int, past: Sequence[tuple[float, int]], at: float, *, up: Object, down: Object
) -> int:
    """The recommendation nearest to `current` that every recommendation within the windows supports."""
    highest = lowest = desired
    for when, value in past:
        if when > at - up["stabilizationWindowSeconds"]:
            lowest = min(lowest, value)
        if when > at - down["stabilizationWindowSeconds"]:
            highest = max(highest, value)
    return min(max(current, lowest), highest)


def limit_up(current: int, changes: Sequence[Change], at: float, rule: Object) -> int:
    if rule["selectPolicy"] == "Disabled":
        return current
    limits: list[int] = []
    for policy in rule["policies"]:
        start = current - _net(changes, at - policy["periodSeconds"])
        by_pods = start + policy["value"]
        limits.append(by_pods if policy["type"] == "Pods" else math.ceil(start * (100 + policy["value"]) / 100))
    return max(current, min(limits) if rule["selectPolicy"] == "Min" else max(limits))


def limit_down(current: int, changes: Sequence[Change], at: float, rule: Object) -> int:
    if rule["selectPolicy"] == "Disabled":
        return current
    limits: list[int] = []
    for policy in rule["policies"]:
        start = current - _net(changes, at - policy["periodSeconds"])
        by_pods = start - policy["value"]
        limits.append(by_pods if policy["type"] == "Pods" else start * (100 - policy["value"]) // 100)
    return min(current, max(limits) if rule["selectPolicy"] == "Min" else min(limits))


def _net(changes: Sequence[Change], since: float) -> int:
    return sum(change.by for change in changes if change.at > since)
