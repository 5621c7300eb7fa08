"""What an object uses of a quota, and which quotas are about it: rows per kind, walked by the check and the controller.

Pure; amounts of compute resources end with a pod's life, counts of objects with the object.
"""

from __future__ import annotations

import time
from typing import Any

from sampan.cluster.apiserver.admission.amounts import ONE, ZERO, Amount, Amounts, add, of_pod, read
from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.cluster.apiserver.registry.pods import qos_class
from sampan.kube.objects import Object, parse_time
from sampan.kube.quantity import to_bytes
from sampan.kube.selectors import from_label_selector

PODS, SERVICES, CLAIMS = "/pods", "/services", "/persistentvolumeclaims"
IGNORED = {"/events", "/bindings"}
LEGACY = {
    "configmaps": "/configmaps", "resourcequotas": "/resourcequotas", "secrets": "/secrets",
    "replicationcontrollers": "/replicationcontrollers",
}  # fmt: skip
"""Counts from before `count/`."""
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_POD_NAMES = {"pods", "count/pods", *_COMPUTE, *(f"{w}.{n}" for w in ("requests", "limits") for n in _COMPUTE)}
_SERVICE_NAMES = {"services", "services.loadbalancers", "services.nodeports", "count/services"}
_CLAIM_NAMES = ("persistentvolumeclaims", "requests.storage")
_BY_CLASS = ".storageclass.storage.k8s.io/"
REQUIRED = {"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"}
"""Once a quota names one of these, every container must state it."""


def table_for(name: str) -> str | None:
    """The table whose objects count towards the resource `name` of a quota; None when nothing does."""
    if name in _SERVICE_NAMES:
        return SERVICES
    if name in _CLAIM_NAMES or name == "count/persistentvolumeclaims" or _BY_CLASS in name:
        return CLAIMS
    if name.startswith("count/") and name != "count/pods":
        plural, _, group = name.removeprefix("count/").partition(".")
        return f"{group}/{plural}"
    if name in LEGACY:
        return LEGACY[name]
    extended = name.startswith("requests.") and "/" in name and "kubernetes.io/" not in name
    if name in _POD_NAMES or name.startswith(("hugepages-", "requests.hugepages-")) or extended:
        return PODS
    return None


def usage(table: str, obj: Object) -> Amounts:
    """What one object of `table` uses, by the names of quotas."""
    group, _, plural = table.partition("/")
    count = f"count/{plural}.{group}" if group else f"count/{plural}"
    if table == PODS:
        return {count: ONE, **(_compute(obj) if is_charged(obj) else {})}
    if table == SERVICES:
        return {count: ONE, "services": ONE, **_ports(sub(obj, "spec"))}
    if table == CLAIMS:
        return {count: ONE, **_storage(obj)}
    return {count: ONE, **({plural: ONE} if plural in LEGACY and not group else {})}


def is_charged(pod: Object) -> bool:
    """Whether a pod's resources count still: it is not over, and not overdue to go."""
    if sub(pod, "status").get("phase") in ("Succeeded", "Failed"):
        return False
    metadata = pod["metadata"]
    if metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds") is not None:
        end = parse_time(metadata["deletionTimestamp"]).timestamp() + metadata["deletionGracePeriodSeconds"]
        return bool(time.time() <= end)
    return True


def _compute(pod: Object) -> Amounts:
    spec = sub(pod, "spec")
    requests, limits = of_pod(spec, "requests", overhead=True), of_pod(spec, "limits", overhead=True)
    return {"pods": ONE, **_named(requests, limits)}


def _named(requests: Amounts, limits: Amounts) -> Amounts:
    found: Amounts = {}
    for name, amount in requests.items():
        if name in _COMPUTE or name.startswith("hugepages-"):
            found[name] = found[f"requests.{name}"] = amount
        elif "/" in name and "kubernetes.io/" not in name:
            found[f"requests.{name}"] = amount
    found |= {f"limits.{name}": amount for name, amount in limits.items() if name in _COMPUTE}
    return found


def _ports(spec: Object) -> Amounts:
    ports, kind = maps(spec.get("ports")), spec.get("type")
    nodeports = len(ports) if kind in ("NodePort", "LoadBalancer") else 0
    if kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False:
        nodeports = sum(bool(port.get("nodePort")) for port in ports)
    return {
        "services.nodeports": _number(nodeports),
        "services.loadbalancers": ONE if kind == "LoadBalancer" else ZERO,
    }


