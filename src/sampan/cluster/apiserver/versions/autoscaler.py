"""HorizontalPodAutoscaler between autoscaling/v2, as it is stored, and v1, whose metrics but the CPU's are annotations.

The rows say which field of v1 is which of v2; v1 has them in the JSON of `autoscaling.alpha.kubernetes.io/...`.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import msgspec

from sampan.kube.objects import Object

_PREFIX = "autoscaling.alpha.kubernetes.io/"
METRICS, CURRENT, CONDITIONS, BEHAVIOR = (
    _PREFIX + name for name in ("metrics", "current-metrics", "conditions", "behavior")
)
ANNOTATIONS = frozenset(
    {METRICS, CURRENT, CONDITIONS, BEHAVIOR, _PREFIX + "scale-down-tolerance", _PREFIX + "scale-up-tolerance"}
)
"""What v1 carries besides; in v2 none of it is an annotation."""


DEFAULT_METRICS: list[dict[str, Any]] = [
    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
]
"""What v1 means where it says nothing."""


class _Field(NamedTuple):
    old: str
    new: str  # a path
    always: Any = None  # what v1 says where v2 says nothing


_METRIC, _CONTAINER = _Field("metricName", "metric.name", ""), _Field("container", "container", "")
_TARGET = _Field("target", "describedObject", {})
_SPECS: dict[str, tuple[_Field, ...]] = {
    "object": (
        _TARGET, _METRIC, _Field("targetValue", "target.value", "0"), _Field("selector", "metric.selector"),
        _Field("averageValue", "target.averageValue"),
    ),
    "pods": (
        _METRIC, _Field("targetAverageValue", "target.averageValue", "0"), _Field("selector", "metric.selector"),
    ),
    "resource": (
        _Field("name", "name", ""), _Field("targetAverageUtilization", "target.averageUtilization"),
        _Field("targetAverageValue", "target.averageValue"),
    ),
    "containerResource": (
        _Field("name", "name", ""), _Field("targetAverageUtilization", "target.averageUtilization"),
        _Field("targetAverageValue", "target.averageValue"), _CONTAINER,
    ),
    "external": (
        _METRIC, _Field("metricSelector", "metric.selector"), _Field("targetValue", "target.value"),
        _Field("targetAverageValue", "target.averageValue"),
    ),
}  # fmt: skip
_STATUSES: dict[str, tuple[_Field, ...]] = {
    "object": (
        _TARGET, _METRIC, _Field("currentValue", "current.value", "0"), _Field("selector", "metric.selector"),
        _Field("averageValue", "current.averageValue"),
    ),
    "pods": (
        _METRIC, _Field("currentAverageValue", "current.averageValue", "0"), _Field("selector", "metric.selector"),
    ),
    "resource": (
        _Field("name", "name", ""), _Field("currentAverageUtilization", "current.averageUtilization"),
        _Field("currentAverageValue", "current.averageValue", "0"),
    ),
    "containerResource": (
        _Field("name", "name", ""), _Field("currentAverageUtilization", "current.averageUtilization"),
        _Field("currentAverageValue", "current.averageValue", "0"), _CONTAINER,
    ),
    "external": (
        _METRIC, _Field("metricSelector", "metric.selector"), _Field("currentValue", "current.value", "0"),
        _Field("currentAverageValue", "current.averageValue"),
    ),
}  # fmt: skip
_CONDITION = ("type", "status", "lastTransitionTime", "reason", "message")
_RULES = ("StabilizationWindowSeconds", "SelectPolicy", "Policies", "Tolerance")
_POLICY = ("Type", "Value", "PeriodSeconds")
"""Of the behaviour, v1 has upstream's own structure, by Go's names."""


def to_v1(obj: Object) -> Object:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    metrics, current = spec.pop("metrics", None) or (), status.pop("currentMetrics", None) or ()
    conditions, behavior = status.pop("conditions", None) or (), spec.pop("behavior", None)
    for metric in metrics:
        if (percent := _cpu_percent(metric)) is not None:
            spec["targetCPUUtilizationPercentage"] = percent
            break
    for metric in current:
        source = metric.get("resource") or {}
        percent = (source.get("current") or {}).get("averageUtilization")
        if metric.get("type") == "Resource" and source.get("name") == "cpu" and percent is not None:
            status["currentCPUUtilizationPercentage"] = percent
    others = [_old(metric, _SPECS) for metric in metrics if _cpu_percent(metric) is None]
    notes: dict[str, Any] = {
        METRICS: others,
        CURRENT: [_old(metric, _STATUSES) for metric in current],
        BEHAVIOR: None if behavior is None else {go: _go(behavior.get(name)) for name, go in _DIRECTIONS.items()},
        CONDITIONS: [_condition(row) for row in conditions],
    }
    made = {**obj, **_annotated(obj, notes), "spec": spec}
    if "status" in obj:
        made["status"] = {"currentReplicas": 0, "desiredReplicas": 0, **status}
    return made


def to_v2(obj: Object) -> Object:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    noted = (obj.get("metadata") or {}).get("annotations") or {}
    metrics = [_new(metric, _SPECS) for metric in _read(noted, METRICS, list[dict[str, Any]])]
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        metrics.append({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    spec["metrics"] = metrics or copy.deepcopy(DEFAULT_METRICS)
    behavior = _read(noted, BEHAVIOR, dict[str, Any])
    if rules := {name: _rules(behavior[go]) for name, go in _DIRECTIONS.items() if behavior.get(go)}:
        spec["behavior"] = rules
    percent = status.pop("currentCPUUtilizationPercentage", None)
    if current := _read(noted, CURRENT, list[dict[str, Any]]):
        status["currentMetrics"] = [_new(metric, _STATUSES) for metric in current]
    elif percent is not None:
        shown = {"averageUtilization": percent}
        status["currentMetrics"] = [{"type": "Resource", "resource": {"name": "cpu", "current": shown}}]
    if conditions := _read(noted, CONDITIONS, list[dict[str, Any]]):
        status["conditions"] = conditions
    made = {**obj, **_annotated(obj, {}), "spec": spec}
    if "status" in obj or status:
        made["status"] = status
    return made


_DIRECTIONS = {"scaleUp": "ScaleUp", "scaleDown": "ScaleDown"}


def _annotated(obj: Object, notes: dict[str, Any]) -> Object:
    """`metadata` with the annotations of v1 that say something, and none of those it had; nothing where that is so."""
    metadata = obj.get("metadata") or {}
    before = metadata.get("annotations")
    if not isinstance(before, dict | None):
        return {}  # which is refused
    kept = {key: value for key, value in (before or {}).items() if key not in ANNOTATIONS}
    kept |= {key: msgspec.json.encode(value).decode() for key, value in notes.items() if value}
    if kept == (before or {}):
        return {}
    made = {key: value for key, value in metadata.items() if key != "annotations"}
    return {"metadata": {**made, "annotations": kept} if kept else made}


def _read(noted: Any, name: str, type: Any) -> Any:
    """What an annotation says; nothing where it is not the JSON it should be."""
    try:
        return msgspec.json.decode(noted.get(name) or "null", type=type | None) or type()
    except (msgspec.MsgspecError, TypeError, AttributeError):
        return type()


def _cpu_percent(metric: Any) -> int | None:
    """The average utilization of the CPU that a metric asks for."""
    resource = metric.get("resource") or {}
    if metric.get("type") != "Resource" or resource.get("name") != "cpu":
        return None
    percent = (resource.get("target") or {}).get("averageUtilization")
    return percent if isinstance(percent, int) else None


def _old(metric: Object, kinds: dict[str, tuple[_Field, ...]]) -> Object:
    """A metric of v2 as v1 has it."""
    made: Object = {"type": metric.get("type") or ""}
    for source, fields in kinds.items():
        if isinstance(said := metric.get(source), dict):
            values = ((field, _at(said, field.new.split("."))) for field in fields)
            made[source] = {
                field.old: field.always if value is None else value
                for field, value in values
                if value is not None or field.always is not None
            }
    return made


def _new(metric: Object, kinds: dict[str, tuple[_Field, ...]]) -> Object:
    """A metric of v1 as v2 has it."""
    made: Object = {"type": metric.get("type") or ""}
    for source, fields in kinds.items():
        if not isinstance(said := metric.get(source), dict):
            continue
        part: Object = {}
        for field in fields:
            value = said.get(field.old)
            if value is None or (
                field.always == "0" and value == "0" and source == "object" and "averageValue" in said
            ):
                continue
            *above, last = field.new.split(".")
            place = part
            for step in above:
                place = place.setdefault(step, {})
            place[last] = value
        if kinds is _SPECS:  # of which v1 does not say the type
            target = part.get("target") or {}
            part["target"] = {"type": _type_of(source, target), **target}
        made[source] = part
    return made


def _type_of(source: str, target: Object) -> str:
    if source in {"resource", "containerResource"} and "averageUtilization" in target:
        return "Utilization"
    by_value = "averageValue" not in target if source == "object" else "value" in target
    return "Value" if by_value and source in {"object", "external"} else "AverageValue"


def _at(value: Any, path: list[str]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _condition(row: Any) -> Object:
    return {key: row.get(key) for key in _CONDITION if row.get(key) or key in _CONDITION[:3]}


def _go(rules: Any) -> Object | None:
    if not isinstance(rules, dict):
        return None
    said = {name[:1].upper() + name[1:]: value for name, value in rules.items()}
    policies = said.get("Policies")
    said["Policies"] = policies and [
        {name: policy.get(name[:1].lower() + name[1:]) for name in _POLICY} for policy in policies
    ]
    return {name: said.get(name) for name in _RULES}


def _rules(rules: Any) -> Object:
    """The rules of a direction, by v2's names."""

    def lower(value: Any) -> Object:
        return {name[:1].lower() + name[1:]: item for name, item in value.items() if item is not None}

    made = lower(rules) if isinstance(rules, dict) else {}
    if isinstance(policies := made.get("policies"), list):
        made["policies"] = [lower(policy) for policy in policies if isinstance(policy, dict)]
    return made
