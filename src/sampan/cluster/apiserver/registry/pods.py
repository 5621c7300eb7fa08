"""Pod: what the server decides at creation, what may change afterwards, and its grace at deletion."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.advice import name_advice
from sampan.cluster.apiserver.registry.base import TableStrategy, lookup
from sampan.cluster.apiserver.registry.defaulting import Rows, default_pod_spec, default_requests
from sampan.cluster.apiserver.registry.faults import Faults, maps, sub
from sampan.cluster.apiserver.registry.podspec import validate_pod_spec
from sampan.cluster.apiserver.registry.templates import template_advice
from sampan.cluster.apiserver.strategy import Context
from sampan.kube import quantity
from sampan.kube.errors import Cause, invalid
from sampan.kube.objects import Object

_CHANGEABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_FORBIDDEN = "FieldValueForbidden"
_NOT_READY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort, from the CPU and memory of every container."""
    requests: dict[str, Decimal] = {}
    limits: dict[str, Decimal] = {}
    guaranteed = True
    for container in (*maps(spec.get("containers")), *maps(spec.get("initContainers"))):
        resources = sub(container, "resources")
        complete = set()
        for kind, total in (("requests", requests), ("limits", limits)):
            for name, text in (resources.get(kind) or {}).items():
                if name not in ("cpu", "memory"):
                    continue
                amount = quantity.parse(str(text))
                if amount > 0:
                    total[name] = total.get(name, Decimal(0)) + amount
                    if kind == "limits":
                        complete.add(name)
        guaranteed = guaranteed and complete == {"cpu", "memory"}
    if not requests and not limits:
        return "BestEffort"
    same = all(requests.get(name) in (None, amount) for name, amount in limits.items())
    return "Guaranteed" if guaranteed and same and requests.keys() <= limits.keys() else "Burstable"


class Pod(TableStrategy):
    rows: ClassVar[Rows] = (("spec.enableServiceLinks", True),)
    fields: ClassVar[dict[str, str]] = {
        "spec.nodeName": "",
        "spec.restartPolicy": "",
        "spec.schedulerName": "",
        "spec.serviceAccountName": "",
        "spec.hostNetwork": "false",
        "status.phase": "",
        "status.podIP": "",
        "status.podIPs": "",
        "status.nominatedNodeName": "",
    }

    def default(self, obj: Object) -> None:
        super().default(obj)
        default_pod_spec(obj.get("spec"))
        default_requests(spec := obj.get("spec"))
        if isinstance(spec, dict) and (spec.get("terminationGracePeriodSeconds") or 0) < 0:
            spec["terminationGracePeriodSeconds"] = 1

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        spec = obj.get("spec")
        if not isinstance(spec, dict):
            return
        tolerate_lost_nodes(spec)
        try:
            quality = qos_class(spec)
        except ValueError:  # a quantity that validation will name
            quality = "BestEffort"
        obj["status"] = {"phase": "Pending", "qosClass": quality}

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        if isinstance(new.get("status"), dict):
            new["status"]["qosClass"] = lookup(old, "status.qosClass") or new["status"].get("qosClass")
            if ctx.subresource == "status":
                _keep_observed(new["status"], sub(old, "status"))
        spec, before = new.get("spec"), sub(old, "spec")
        if isinstance(spec, dict) and ctx.subresource is None:
            for key in ("priority", "preemptionPolicy"):
                if spec.get(key) is None and before.get(key) is not None:
                    spec[key] = before[key]
            tolerate_lost_nodes(spec)
            parted = (spec.get("ephemeralContainers") or []) != (before.get("ephemeralContainers") or [])
            if parted or (_fixed(spec) == _fixed(before) and _resources(spec) != _resources(before)):
                # Only their own subresources add and resize them.
                raise invalid("Pod", ctx.name, [Cause("spec", f"Forbidden: {_CHANGEABLE}", _FORBIDDEN)])

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        told = name_advice(new, old, "the Pod's hostname")
        return told + (template_advice(new, "") if old is None else [])

    def validate(self, faults: Faults, obj: Object) -> None:
        validate_pod_spec(faults, obj.get("spec"), "spec")

    def validate_create(self, obj: Object) -> list[Cause]:
        causes = super().validate_create(obj)
        if sub(obj, "spec").get("ephemeralContainers"):
            causes.append(Cause("spec.ephemeralContainers", "Forbidden: cannot be set on create", _FORBIDDEN))
        return causes

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        after, before = sub(new, "spec"), sub(old, "spec")
        for group in ("containers", "initContainers"):
            if len(maps(after.get(group))) != len(maps(before.get(group))):
                faults.forbidden(f"spec.{group}", "pod updates may not add or remove containers")
                return
        deadline, limit = after.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds")
        if limit is not None and (deadline is None or deadline > limit):
            faults.invalid("spec.activeDeadlineSeconds", deadline, "must be less than or equal to previous value")
        kept = maps(after.get("tolerations"))
        if any(toleration not in kept for toleration in maps(before.get("tolerations"))):
            faults.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
        present = {one.get("name"): one for one in maps(after.get("ephemeralContainers"))}
        for one in maps(before.get("ephemeralContainers")):
            if present.get(one["name"]) != one:
                fate = "changed" if one["name"] in present else "removed"
                why = f'existing ephemeral containers "{one["name"]}" may not be {fate}\n'
                faults.forbidden("spec.ephemeralContainers", why)
        if _fixed(after) != _fixed(before):
            faults.forbidden("spec", _CHANGEABLE)

    def graceful_delete(self, obj: Object, options: Object) -> int | None:
        period = options.get("gracePeriodSeconds")
        if period is None:
            period = lookup(obj, "spec.terminationGracePeriodSeconds")
        if not lookup(obj, "spec.nodeName") or lookup(obj, "status.phase") in ("Succeeded", "Failed"):
            return 0  # nothing runs that would need grace
        return 1 if isinstance(period, int) and period < 0 else int(period if period is not None else 30)


