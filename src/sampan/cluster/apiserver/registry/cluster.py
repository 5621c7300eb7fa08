"""Namespace, Node, Event, Lease, volumes, storage and priority classes."""

from __future__ import annotations

from typing import ClassVar

from sampan.cluster.apiserver.registry.base import TableStrategy, as_text, lookup
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import (
    DNS_LABEL,
    DNS_SUBDOMAIN,
    Faults,
    maps,
    qualified_name_problems,
    sub,
)
from sampan.cluster.apiserver.strategy import Context
from sampan.kube import quantity
from sampan.kube.errors import Cause
from sampan.kube.objects import Object

_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_NAME_LABEL = "kubernetes.io/metadata.name"


class Namespace(TableStrategy):
    fields: ClassVar[dict[str, str]] = {"status.phase": ""}

    def default(self, obj: Object) -> None:
        metadata = obj.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("name"), str) and metadata["name"]:
            labels = metadata.get("labels")
            if labels is None or isinstance(labels, dict):
                metadata["labels"] = {**(labels or {}), _NAME_LABEL: metadata["name"]}

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        self.default(obj)  # the name may have been generated meanwhile
        finalizers = sub(obj, "spec").get("finalizers") or []
        spec = obj["spec"] = {**sub(obj, "spec")}
        spec["finalizers"] = finalizers if "kubernetes" in finalizers else [*finalizers, "kubernetes"]
        obj["status"] = {"phase": "Active"}

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        if ctx.subresource != "finalize" and lookup(old, "spec.finalizers") is not None:
            new["spec"] = {**sub(new, "spec"), "finalizers": lookup(old, "spec.finalizers")}


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


