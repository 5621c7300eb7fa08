"""The status of a pod, computed from its containers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.kube.objects import Object, now
from sampan.kube.quantity import parse


def phase(spec: Object, initialized: bool, containers: Sequence[Object], failed: bool) -> str:
    """`failed`: the pod as a whole was ended (deadline, lost with its node)."""
    if failed:
        return "Failed"
    states = [c["state"] for c in containers]
    if not initialized:
        return "Pending"
    if any("waiting" in s and not c["lastState"] for s, c in zip(states, containers, strict=True)):
        return "Pending"
    if any("running" in s or "waiting" in s for s in states):
        return "Running"
    codes = [s["terminated"]["exitCode"] for s in states]
    policy = spec.get("restartPolicy") or "Always"
    if policy == "Always":
        return "Running"
    if not any(codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def conditions(
    pod: Object, *, initialized: bool, created: bool, containers: Sequence[Object], phase: str
) -> list[Object]:
    """Conditions in upstream's order; `lastTransitionTime` moves only when a status does."""
    unready = [c["name"] for c in containers if not c["ready"]]
    done = phase in ("Succeeded", "Failed")
    gates = {gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()}
    old = (pod.get("status") or {}).get("conditions") or []
    met = {c["type"] for c in old if c["status"] == "True"}
    if done:
        why = ("PodCompleted" if phase == "Succeeded" else "PodFailed", "")
    else:
        why = ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    containers_ready = initialized and not unready and not done
    ready = containers_ready and gates <= met
    ready_why = why if not containers_ready else ("ReadinessGatesNotReady", "a readiness gate is not met")
    rows = (
        ("PodReadyToStartContainers", created and not done, ("", "")),
        ("Initialized", initialized, ("ContainersNotInitialized", "containers with incomplete status")),
        ("Ready", ready, ready_why),
        ("ContainersReady", containers_ready, why),
        ("PodScheduled", True, ("", "")),
    )
    known = {c["type"]: c for c in old}
    found = []
    for kind, holds, (reason, message) in rows:
        before = known.pop(kind, None)
        status = "True" if holds else "False"
        entry: Object = {"type": kind, "status": status}
        if not holds and reason:
            entry |= {"reason": reason, **({"message": message} if message else {})}
        same = before is not None and before["status"] == status
        entry["lastTransitionTime"] = before.get("lastTransitionTime") if same and before else now()
        found.append(entry)
    return found + list(known.values())


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort (Kubernetes, "Pod Quality of Service Classes")."""
    asked = False
    guaranteed = True
    for container in (spec.get("containers") or []) + (spec.get("initContainers") or []):
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        asked = asked or any(key in ("cpu", "memory") for key in (*limits, *requests))
        for key in ("cpu", "memory"):
            limit = limits.get(key)
            if limit is None or parse(str(requests.get(key, limit))) != parse(str(limit)):
                guaranteed = False
    if not asked:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
