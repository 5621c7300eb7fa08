"""LimitRange and ResourceQuota: which resources, scopes and bounds they may name."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.faults import Faults, maps, qualified_name_problems, sub
from sampan.cluster.apiserver.strategy import Context
from sampan.kube import quantity
from sampan.kube.objects import Object

LIMIT_TYPES = ("Container", "Pod", "PersistentVolumeClaim")
_BOUNDS = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_COUNTED = {
    "pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims",
    "services.nodeports", "services.loadbalancers",
}  # fmt: skip
_STANDARD_QUOTA = {*_COUNTED, *_COMPUTE, *(f"{w}.{n}" for w in ("requests", "limits") for n in _COMPUTE)} | {
    "requests.storage"
}
_POD_COMPUTE = {"cpu", "memory", *(f"{word}.{name}" for word in ("requests", "limits") for name in ("cpu", "memory"))}
_PODS = {"pods", *_POD_COMPUTE}
SCOPES: dict[str, set[str]] = {
    "Terminating": _PODS,
    "NotTerminating": _PODS,
    "BestEffort": {"pods"},
    "NotBestEffort": _PODS,
    "PriorityClass": _PODS,
    "CrossNamespacePodAffinity": _PODS,
    "VolumeAttributesClass": {"persistentvolumeclaims", "requests.storage"},
}
"""What a quota of a scope may count."""
_EXISTS_ONLY = {"BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"}
_CONFLICTS = ({"BestEffort", "NotBestEffort"}, {"Terminating", "NotTerminating"})
_MUST_EXIST = (
    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating,"
    " ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)


def _values(texts: Any) -> dict[str, Decimal]:
    found = {}
    for name, text in (texts if isinstance(texts, dict) else {}).items():
        try:
            found[name] = quantity.parse(str(text))
        except ValueError:  # the schema names it
            continue
    return found


class LimitRange(TableStrategy):
    def default(self, obj: Object) -> None:
        for item in maps(sub(obj, "spec").get("limits")):
            default_item(item)

    def validate(self, faults: Faults, obj: Object) -> None:
        seen: set[str] = set()
        for index, item in enumerate(maps(sub(obj, "spec").get("limits"))):
            where, kind = f"spec.limits[{index}]", item.get("type") or ""
            problems = qualified_name_problems(kind)
            for problem in problems:
                faults.invalid(f"{where}.type", kind, problem)
            if not problems and "/" not in kind and kind not in LIMIT_TYPES:
                faults.invalid(f"{where}.type", kind, "must be a standard limit type or fully qualified")
            if kind in seen:
                faults.duplicate(f"{where}.type", kind)
            seen.add(kind)
            self._item(faults, item, kind, where)

    @staticmethod
    def _item(faults: Faults, item: Object, kind: str, where: str) -> None:
        for field in _BOUNDS:
            if kind == "Pod" and field in ("default", "defaultRequest"):
                if item.get(field):
                    faults.forbidden(f"{where}.{field}", "may not be specified when `type` is 'Pod'")
                continue
            for name in item.get(field) or ():
                _resource_name(faults, name, f"{where}.{field}[{name}]", container=kind in ("Pod", "Container"))
        bounds = {field: _values(item.get(field)) for field in _BOUNDS}
        if kind == "Pod":  # which has none, whatever they say
            bounds |= {"default": {}, "defaultRequest": {}}
        least, most, default, request, ratio = (bounds[field] for field in ("min", "max", *_BOUNDS[2:]))
        if kind == "PersistentVolumeClaim" and "storage" not in {*least, *most}:
            detail = "either minimum or maximum storage value is required, but neither was provided"
            faults.required(f"{where}.limits", detail)
        rows = (
            ("min", least, most, "min", "min value {} is greater than max value {}"),
            ("defaultRequest", least, request, "", "min value {} is greater than default request value {}"),
            ("defaultRequest", request, most, "", "default request value {} is greater than max value {}"),
            ("defaultRequest", request, default, "", "default request value {} is greater than default limit value {}"),
            ("default", least, default, "min", "min value {} is greater than default value {}"),
            ("default", default, most, "max", "default value {} is greater than max value {}"),
        )
        names = {name: field for field, values in bounds.items() for name in values}
        for name in sorted(names):
            texts = {field: (item.get(field) or {}).get(name) for field in _BOUNDS}
            for field, small, large, shown, detail in rows:
                if name in small and name in large and small[name] > large[name]:
                    low = next(f for f in _BOUNDS if bounds[f] is small)
                    high = next(f for f in _BOUNDS if bounds[f] is large)
                    text = detail.format(texts[low], texts[high])
                    faults.invalid(f"{where}.{field}[{name}]", texts[shown or field], text)
            if name in ratio:
                at, text = f"{where}.maxLimitRequestRatio[{name}]", str(texts["maxLimitRequestRatio"])
                if ratio[name] < 1:
                    faults.invalid(at, text, f"ratio {text} is less than 1")
                if least.get(name) and name in most and ratio[name] > most[name] / least[name]:
                    share = float(most[name] / least[name])
                    faults.invalid(at, text, f"ratio {text} is greater than max/min = {share:f}")
            fixed = ("/" in name and "kubernetes.io/" not in name) or name.startswith("hugepages-")
            if fixed and name in default and name in request and default[name] != request[name]:
                text = (
                    f"default value {texts['default']} must equal to defaultRequest value {texts['defaultRequest']}"
                    f" in {name}"
                )
                faults.invalid(f"{where}.defaultRequest[{name}]", texts["defaultRequest"], text)


def default_item(item: dict[str, Any]) -> None:
    """What an item leaves out: the default limit is the maximum, the default request that, or else the minimum."""
    bounds = [item.get(field) or {} for field in ("max", "min", "default", "defaultRequest")]
    if item.get("type") != "Container" or not all(isinstance(one, dict) for one in bounds):
        return
    most, least, default, request = bounds
    default = {**most, **default}
    request = {**least, **default, **request}
    item |= {field: value for field, value in (("default", default), ("defaultRequest", request)) if value}


def _resource_name(faults: Faults, name: str, path: str, *, container: bool) -> None:
    for problem in qualified_name_problems(name):
        faults.invalid(path, name, problem)
    if "/" in name or name.startswith("hugepages-"):
        return
    if name not in (*_STANDARD_QUOTA, "storage"):
        faults.invalid(path, name, "must be a standard resource type or fully qualified")
    if container and name not in _COMPUTE:
        faults.invalid(path, name, "must be a standard resource for containers")


class ResourceQuota(TableStrategy):
    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["status"] = {}

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        hard = spec.get("hard") if isinstance(spec.get("hard"), dict) else {}
        for name, value in (hard or {}).items():
            path = f"spec.hard[{name}]"
            for problem in qualified_name_problems(name):
                faults.invalid(path, name, problem)
            if "/" not in name and not _standard(name) and name != "storage":
                faults.invalid(path, name, "must be a standard resource type or fully qualified")
            if "/" not in name and not _standard(name):
                faults.invalid(path, name, "must be a standard resource for quota")
            amount = _values({name: value}).get(name)
            if amount is None:
                continue
            if amount < 0:
                faults.invalid(path, str(value), "must be greater than or equal to 0")
            extended = "/" in name and "kubernetes.io/" not in name and not name.startswith("requests.")
            if (name in _COUNTED or extended) and amount != amount.to_integral_value():
                faults.invalid(path, str(value), "must be an integer")
        self._scopes(faults, spec, sorted(hard or {}))

    @staticmethod
    def _scopes(faults: Faults, spec: Object, names: list[str]) -> None:
        scopes = spec.get("scopes") or []
        counted = [name for name in names if _standard(name)]

        def check(scope: Any, path: str, value: Any, unknown: tuple[str, Any]) -> None:
            if scope not in SCOPES:
                faults.invalid(*unknown, "unsupported scope")
            for name in counted:
                if scope in SCOPES and name not in SCOPES[scope]:
                    faults.invalid(path, value, "unsupported scope applied to resource")

        for scope in scopes:
            check(scope, "spec.scopes", scopes, ("spec.scopes", scopes))
        for pair in _CONFLICTS:
            if pair <= set(scopes):
                faults.invalid("spec.scopes", scopes, "conflicting scopes")
        selector = spec.get("scopeSelector")
        rows, path = maps(sub(spec, "scopeSelector").get("matchExpressions")), "spec.scopeSelector.matchExpressions"
        for row in rows:
            scope, operator, values = row.get("scopeName"), row.get("operator"), row.get("values") or []
            check(scope, path, selector, (f"{path}.scopeName", scope))
            if scope in _EXISTS_ONLY and operator != "Exists":
                faults.invalid(f"{path}.operator", operator, _MUST_EXIST)
            if operator in ("In", "NotIn"):
                if not values:
                    detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                    faults.required(f"{path}.values", detail)
            elif operator in ("Exists", "DoesNotExist"):
                if values:
                    detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
                    faults.invalid(f"{path}.values", values, detail)
            else:
                faults.invalid(f"{path}.operator", operator, "not a valid selector operator")
        for pair in _CONFLICTS:
            if pair <= {row.get("scopeName") for row in rows}:
                faults.invalid("spec.scopeSelector", scopes or None, "conflicting scopes")

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        after, before = (sub(obj, "spec").get("scopes") or [] for obj in (new, old))
        if set(after) != set(before):
            faults.invalid(
                "spec.scopes", after if sub(new, "spec").get("scopes") is not None else None, "field is immutable"
            )


def _standard(name: str) -> bool:
    return name in _STANDARD_QUOTA or name.startswith(("hugepages-", "requests.hugepages-"))


STRATEGIES = {("", "LimitRange"): LimitRange(), ("", "ResourceQuota"): ResourceQuota()}
