"""What may be wrong with the metrics of an autoscaler, and with the objects it names."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.registry.faults import DNS_LABEL, Faults, maps, sub
from sampan.kube import names, quantity
from sampan.kube.objects import Object

_SOURCES = {
    "Object": "object", "External": "external", "Pods": "pods", "Resource": "resource",
    "ContainerResource": "containerResource",
}  # fmt: skip
"""Type of a metric -> the field that tells of it, in the order in which they are looked at: the first is checked."""
_TARGETS = ("Utilization", "Value", "AverageValue")
_STANDARD = frozenset({
    "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
    "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods", "resourcequotas", "services",
    "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims", "storage", "requests.storage",
    "services.nodeports", "services.loadbalancers",
})  # fmt: skip
"""Resources that need no domain."""


ASKED = frozenset(
    f"spec.metrics[].{source}.{field}"
    for source in _SOURCES.values()
    for field in (
        "name", "container", "metric", "metric.name", "target", "target.type", "describedObject",
        "describedObject.kind", "describedObject.name",
    )
)  # fmt: skip
"""What schemas require of every source, and is asked for only of the one that is looked at."""


def check_reference(faults: Faults, reference: Object, path: str, *, known: bool, core: bool) -> None:
    """Faults of a reference to an object of any kind. `known`: its version is not looked at; `core`: it may be of no
    group."""
    for key in ("kind", "name"):
        faults.name(f"{path}.{key}", reference.get(key), names.path_segment)
    version = reference.get("apiVersion") or ""
    if known:
        return
    if version.count("/") > 1:
        faults.invalid(f"{path}.apiVersion", version, f"unexpected GroupVersion string: {version}")
    elif not core and not version.partition("/")[0] * version.count("/"):
        faults.invalid(f"{path}.apiVersion", version, "apiVersion must specify API group")


def check_metrics(faults: Faults, spec: Object, old: Object, path: str) -> None:
    """Faults of the metrics in the `spec` of an autoscaler; `old`: its former one."""
    metrics = maps(spec.get("metrics"))
    known = any(
        sub(metric, "object", "describedObject").get("apiVersion", "").count("/") > 1
        for metric in maps(old.get("metrics"))
        if metric.get("type") == "Object"
    )
    for index, metric in enumerate(metrics):
        _metric(faults, metric, f"{path}[{index}]", known)
    if spec.get("minReplicas") == 0 and not {"Object", "External"} & {metric.get("type") for metric in metrics}:
        detail = "must specify at least one Object or External metric to support scaling to zero replicas"
        faults.forbidden(path, detail)


def _metric(faults: Faults, metric: Object, path: str, known: bool) -> None:
    type = metric.get("type") or ""
    if not type:
        faults.required(f"{path}.type", "must specify a metric source type")
    faults.one_of(f"{path}.type", type, sorted(_SOURCES), required=None)
    given = [source for source in _SOURCES.values() if metric.get(source) is not None]
    if given:
        _source(faults, given[0], sub(metric, given[0]), f"{path}.{given[0]}", known)
    wanted = _SOURCES.get(type)
    if wanted and wanted not in given:
        faults.required(f"{path}.{wanted}", "must populate information for the given metric source")
    if len(given) > 1:
        for source in given:
            if source != wanted:
                faults.forbidden(f"{path}.{source}", "must populate the given metric source only")


def _source(faults: Faults, kind: str, source: Object, path: str, known: bool) -> None:
    if kind == "object":
        check_reference(faults, sub(source, "describedObject"), f"{path}.describedObject", known=known, core=True)
    if kind in _RAW:
        name = sub(source, "metric").get("name")
        if not name:
            faults.required(f"{path}.metric.name", "must specify a metric name")
        faults.name(f"{path}.metric.name", name, names.path_segment, required=False)
    elif not source.get("name"):
        faults.required(f"{path}.name", "must specify a resource name")
    elif kind == "containerResource":
        _resource(faults, source["name"], f"{path}.name")
    if kind == "containerResource":
        if not source.get("container"):
            faults.required(f"{path}.container", "must specify a container")
        faults.name(f"{path}.container", source.get("container"), DNS_LABEL, required=False)
    target, where = sub(source, "target"), f"{path}.target"
    _target(faults, target, where)
    wanted, detail = _RAW.get(kind, _RESOURCE)
    if all(target.get(field) is None for field in wanted):
        faults.required(f"{where}.{wanted[-1]}", detail)
    if kind in _ONE and all(target.get(field) is not None for field in wanted):
        faults.forbidden(f"{where}.{wanted[0]}", _ONE[kind])


_RAW: dict[str, tuple[tuple[str, ...], str]] = {
    "object": (("value", "averageValue"), "must set either a target value or averageValue"),
    "external": (("value", "averageValue"), "must set either a target value for metric or a per-pod target"),
    "pods": (("averageValue",), "must specify a positive target averageValue"),
}
"""Sources of a metric that has a name: what of a target must be there, and what is said where none of it is."""
_RESOURCE = (
    ("averageValue", "averageUtilization"), "must set either a target raw value or a target utilization",
)  # fmt: skip
_ONE = {
    "external": "may not set both a target value for metric and a per-pod target",
    "resource": "may not set both a target raw value and a target utilization",
    "containerResource": "may not set both a target raw value and a target utilization",
}
"""Sources whose target says one thing only."""


def _resource(faults: Faults, name: str, path: str) -> None:
    before = len(faults.causes)
    faults.name(path, name, names.qualified_name)
    if "/" in name:
        return
    if len(faults.causes) == before and name not in _STANDARD and not name.startswith("hugepages-"):
        faults.invalid(path, name, "must be a standard resource type or fully qualified")
    if name not in ("cpu", "memory", "ephemeral-storage") and not name.startswith("hugepages-"):
        faults.invalid(path, name, "must be a standard resource for containers")


def _target(faults: Faults, target: Object, path: str) -> None:
    type: Any = target.get("type") or ""
    if not type:
        faults.required(f"{path}.type", "must specify a metric target type")
    if type not in _TARGETS:
        faults.invalid(f"{path}.type", type, "must be either Utilization, Value, or AverageValue")
    for field in ("value", "averageValue"):
        if target.get(field) is not None:
            try:
                if quantity.parse(str(target[field])) <= 0:
                    faults.invalid(f"{path}.{field}", target[field], "must be positive")
            except ValueError as error:
                faults.invalid(f"{path}.{field}", target[field], str(error))
    share = target.get("averageUtilization")
    if isinstance(share, int) and share < 1:
        faults.invalid(f"{path}.averageUtilization", share, "must be greater than 0")