def _number(count: int) -> Amount:
    return sum((ONE for _ in range(count)), ZERO)


def _storage(claim: Object) -> Amounts:
    found: Amounts = {"persistentvolumeclaims": ONE}
    asked = read(sub(claim, "spec", "resources").get("requests")).get("storage")
    allocated = read(sub(claim, "status").get("allocatedResources")).get("storage")
    if asked is not None:
        most = allocated if allocated is not None and allocated.value > asked.value else asked
        found["requests.storage"] = Amount(type(most.value)(to_bytes(str(most.value))), most.binary)
    annotated = sub(claim, "metadata", "annotations").get("volume.beta.kubernetes.io/storage-class")
    name = annotated or sub(claim, "spec").get("storageClassName")
    return found | ({f"{name}{_BY_CLASS}{key}": value for key, value in found.items()} if name else {})


# -- scopes


def covers(quota: Object, table: str, obj: Object) -> bool:
    """Whether the scopes of a quota take the object in."""
    spec = sub(quota, "spec")
    rows: list[Object] = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    rows += maps(sub(spec, "scopeSelector").get("matchExpressions"))
    return all(_in_scope(row, table, obj) for row in rows)


def _in_scope(row: Object, table: str, obj: Object) -> bool:
    scope = row.get("scopeName")
    if table == CLAIMS and scope == "VolumeAttributesClass":
        return any(_fits(row, name) for name in _attribute_classes(obj) or [""])
    if table != PODS:
        return False
    spec = sub(obj, "spec")
    match scope:
        case "Terminating" | "NotTerminating":
            return has_deadline(obj) is (scope == "Terminating")
        case "BestEffort" | "NotBestEffort":
            return (qos_class(spec) == "BestEffort") is (scope == "BestEffort")
        case "PriorityClass":
            return _fits(row, spec.get("priorityClassName") or "")
        case "CrossNamespacePodAffinity":
            return _crosses(spec)
    return False


def has_deadline(pod: Object) -> bool:
    deadline = sub(pod, "spec").get("activeDeadlineSeconds")
    return isinstance(deadline, int) and deadline >= 0


def _fits(row: Object, value: str) -> bool:
    name = str(row.get("scopeName"))
    requirement = {"key": name, "operator": row.get("operator"), "values": row.get("values") or []}
    return bool(from_label_selector({"matchExpressions": [requirement]}).matches({name: value} if value else {}))


def _attribute_classes(claim: Object) -> list[str]:
    status = sub(claim, "status")
    names = (
        sub(claim, "spec").get("volumeAttributesClassName"),
        status.get("currentVolumeAttributesClassName"),
        sub(status, "modifyVolumeStatus").get("targetVolumeAttributesClassName"),
    )
    return [name for name in names if name]


def _crosses(spec: Object) -> bool:
    terms: list[Any] = []
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = sub(spec, "affinity", kind)
        terms += maps(rules.get("requiredDuringSchedulingIgnoredDuringExecution"))
        weighted = maps(rules.get("preferredDuringSchedulingIgnoredDuringExecution"))
        terms += [sub(one, "podAffinityTerm") for one in weighted]
    return any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms)


# -- what a container must state


def missing(pod: Object, names: set[str]) -> str:
    """`must specify limits.cpu for: a,b; ...`, or nothing."""
    spec, wanted = sub(pod, "spec"), names & REQUIRED
    if sub(spec, "resources").get("requests") or sub(spec, "resources").get("limits"):
        return ""
    lacking: dict[str, set[str]] = {}
    for container in (*maps(spec.get("containers")), *maps(spec.get("initContainers"))):
        resources = sub(container, "resources")
        stated = _named(read(resources.get("requests")), read(resources.get("limits")))
        for name in wanted - stated.keys():
            lacking.setdefault(name, set()).add(str(container.get("name")))
    parts = [f"{name} for: {','.join(sorted(lacking[name]))}" for name in sorted(lacking)]
    return f"must specify {'; '.join(parts)}" if parts else ""


def total(quota: Object, objects: dict[str, list[Object]]) -> dict[str, str]:
    """`status.used` of a quota over the objects of its namespace, by table."""
    hard = sub(quota, "spec", "hard")
    used: Amounts = dict.fromkeys(hard, ZERO)
    for table, members in objects.items():
        for obj in members:
            if covers(quota, table, obj):
                used = add(used, {k: v for k, v in usage(table, obj).items() if k in hard})
    return {name: str(used[name]) for name in sorted(used)}
