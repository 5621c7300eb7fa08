"""What a cluster's own objects decide in others: priority, storage class, ingress class, and a pod's account."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver.admission.quota import refusal
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.registry.faults import sub
from sampan.cluster.apiserver.registry.pods import tolerate_lost_nodes
from sampan.kube import kinds, quantity
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

    Change = Callable[[Call, Object, ApiServer], None]
    Check = Callable[[Call, Object, Object | None, ApiServer], None]

SYSTEM_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
PREEMPTS = "PreemptLowerPriority"
DEFAULT_STORAGE = "storageclass.kubernetes.io/is-default-class"
DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"


def _account(call: Call, pod: Object, server: ApiServer) -> None:
    spec = sub(pod, "spec")
    name = spec.get("serviceAccountName") or "default"
    found = server.peek(kinds.SERVICE_ACCOUNT, name, call.namespace)
    # The account `default` may lag a moment behind its namespace; any other one has to be there.
    if found is None and name != "default":
        raise refusal(
            call, pod,
            f'error looking up service account {call.namespace}/{name}: serviceaccount "{name}" not found',
        )  # fmt: skip
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    secrets = (found or {}).get("imagePullSecrets")
    if secrets and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [{"name": one.get("name", "")} for one in secrets]


def _priority(call: Call, pod: Object, server: ApiServer) -> None:
    spec = sub(pod, "spec")
    name = spec.get("priorityClassName")
    found: Object | None = None
    if name:
        found = server.peek(kinds.PRIORITY_CLASS, name)
        if found is None and name in SYSTEM_PRIORITIES:
            found = {"value": SYSTEM_PRIORITIES[name]}
        if found is None:
            raise refusal(call, pod, f"no PriorityClass with name {name} was found")
    else:
        marked = [one for one in server.peek_all(kinds.PRIORITY_CLASS) if one.get("globalDefault")]
        found = min(marked, key=lambda one: one.get("value") or 0, default=None)
        if found is not None:
            spec["priorityClassName"] = found["metadata"]["name"]
    value, policy = (found or {}).get("value") or 0, (found or {}).get("preemptionPolicy") or PREEMPTS
    given = spec.get("priority")
    if given is not None and given != value:
        raise refusal(
            call, pod,
            f"the integer value of priority ({given}) must not be provided in pod spec; priority admission controller"
            f" computed {value} from the given PriorityClass name",
        )  # fmt: skip
    given = spec.get("preemptionPolicy")
    if given is not None and given != policy:
        raise refusal(
            call, pod,
            f"the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission"
            f" controller computed {policy} from the given PriorityClass name",
        )  # fmt: skip
    spec["priority"], spec["preemptionPolicy"] = value, policy


def _runtime(call: Call, pod: Object, server: ApiServer) -> None:
    """What the pod's RuntimeClass adds: overhead, and where it may run."""
    spec = sub(pod, "spec")
    name = spec.get("runtimeClassName")
    if not name:
        if spec.get("overhead"):
            why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            raise refusal(call, pod, why)
        return
    found = server.peek(kinds.RUNTIME_CLASS, name)
    if found is None:
        raise refusal(call, pod, f'pod rejected: RuntimeClass "{name}" not found')
    overhead, scheduling = sub(found, "overhead").get("podFixed"), sub(found, "scheduling")
    if spec.get("overhead") and spec["overhead"] != overhead:
        raise refusal(call, pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
    if overhead:
        spec["overhead"] = dict(overhead)
    chosen, own = scheduling.get("nodeSelector") or {}, spec.get("nodeSelector") or {}
    for key, value in sorted(chosen.items()):
        if own.get(key, value) != value:
            raise refusal(
                call, pod,
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value};"
                f" pod.spec.nodeSelector[{key}] = {own[key]}",
            )  # fmt: skip
    if chosen:
        spec["nodeSelector"] = {**own, **chosen}
    present = spec.get("tolerations") or []
    added = [one for one in scheduling.get("tolerations") or () if one not in present]
    if added:
        spec["tolerations"] = [*present, *added]


