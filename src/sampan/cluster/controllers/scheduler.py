"""The scheduler: a pod without node gets one as soon as one fits. What it needs of CPU and memory is not weighed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, key_of, labels_of, name_of, namespace_of, uid_of
from sampan.kube.selectors import from_label_selector
from sampan.operator import Controller, Maps, Watch
from sampan.operator.conditions import put

REFUSING = ("NoSchedule", "NoExecute")


def why_not(spec: Object, node: Object, *, daemon: bool = False) -> str | None:
    """Why a pod of this spec does not fit the node, in the scheduler's words; None when it does. `daemon` pods go to
    cordoned and not yet ready nodes too."""
    node_spec = node.get("spec") or {}
    if node_spec.get("unschedulable") and not daemon:
        return "node(s) were unschedulable"
    tolerations = spec.get("tolerations") or ()
    for taint in node_spec.get("taints") or ():
        if taint.get("effect") not in REFUSING or (daemon and taint["key"].startswith("node.kubernetes.io/")):
            continue
        if not any(_tolerates(toleration, taint) for toleration in tolerations):
            return f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value', '')}}}"
    if not (spec.get("nodeSelector") or {}).items() <= labels_of(node).items() or not _affine(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    return None


def fits(spec: Object, node: Object, *, daemon: bool = False) -> bool:
    return why_not(spec, node, daemon=daemon) is None


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("operator") == "Exists":
        return not toleration.get("key") or toleration["key"] == taint["key"]
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def _affine(spec: Object, node: Object) -> bool:
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not affinity:
        return True
    return any(_term(term, node) for term in affinity.get("nodeSelectorTerms") or ())


def _term(term: Object, node: Object) -> bool:
    labels = labels_of(node)
    expressions: list[Any] = list(term.get("matchExpressions") or ())
    for field in term.get("matchFields") or ():
        if (name_of(node) in field.get("values", ())) != (field["operator"] == "In"):
            return False
    compare = [e for e in expressions if e["operator"] in ("Gt", "Lt")]
    for expression in compare:
        value, bound = labels.get(expression["key"], ""), int(expression["values"][0])
        if not value.lstrip("-").isdigit():
            return False
        if not (int(value) > bound if expression["operator"] == "Gt" else int(value) < bound):
            return False
    rest = [e for e in expressions if e not in compare]
    return from_label_selector({"matchExpressions": rest}).matches(labels) if rest else True


class Scheduler(Controller):
    name, resource = "scheduler", kinds.POD
    component = "default-scheduler"
    workers = 8

    def watches(self) -> tuple[Watch, ...]:
        self.pods = self.cache.informer(kinds.POD, indexes={"unscheduled": _unscheduled})
        self.nodes = self.cache.informer(kinds.NODE)
        return (Maps(kinds.NODE, self._all),)

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        return new is not None and not (new.get("spec") or {}).get("nodeName") and not is_deleting(new)

    def _all(self, node: Object) -> Iterable[str]:
        return [key_of(pod) for pod in self.pods.by_index("unscheduled", "")]

    async def reconcile(self, key: str) -> None:
        pod = self.pods.get(key)
        if pod is None or (pod.get("spec") or {}).get("nodeName") or is_deleting(pod):
            return
        if pod["spec"].get("schedulerName", "default-scheduler") != "default-scheduler":
            return
        if pod["spec"].get("schedulingGates"):
            text = "Scheduling is blocked due to non-empty scheduling gates"
            await self._refuse(pod, "SchedulingGated", text)
            return
        nodes = sorted(self.nodes.list(), key=name_of)
        reasons: dict[str, int] = {}
        for node in nodes:
            reason = why_not(pod["spec"], node)
            if reason is None:
                await self._bind(pod, name_of(node))
                return
            reasons[reason] = reasons.get(reason, 0) + 1
        if not nodes:
            await self._refuse(pod, "Unschedulable", "no nodes available to schedule pods")
            return
        said = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        await self._refuse(pod, "Unschedulable", f"0/{len(nodes)} nodes are available: {said}.")

    async def _bind(self, pod: Object, node: str) -> None:
        metadata = {"name": name_of(pod), "namespace": namespace_of(pod), "uid": uid_of(pod)}
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body: Object = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        try:
            await self.client.create(kinds.POD, body, subresource="binding")
        except ApiError as error:
            if error.code not in (404, 409):
                raise
        else:
            text = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {node}"
            self.events.normal(pod, "Scheduled", text)

    async def _refuse(self, pod: Object, reason: str, message: str) -> None:
        """Say why in PodScheduled; a change of the pod or of a node tries again."""
        status = pod.get("status") or {}
        conditions = put(status.get("conditions"), "PodScheduled", False, reason, message)
        if conditions != status.get("conditions"):
            patch = {"status": {"conditions": conditions}}
            await self.client.patch(kinds.POD, name_of(pod), namespace_of(pod), patch, subresource="status")
            if reason == "Unschedulable":
                self.events.warning(pod, "FailedScheduling", message)


def _unscheduled(pod: Object) -> list[str]:
    return [] if (pod.get("spec") or {}).get("nodeName") or is_deleting(pod) else [""]
