"""HorizontalPodAutoscaler (autoscaling/v2, and v1 as converted) and PodDisruptionBudget."""

from __future__ import annotations

from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import DNS_SUBDOMAIN, Faults, maps, part_or_percent, sub
from sampan.kube import quantity
from sampan.kube.errors import Cause
from sampan.kube.objects import Object

_UP_POLICIES = [
    {"type": "Pods", "value": 4, "periodSeconds": 15},
    {"type": "Percent", "value": 100, "periodSeconds": 15},
]
_DOWN_POLICIES = [{"type": "Percent", "value": 100, "periodSeconds": 15}]
_SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_TARGETS = {"Utilization": "averageUtilization", "AverageValue": "averageValue", "Value": "value"}


class Autoscaler(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec.minReplicas", 1),
        ("spec.behavior.scaleUp", {}),
        ("spec.behavior.scaleUp.stabilizationWindowSeconds", 0),
        ("spec.behavior.scaleUp.selectPolicy", "Max"),
        ("spec.behavior.scaleUp.policies", _UP_POLICIES),
        ("spec.behavior.scaleDown", {}),
        ("spec.behavior.scaleDown.selectPolicy", "Max"),
        ("spec.behavior.scaleDown.policies", _DOWN_POLICIES),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        spec = obj.get("spec")
        if isinstance(spec, dict) and obj.get("apiVersion") != "autoscaling/v1" and not spec.get("metrics"):
            target = {"type": "Utilization", "averageUtilization": 80}
            spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        least, most = spec.get("minReplicas"), spec.get("maxReplicas")
        reference = sub(spec, "scaleTargetRef")
        for key in ("kind", "name"):
            if not reference.get(key):
                faults.required(f"spec.scaleTargetRef.{key}")
        if "/" not in (reference.get("apiVersion") or ""):
            faults.invalid(
                "spec.scaleTargetRef.apiVersion", reference.get("apiVersion") or "", "apiVersion must specify API group"
            )
        if isinstance(least, int) and least < 1:
            faults.invalid("spec.minReplicas", least, "must be greater than or equal to 1")
        if isinstance(most, int) and most < 0:
            faults.invalid("spec.maxReplicas", most, "must be greater than or equal to 1")
        elif not most:
            faults.required("spec.maxReplicas", "must be set and greater than 0")
        if least == 0 and not {"Object", "External"} & {metric.get("type") for metric in maps(spec.get("metrics"))}:
            detail = "must specify at least one Object or External metric to support scaling to zero replicas"
            faults.forbidden("spec.metrics", detail)
        if isinstance(least, int) and isinstance(most, int) and most < least:
            faults.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
        for index, metric in enumerate(maps(spec.get("metrics"))):
            _metric(faults, metric, f"spec.metrics[{index}]")
        for direction in ("scaleUp", "scaleDown"):
            rules = sub(spec, "behavior").get(direction)
            if rules is not None:
                _rules(faults, rules, f"spec.behavior.{direction}")


def _metric(faults: Faults, metric: Object, path: str) -> None:
    type = metric.get("type")
    if type not in _SOURCES:
        if not type:
            faults.required(f"{path}.type", "must specify a metric source type")
        faults.one_of(f"{path}.type", type or "", sorted(_SOURCES), required=None)
        if isinstance(resource := metric.get("resource"), dict):
            _target(faults, sub(resource, "target"), f"{path}.resource.target")
        return
    where, source = f"{path}.{_SOURCES[type]}", metric.get(_SOURCES[type])
    if source is None:
        faults.required(where, "must populate information for the given metric source")
        return
    if type in ("Resource", "ContainerResource"):
        if not source.get("name"):
            faults.required(f"{where}.name", "must specify a resource name")
        if type == "ContainerResource" and not source.get("container"):
            faults.required(f"{where}.container", "must specify a container")
    else:
        faults.name(f"{where}.metric.name", sub(source, "metric").get("name"), _metric_name)
        faults.label_selector(f"{where}.metric.selector", sub(source, "metric").get("selector"))
    if type == "Object":
        for key in ("kind", "name"):
            if not sub(source, "describedObject").get(key):
                faults.required(f"{where}.describedObject.{key}")
    _target(faults, sub(source, "target"), f"{where}.target")


def _metric_name(text: str) -> list[str]:
    return ["must not contain '/'"] if "/" in text else []


def _target(faults: Faults, target: Object, path: str) -> None:
    if not target.get("type"):
        faults.required(f"{path}.type", "must specify a metric target type")
    if target.get("type") not in _TARGETS:
        faults.invalid(f"{path}.type", target.get("type") or "", "must be either Utilization, Value, or AverageValue")
    given = [field for field in _TARGETS.values() if target.get(field) is not None]
    if not given:
        field = _TARGETS.get(target.get("type") or "", "averageUtilization")
        faults.required(f"{path}.{field}", "must set either a target raw value or a target utilization")
    if "averageUtilization" in given:
        if isinstance(target["averageUtilization"], int) and target["averageUtilization"] < 1:
            faults.invalid(f"{path}.averageUtilization", target["averageUtilization"], "must be greater than 0")
        if "averageValue" in given:
            faults.forbidden(f"{path}.averageValue", "may not set both a target raw value and a target utilization")
    for field in ("value", "averageValue"):
        if field in given:
            try:
                if quantity.parse(str(target[field])) <= 0:
                    faults.invalid(f"{path}.{field}", target[field], "must be positive")
            except ValueError as error:
                faults.invalid(f"{path}.{field}", target[field], str(error))


def _rules(faults: Faults, rules: Object, path: str) -> None:
    window = rules.get("stabilizationWindowSeconds")
    faults.non_negative(f"{path}.stabilizationWindowSeconds", window)
    if isinstance(window, int) and window > 3600:
        faults.invalid(f"{path}.stabilizationWindowSeconds", window, "must be less than or equal to 3600")
    faults.one_given(f"{path}.selectPolicy", rules.get("selectPolicy"), ("Disabled", "Max", "Min"))
    policies = maps(rules.get("policies"))
    if not policies:
        faults.required(f"{path}.policies", "must specify at least one Policy")
    for index, policy in enumerate(policies):
        where = f"{path}.policies[{index}]"
        faults.one_of(f"{where}.type", policy.get("type"), ("Percent", "Pods"))
        for key in ("value", "periodSeconds"):
            if isinstance(policy.get(key), int) and policy[key] < 1:
                faults.invalid(f"{where}.{key}", policy[key], "must be greater than zero")
        if isinstance(policy.get("periodSeconds"), int) and policy["periodSeconds"] > 1800:
            faults.invalid(f"{where}.periodSeconds", policy["periodSeconds"], "must be less than or equal to 1800")


class DisruptionBudget(TableStrategy):
    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        faults = Faults()
        if new.get("status") != old.get("status"):
            faults.conditions("status.conditions", sub(new, "status").get("conditions"))
        return super().validate_update(new, old) + faults.causes

    def validate(self, faults: Faults, obj: Object) -> None:
        spec: Any = sub(obj, "spec")
        if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
            fields = ("minAvailable", "selector", "maxUnavailable", "unhealthyPodEvictionPolicy")
            shown = {field[0].upper() + field[1:]: spec.get(field) for field in fields}  # as Go names them
            faults.invalid("spec", shown, "minAvailable and maxUnavailable cannot be both set")
        for key in ("minAvailable", "maxUnavailable"):
            part_or_percent(faults, f"spec.{key}", spec.get(key))
        faults.label_selector("spec.selector", spec.get("selector"))
        evicted = spec.get("unhealthyPodEvictionPolicy")
        faults.one_given("spec.unhealthyPodEvictionPolicy", evicted, ("AlwaysAllow", "IfHealthyBudget"))


class Scale(TableStrategy):
    """Body of `/scale`."""

    def validate(self, faults: Faults, obj: Object) -> None:
        faults.name("metadata.name", sub(obj, "metadata").get("name"), DNS_SUBDOMAIN, required=False)
        faults.non_negative("spec.replicas", sub(obj, "spec").get("replicas"))


STRATEGIES = {
    ("autoscaling", "HorizontalPodAutoscaler"): Autoscaler(),
    ("autoscaling", "Scale"): Scale(),
    ("policy", "PodDisruptionBudget"): DisruptionBudget(),
}