def _pod(call: Call, pod: Object, server: ApiServer) -> None:
    if isinstance(pod.get("spec"), dict):
        _account(call, pod, server)
        _priority(call, pod, server)
        tolerate_lost_nodes(pod["spec"])
        _runtime(call, pod, server)


def _marked(server: ApiServer, resource: Resource, annotation: str) -> list[Object]:
    """The classes annotated as default, the newest first."""
    found = [
        one for one in server.peek_all(resource) if (one["metadata"].get("annotations") or {}).get(annotation) == "true"
    ]
    found.sort(key=lambda one: str(one["metadata"]["name"]))
    return sorted(found, key=lambda one: str(one["metadata"]["creationTimestamp"]), reverse=True)


def _claim(call: Call, claim: Object, server: ApiServer) -> None:
    spec = sub(claim, "spec")
    annotated = "volume.beta.kubernetes.io/storage-class" in sub(claim, "metadata", "annotations")
    if spec and spec.get("storageClassName") is None and not annotated:
        for found in _marked(server, kinds.STORAGE_CLASS, DEFAULT_STORAGE)[:1]:
            spec["storageClassName"] = found["metadata"]["name"]


def _ingress(call: Call, ingress: Object, server: ApiServer) -> None:
    spec = sub(ingress, "spec")
    annotated = "kubernetes.io/ingress.class" in sub(ingress, "metadata", "annotations")
    if spec and spec.get("ingressClassName") is None and not annotated:
        for found in _marked(server, kinds.INGRESS_CLASS, DEFAULT_INGRESS)[:1]:
            spec["ingressClassName"] = found["metadata"]["name"]


CHANGES: dict[tuple[str, str], Change] = {
    ("", "Pod"): _pod,
    ("", "PersistentVolumeClaim"): _claim,
    ("networking.k8s.io", "Ingress"): _ingress,
}


def _one_default(call: Call, new: Object, old: Object | None, server: ApiServer) -> None:
    if not new.get("globalDefault"):
        return
    for other in server.peek_all(kinds.PRIORITY_CLASS):
        name = other["metadata"]["name"]
        if other.get("globalDefault") and name != new["metadata"].get("name"):
            raise refusal(call, new, f"PriorityClass {name} is already marked as default. Only one default can exist")


def _growth(call: Call, new: Object, old: Object | None, server: ApiServer) -> None:
    """A claim grows only when it is bound, and where its class says that volumes do."""
    if old is None:
        return
    after, before = (sub(one, "spec", "resources", "requests").get("storage") for one in (new, old))
    try:
        if quantity.parse(str(after or 0)) <= quantity.parse(str(before or 0)):
            return
    except ValueError:  # named by the kind's own rules
        return
    if sub(old, "status").get("phase") != "Bound":
        raise refusal(call, new, "Only bound persistent volume claims can be expanded")
    found = server.peek(kinds.STORAGE_CLASS, sub(old, "spec").get("storageClassName") or "")
    if not (found or {}).get("allowVolumeExpansion"):
        raise refusal(
            call, new,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support"
            " resize",
        )  # fmt: skip


CHECKS: dict[tuple[str, str], Check] = {
    ("scheduling.k8s.io", "PriorityClass"): _one_default,
    ("", "PersistentVolumeClaim"): _growth,
}


def system_classes() -> list[dict[str, Any]]:
    """The two PriorityClasses that every cluster has."""
    rows = (
        ("system-node-critical", "Used for system critical pods that must not be moved from their current node."),
        (
            "system-cluster-critical",
            "Used for system critical pods that must run in the cluster, but can be moved to another node if"
            " necessary.",
        ),
    )
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": SYSTEM_PRIORITIES[name],
            "preemptionPolicy": PREEMPTS,
            "description": why,
        }
        for name, why in rows
    ]