def _keep_observed(status: Object, before: Object) -> None:
    """Which generation was seen stays said, in place, by a status that says none: of the pod and of each condition."""
    seen: dict[Any, list[Any]] = {}
    for row in maps(before.get("conditions")):
        seen.setdefault(row.get("type"), []).append(row.get("observedGeneration"))
    pairs = [(status, before.get("observedGeneration"))]
    for row in maps(status.get("conditions")):
        rows = seen.get(row.get("type")) or [None]
        pairs.append((row, rows.pop(0)))
    for row, generation in pairs:
        if generation and not row.get("observedGeneration"):
            row["observedGeneration"] = generation


def tolerate_lost_nodes(spec: Object) -> None:
    """Five minutes on a node that is lost, unless the pod says otherwise (DefaultTolerationSeconds)."""
    tolerations = maps(spec.get("tolerations"))
    for key in _NOT_READY:
        if not any(_tolerates(toleration, key) for toleration in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    spec["tolerations"] = tolerations


def _tolerates(toleration: Object, key: str) -> bool:
    return toleration.get("key") in (key, "", None) and toleration.get("effect") in ("NoExecute", "", None)


def _fixed(spec: Object) -> Any:
    """A pod spec without the fields that may change. nodeName is set once, through a binding or an update of ours."""
    fixed: Object = {
        key: value
        for key, value in spec.items()
        if key not in ("activeDeadlineSeconds", "tolerations", "ephemeralContainers", "nodeName", "schedulingGates")
        and value not in (None, [], {})
    }
    for group in ("containers", "initContainers"):
        if group in fixed:
            fixed[group] = [
                {k: v for k, v in container.items() if k not in ("image", "resources")}
                for container in maps(fixed[group])
            ]
    return fixed


def _resources(spec: Object) -> list[Any]:
    return [one.get("resources") or {} for group in ("containers", "initContainers") for one in maps(spec.get(group))]


STRATEGIES = {("", "Pod"): Pod()}