class Event(TableStrategy):
    fields: ClassVar[dict[str, str]] = {
        **{
            f"involvedObject.{key}": ""
            for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        },
        "reason": "",
        "type": "",
        "reportingComponent": "",
    }

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        found = super().selectable_fields(obj)
        regarding = sub(obj, "regarding")  # the name events.k8s.io/v1 has for it
        for key, value in regarding.items():
            if f"involvedObject.{key}" in found and not found[f"involvedObject.{key}"]:
                found[f"involvedObject.{key}"] = as_text(value)
        for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"):
            found[f"regarding.{key}"] = found[f"involvedObject.{key}"]
        component = lookup(obj, "source.component") or lookup(obj, "deprecatedSource.component")
        found["source"] = as_text(component or obj.get("reportingComponent") or obj.get("reportingController"))
        found["reportingController"] = as_text(obj.get("reportingController") or obj.get("reportingComponent"))
        return found

    def validate(self, faults: Faults, obj: Object) -> None:
        namespace, about = sub(obj, "metadata").get("namespace"), sub(obj, "involvedObject").get("namespace") or ""
        if not obj.get("eventTime"):
            if about != namespace and not (about == "" and namespace == "default"):
                faults.invalid("involvedObject.namespace", about, "does not match event.namespace")
            return
        if not about and namespace not in ("default", "kube-system"):
            faults.invalid("involvedObject.namespace", about, "does not match event.namespace")
        component = obj.get("reportingComponent") or ""
        if not component:
            faults.required("reportingComponent")
        for problem in qualified_name_problems(component):
            faults.invalid("reportingComponent", component, problem)
        for field, most in (("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)):
            text = obj.get(field) or ""
            if not text and field != "message":
                faults.required(field)
            if len(text) > most:
                faults.invalid(field, "", f"can have at most {most} characters")


class Lease(TableStrategy):
    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        faults.positive("spec.leaseDurationSeconds", spec.get("leaseDurationSeconds"))
        faults.non_negative("spec.leaseTransitions", spec.get("leaseTransitions"))


def _storage(faults: Faults, value: object, path: str) -> None:
    if value is None:
        faults.required(path)
        return
    try:
        if quantity.parse(str(value)) <= 0:
            faults.invalid(path, str(value), "must be greater than zero")
    except ValueError as error:
        faults.invalid(path, str(value), str(error))


def _access_modes(faults: Faults, spec: Object, detail: str = "at least 1 access mode is required") -> None:
    modes = spec.get("accessModes") or ()
    if not modes:
        faults.required("spec.accessModes", detail)
    for mode in modes:
        faults.one_of("spec.accessModes", mode, _MODES)


def _protect(obj: Object, finalizer: str) -> None:
    """A finalizer that a controller takes off when nobody uses the volume any more."""
    finalizers = obj["metadata"].get("finalizers") or []
    if finalizer not in finalizers:
        obj["metadata"]["finalizers"] = [*finalizers, finalizer]


class Claim(TableStrategy):
    rows: ClassVar[Rows] = (("spec.volumeMode", "Filesystem"),)

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["status"] = {"phase": "Pending"}
        _protect(obj, "kubernetes.io/pvc-protection")

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        if isinstance(new.get("status"), dict):
            new["status"].setdefault("phase", "Pending")
        spec = sub(new, "spec")
        for key in ("storageClassName", "volumeName"):
            if spec and spec.get(key) is None and lookup(old, f"spec.{key}") is not None:
                spec[key] = lookup(old, f"spec.{key}")

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        _access_modes(faults, spec)
        _storage(faults, sub(spec, "resources", "requests").get("storage"), "spec.resources[storage]")
        faults.name("spec.storageClassName", spec.get("storageClassName"), DNS_SUBDOMAIN, required=False)
        faults.one_of("spec.volumeMode", spec.get("volumeMode"), ("Block", "Filesystem"), required=False)
        faults.label_selector("spec.selector", spec.get("selector"))

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        def fixed(obj: Object) -> Object:
            spec = {key: value for key, value in sub(obj, "spec").items() if key != "volumeAttributesClassName"}
            if lookup(old, "status.phase") == "Bound":
                spec["resources"] = {k: v for k, v in sub(spec, "resources").items() if k != "requests"}
            for settable in ("volumeName", "storageClassName"):  # both may be set while they are not
                if lookup(old, f"spec.{settable}") is None:
                    spec.pop(settable, None)
            return spec

        if fixed(new) != fixed(old):
            faults.forbidden(
                "spec",
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound"
                " claims",
            )
        request = "spec.resources.requests.storage"
        sizes = ((new, request), (old, request), (old, "status.capacity.storage"))
        try:
            after, before, had = (quantity.parse(str(lookup(obj, path) or 0)) for obj, path in sizes)
            if after < before and after <= had:
                faults.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")
        except ValueError:  # named by `validate`
            return


class Volume(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec.persistentVolumeReclaimPolicy", "Retain"),
        ("spec.volumeMode", "Filesystem"),
        ("spec.hostPath.type", ""),
    )

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["status"] = {"phase": "Pending"}
        _protect(obj, "kubernetes.io/pv-protection")

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        _access_modes(faults, spec, "")
        if not spec.get("capacity"):
            faults.required("spec.capacity")
        else:
            _storage(faults, sub(spec, "capacity").get("storage"), "spec.capacity[storage]")
        path = sub(spec, "hostPath").get("path") or ""
        if ".." in path.split("/"):
            faults.invalid("spec.hostPath.path", path, "must not contain '..'")
        faults.one_of(
            "spec.persistentVolumeReclaimPolicy",
            spec.get("persistentVolumeReclaimPolicy"),
            ("Delete", "Recycle", "Retain"),
        )


class StorageClass(TableStrategy):
    rows: ClassVar[Rows] = (("reclaimPolicy", "Delete"), ("volumeBindingMode", "Immediate"))
    immutable = ("provisioner", "reclaimPolicy", "volumeBindingMode")

    def validate(self, faults: Faults, obj: Object) -> None:
        if not obj.get("provisioner"):
            faults.required("provisioner")
        for problem in qualified_name_problems(str(obj.get("provisioner") or "x").lower()):
            faults.invalid("provisioner", obj["provisioner"], problem)
        faults.one_of("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"))
        faults.one_of("volumeBindingMode", obj.get("volumeBindingMode"), ("Immediate", "WaitForFirstConsumer"))

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        if (new.get("parameters") or {}) != (old.get("parameters") or {}):
            faults.forbidden("parameters", "updates to parameters are forbidden.")


class PriorityClass(TableStrategy):
    rows: ClassVar[Rows] = (("preemptionPolicy", "PreemptLowerPriority"), ("value", 0))
    immutable = ("value", "preemptionPolicy")

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        return [
            Cause(cause.field, "Forbidden: may not be changed in an update.", "FieldValueForbidden")
            if cause.field == "value"
            else cause
            for cause in super().validate_update(new, old)
        ]

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
    immutable = ("handler",)

    def validate(self, faults: Faults, obj: Object) -> None:
        faults.name("handler", obj.get("handler"), DNS_LABEL)


_EVENT = Event()
STRATEGIES = {
    ("", "Namespace"): Namespace(),
    ("", "Node"): Node(),
    ("", "Event"): _EVENT,
    ("events.k8s.io", "Event"): _EVENT,
    ("coordination.k8s.io", "Lease"): Lease(),
    ("", "PersistentVolumeClaim"): Claim(),
    ("", "PersistentVolume"): Volume(),
    ("storage.k8s.io", "StorageClass"): StorageClass(),
    ("scheduling.k8s.io", "PriorityClass"): PriorityClass(),
    ("node.k8s.io", "RuntimeClass"): RuntimeClass(),
}
