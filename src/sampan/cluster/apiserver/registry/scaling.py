"""HorizontalPodAutoscaler (autoscaling/v2, and v1 as converted) and PodDisruptionBudget."""

from __future__ import annotations

from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.autoscaler_metrics import ASKED, check_metrics, check_reference
from sampan.cluster.apiserver.registry.base import TableStrategy, unchanged
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


class Autoscaler(TableStrategy):
    optional = ASKED
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
        self._validate(faults, obj, {})

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        faults = Faults()
        if not unchanged(new, old):
            self._validate(faults, new, old)
        return faults.causes

    @staticmethod
    def _validate(faults: Faults, obj: Object, old: Object) -> None:
        """Faults of an autoscaler; what an `old` one had already is none of some."""
        spec, before = sub(obj, "spec"), sub(old, "spec")
        least, most = spec.get("minReplicas"), spec.get("maxReplicas")
        reference, former = sub(spec, "scaleTargetRef"), sub(before, "scaleTargetRef")
        known = bool(old) and all((reference.get(key) or "") == (former.get(key) or "") for key in _TYPE)
        check_reference(
            faults, reference, "spec.scaleTargetRef", known=known,
            core=reference.get("kind") == "ReplicationController",
        )  # fmt: skip
        if isinstance(least, int) and least < (0 if before.get("minReplicas") == 0 else 1):
            faults.invalid("spec.minReplicas", least, "must be greater than or equal to 1")
        if isinstance(most, int) and most < 0:
            faults.invalid("spec.maxReplicas", most, "must be greater than or equal to 1")
        elif not most:
            faults.required("spec.maxReplicas", "must be set and greater than 0")
        if isinstance(least, int) and isinstance(most, int) and most < least:
            faults.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
        check_metrics(faults, spec, before, "spec.metrics")
        for direction in ("scaleUp", "scaleDown"):
            rules = sub(spec, "behavior").get(direction)
            if rules is not None:
                _rules(faults, rules, f"spec.behavior.{direction}")


_TYPE = ("apiVersion", "kind")


def _rules(faults: Faults, rules: Object, path: str) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if isinstance(window, int) and window < 0:
        faults.invalid(f"{path}.stabilizationWindowSeconds", window, "must be greater than or equal to zero")
    if isinstance(window, int) and window > 3600:
        faults.invalid(f"{path}.stabilizationWindowSeconds", window, "must be less than or equal to 3600")
    faults.one_given(f"{path}.selectPolicy", rules.get("selectPolicy"), ("Disabled", "Max", "Min"))
    policies = maps(rules.get("policies"))
    if not policies:
        faults.required(f"{path}.policies", "must specify at least one Policy")
    for index, policy in enumerate(policies):
        where = f"{path}.policies[{index}]"
        faults.one_of(f"{where}.type", policy.get("type") or "", ("Percent", "Pods"), required=None)
        for key in ("value", "periodSeconds"):
            if (policy.get(key) or 0) < 1:
                faults.invalid(f"{where}.{key}", policy.get(key) or 0, "must be greater than zero")
        if isinstance(policy.get("periodSeconds"), int) and policy["periodSeconds"] > 1800:
            faults.invalid(f"{where}.periodSeconds", policy["periodSeconds"], "must be less than or equal to 1800")
    tolerance = rules.get("tolerance")
    if tolerance is not None and quantity.parse(str(tolerance)) < 0:
        faults.invalid(f"{path}.tolerance", tolerance, "must be greater than or equal to 0")


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
