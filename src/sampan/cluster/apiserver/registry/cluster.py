"""Namespace, Node, Lease, priority and runtime classes. Volumes are in `volumes.py`."""

from __future__ import annotations

from typing import ClassVar

from sampan.cluster.apiserver.registry.advice import label_advice
from sampan.cluster.apiserver.registry.base import TableStrategy, default_phase, lookup
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import (
    DNS_LABEL,
    Faults,
    maps,
    qualified_name_problems,
    sub,
)
from sampan.cluster.apiserver.strategy import Context
from sampan.kube.errors import Cause
from sampan.kube.objects import Object

_NAME_LABEL = "kubernetes.io/metadata.name"


class Namespace(TableStrategy):
    fields: ClassVar[dict[str, str]] = {"status.phase": ""}

    def default(self, obj: Object) -> None:
        metadata = obj.get("metadata")
        if isinstance(metadata, dict) and not metadata.get("generateName"):  # its name comes later
            self._label(obj)
        default_phase(obj, "Active")

    @staticmethod
    def _label(obj: Object) -> None:
        metadata = obj.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("name"), str) and metadata["name"]:
            labels = metadata.get("labels")
            if labels is None or isinstance(labels, dict):
                metadata["labels"] = {**(labels or {}), _NAME_LABEL: metadata["name"]}

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        self._label(obj)
        finalizers = sub(obj, "spec").get("finalizers") or []
        spec = obj["spec"] = {**sub(obj, "spec")}
        spec["finalizers"] = finalizers if "kubernetes" in finalizers else [*finalizers, "kubernetes"]
        obj["status"] = {"phase": "Active"}

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        self._label(new)
        if ctx.subresource != "finalize":
            kept = {key: value for key, value in sub(old, "spec").items() if key == "finalizers"}
            new["spec"] = {key: value for key, value in sub(new, "spec").items() if key != "finalizers"} | kept

    def validate_create(self, obj: Object) -> list[Cause]:
        return self._finalizers(obj, "")

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        faults.causes += self._finalizers(new, "[{}]")

    @staticmethod
    def _finalizers(obj: Object, place: str) -> list[Cause]:
        faults = Faults()
        for index, finalizer in enumerate(sub(obj, "spec").get("finalizers") or ()):
            where, name = f"spec.finalizers{place.format(index)}", finalizer or ""
            for problem in qualified_name_problems(name):
                faults.invalid(where, name, problem)
            if "/" not in name and name not in ("kubernetes", "orphan", "foregroundDeletion"):
                detail = "name is neither a standard finalizer name nor is it fully qualified"
                faults.invalid(where, name, detail)
        return faults.causes

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        causes, phase = super().validate_update(new, old), lookup(new, "status.phase")
        gone = bool(new["metadata"].get("deletionTimestamp"))
        wanted = "Terminating" if gone else "Active"
        if phase != wanted and phase != lookup(old, "status.phase"):
            said = f"may only be '{wanted}' if `deletionTimestamp` is {'not ' if gone else ''}empty"
            causes.append(Cause("status.Phase", f'Invalid value: "{phase}": {said}'))
        return causes


class Node(TableStrategy):
    fields: ClassVar[dict[str, str]] = {"spec.unschedulable": "false"}

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        if not isinstance(obj.get("spec"), dict):
            obj["spec"] = {}

    def validate(self, faults: Faults, obj: Object) -> None:
        for index, taint in enumerate(maps(sub(obj, "spec").get("taints"))):
            where = f"spec.taints[{index}]"
            for message in qualified_name_problems(taint.get("key") or ""):
                faults.invalid(f"{where}.key", taint.get("key") or "", message)
            faults.one_of(f"{where}.effect", taint.get("effect"), ("NoSchedule", "PreferNoSchedule", "NoExecute"))


class Lease(TableStrategy):
    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        faults.positive("spec.leaseDurationSeconds", spec.get("leaseDurationSeconds"))
        faults.non_negative("spec.leaseTransitions", spec.get("leaseTransitions"))


class PriorityClass(TableStrategy):
    rows: ClassVar[Rows] = (("preemptionPolicy", "PreemptLowerPriority"), ("value", 0))

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        faults = Faults()
        if (new.get("value") or 0) != (old.get("value") or 0):
            faults.forbidden("value", "may not be changed in an update.")
        faults.immutable("preemptionPolicy", new.get("preemptionPolicy"), old.get("preemptionPolicy"))
        return faults.causes

    def validate(self, faults: Faults, obj: Object) -> None:
        value, name = obj.get("value") or 0, sub(obj, "metadata").get("name") or ""
        if value > 1_000_000_000 and not name.startswith("system-"):
            faults.forbidden("value", "maximum allowed value of a user defined priority is 1000000000")
        if name.startswith("system-") and name not in ("system-cluster-critical", "system-node-critical"):
            faults.forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only. error:"
                f" {name} is not a known system priority class",
            )
        faults.one_of("preemptionPolicy", obj.get("preemptionPolicy"), ("PreemptLowerPriority", "Never"))


class RuntimeClass(TableStrategy):
    def warnings(self, new: Object, old: Object | None) -> list[str]:
        return label_advice(sub(new, "scheduling", "nodeSelector"), "scheduling.nodeSelector")

    immutable = ("handler",)

    def validate(self, faults: Faults, obj: Object) -> None:
        faults.name("handler", obj.get("handler"), DNS_LABEL)


STRATEGIES = {
    ("", "Namespace"): Namespace(),
    ("", "Node"): Node(),
    ("coordination.k8s.io", "Lease"): Lease(),
    ("scheduling.k8s.io", "PriorityClass"): PriorityClass(),
    ("node.k8s.io", "RuntimeClass"): RuntimeClass(),
}
