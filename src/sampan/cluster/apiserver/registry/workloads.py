"""Deployment, ReplicaSet, StatefulSet, DaemonSet, ControllerRevision, ReplicationController, PodTemplate."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.advice import claim_advice, name_advice
from sampan.cluster.apiserver.registry.base import TableStrategy, lookup, validate_selector
from sampan.cluster.apiserver.registry.defaulting import Rows, default_pod_spec
from sampan.cluster.apiserver.registry.faults import DNS_LABEL, Faults, Structure, maps, part_or_percent, sub
from sampan.cluster.apiserver.registry.podspec import validate_template
from sampan.cluster.apiserver.registry.templates import template_advice
from sampan.cluster.apiserver.registry.volumes import validate_claim
from sampan.cluster.apiserver.strategy import Context
from sampan.kube.errors import Cause
from sampan.kube.objects import Object


def _is_zero(value: Any) -> bool:
    """Whether a number or share is nothing, as what cannot be read is, too."""
    return value == 0 or (isinstance(value, str) and not re.fullmatch("0*[1-9][0-9]*%?", value))


def _at_most_all(faults: Faults, path: str, value: Any) -> None:
    if isinstance(value, str) and re.fullmatch("[0-9]+%", value) and int(value[:-1]) > 100:
        faults.invalid(path, value, "must not be greater than 100%")


def _shown(strategy: Object, **rolling: Any) -> Structure:
    """A strategy of updates as Go names it; `rolling`: its fields, and what they are when they are missing."""
    given = strategy.get("rollingUpdate")
    made = isinstance(given, dict) and {
        name[0].upper() + name[1:]: absent if given.get(name) is None else given[name]
        for name, absent in rolling.items()
    }
    return Structure({"Type": strategy.get("type") or "", "RollingUpdate": Structure(made) if made else None})


_TEMPLATE: Rows = (("spec", {}), ("spec.template", {}), ("spec.template.spec", {}))
"""Structures that a built-in kind always has."""


class Workload(TableStrategy):
    """What has `spec.replicas`, `spec.selector` and `spec.template`."""

    noun: ClassVar[str] = ""
    counts: ClassVar[tuple[str, ...]] = (
        "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"
    )  # fmt: skip
    advised: ClassVar[str] = "metadata.generation"
    """Whose change brings the warnings of its template again."""
    immutable: ClassVar[tuple[str, ...]] = ("spec.selector",)
    names_pods: ClassVar[bool] = True
    """Whether a name that is no label is told of."""

    def default(self, obj: Object) -> None:
        super().default(obj)
        default_pod_spec(lookup(obj, "spec.template.spec"))

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        if old is not None and lookup(new, self.advised) == lookup(old, self.advised):
            return []
        told = name_advice(new, old) if self.names_pods else []
        return told + template_advice(lookup(new, "spec.template"), "spec.template")

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        for key in self.counts:
            faults.non_negative(f"spec.{key}", spec.get(key))
        validate_selector(faults, obj, self.noun, required=self.noun != "daemonset")
        validate_template(faults, obj)


class Deployment(Workload):
    noun = "deployment"
    rows: ClassVar[Rows] = (
        *_TEMPLATE,
        ("spec.replicas", 1),
        ("spec.strategy", {}),
        ("spec.strategy.type", "RollingUpdate"),
        ("spec.revisionHistoryLimit", 10),
        ("spec.progressDeadlineSeconds", 600),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        strategy = sub(obj, "spec", "strategy")
        if strategy.get("type") == "RollingUpdate":
            if strategy.get("rollingUpdate") is None:
                strategy["rollingUpdate"] = {}
            if isinstance(strategy["rollingUpdate"], dict):
                for key in ("maxUnavailable", "maxSurge"):
                    if strategy["rollingUpdate"].get(key) is None:
                        strategy["rollingUpdate"][key] = "25%"

    def validate(self, faults: Faults, obj: Object) -> None:
        super().validate(faults, obj)
        spec = sub(obj, "spec")
        strategy = sub(spec, "strategy")
        if strategy.get("type") not in (types := ("Recreate", "RollingUpdate")):
            faults.one_of("spec.strategy", _shown(strategy, maxUnavailable=0, maxSurge=0), types, required=None)
            return
        rolling = strategy.get("rollingUpdate")
        if strategy["type"] == "Recreate" and rolling is not None:
            faults.forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
        elif rolling is not None:
            unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
            part_or_percent(faults, "spec.strategy.rollingUpdate.maxUnavailable", unavailable)
            part_or_percent(faults, "spec.strategy.rollingUpdate.maxSurge", surge)
            if _is_zero(unavailable) and _is_zero(surge):
                faults.invalid(
                    "spec.strategy.rollingUpdate.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0"
                )
            _at_most_all(faults, "spec.strategy.rollingUpdate.maxUnavailable", unavailable)
        deadline = spec.get("progressDeadlineSeconds")
        if isinstance(deadline, int) and deadline <= (spec.get("minReadySeconds") or 0):
            faults.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


class ReplicaSet(Workload):
    noun = "deployment"  # so upstream says
    rows: ClassVar[Rows] = (*_TEMPLATE, ("spec.replicas", 1))


class ReplicationController(TableStrategy):
    rows: ClassVar[Rows] = (("spec.replicas", 1),)
    fields: ClassVar[dict[str, str]] = {"status.replicas": "0"}

    def default(self, obj: Object) -> None:
        super().default(obj)
        spec = sub(obj, "spec")
        labels = sub(spec, "template", "metadata").get("labels")
        if labels and not spec.get("selector"):
            spec["selector"] = dict(labels)
        if labels and not sub(obj, "metadata").get("labels"):
            obj["metadata"]["labels"] = dict(labels)
        if isinstance(template := sub(obj, "spec").get("template"), dict):
            if template.get("spec") is None:
                template["spec"] = {}
            default_pod_spec(template["spec"])

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        if old is not None and new.get("spec") == old.get("spec"):
            return []
        # of a changed one upstream warns of what it was
        return name_advice(new, old) + template_advice(
            lookup(new if old is None else old, "spec.template"), "spec.template"
        )

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        for key in ("replicas", "minReadySeconds"):
            faults.non_negative(f"spec.{key}", spec.get(key))
        selector, labels = spec.get("selector"), sub(spec, "template", "metadata").get("labels") or {}
        if not selector:
            faults.required("spec.selector")
        if spec.get("template") is None:
            faults.required("spec.template")
            return
        if selector and any(labels.get(key) != value for key, value in selector.items()):
            faults.invalid(
                "spec.template.metadata.labels", labels or None, "`selector` does not match template `labels`"
            )
        validate_template(faults, obj)


_STATEFUL_MUTABLE = {
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
}


class StatefulSet(Workload):
    optional = frozenset({"spec.template.spec.volumes[].name"})  # which count after the templates of claims
    noun = "statefulset"
    names_pods = False  # it must be one
    counts = ("replicas", "minReadySeconds")
    immutable = ()
    rows: ClassVar[Rows] = (
        *_TEMPLATE,
        ("spec.replicas", 1),
        ("spec.serviceName", ""),
        ("spec.podManagementPolicy", "OrderedReady"),
        ("spec.updateStrategy", {}),
        ("spec.updateStrategy.type", "RollingUpdate"),
        ("spec.revisionHistoryLimit", 10),
        ("spec.persistentVolumeClaimRetentionPolicy", {}),
        ("spec.persistentVolumeClaimRetentionPolicy.whenDeleted", "Retain"),
        ("spec.persistentVolumeClaimRetentionPolicy.whenScaled", "Retain"),
        ("spec.volumeClaimTemplates[].apiVersion", "v1"),
        ("spec.volumeClaimTemplates[].kind", "PersistentVolumeClaim"),
        ("spec.volumeClaimTemplates[].spec.volumeMode", "Filesystem"),
        ("spec.volumeClaimTemplates[].status", {"phase": "Pending"}),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        strategy = sub(obj, "spec", "updateStrategy")
        if strategy.get("type") == "RollingUpdate":
            if strategy.get("rollingUpdate") is None:
                strategy["rollingUpdate"] = {}
            if isinstance(strategy["rollingUpdate"], dict) and strategy["rollingUpdate"].get("partition") is None:
                strategy["rollingUpdate"]["partition"] = 0

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        """The path of a claim is upstream's."""
        found, spec = super().warnings(new, old), sub(new, "spec")
        for index, claim in enumerate(maps(spec.get("volumeClaimTemplates"))):
            path = f"spec.volumeClaimTemplates[{index}]{'' if old is None else '.Spec'}"
            found += claim_advice(sub(claim, "spec"), path)
        if (spec.get("revisionHistoryLimit") or 0) < 0:
            fault = "a negative value retains all historical revisions; a value >= 0 is recommended"
            found.append(f"spec.revisionHistoryLimit: {fault}")
        return found

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        template = sub(spec, "template", "spec")
        # A claim template is a volume of the pods too, and comes before one of that name: mounts may name it.
        named = [lookup(claim, "metadata.name") or "" for claim in maps(spec.get("volumeClaimTemplates"))]
        claims = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in dict.fromkeys(named)]
        volumes = [*claims, *(volume for volume in maps(template.get("volumes")) if volume.get("name") not in named)]
        checked = {
            **obj,
            "spec": {**spec, "template": {**sub(spec, "template"), "spec": {**template, "volumes": volumes}}},
        }
        super().validate(faults, checked if template else obj)
        policy, strategy = spec.get("podManagementPolicy"), sub(spec, "updateStrategy")
        if policy not in ("OrderedReady", "Parallel"):
            faults.invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
        where, given = "spec.updateStrategy", _shown(strategy, partition=0, maxUnavailable=None)
        if given["Type"] == "RollingUpdate":
            faults.non_negative(f"{where}.rollingUpdate.partition", sub(strategy, "rollingUpdate").get("partition"))
        elif given["Type"] != "OnDelete":
            faults.invalid(where, given, "must be 'RollingUpdate' or 'OnDelete'")
        elif given["RollingUpdate"] is not None:
            faults.invalid(
                f"{where}.rollingUpdate", given["RollingUpdate"], "only allowed for updateStrategy 'RollingUpdate'"
            )
        faults.non_negative("spec.ordinals.start", sub(spec, "ordinals").get("start"))
        for key in ("whenDeleted", "whenScaled"):
            where = f"spec.persistentVolumeClaimRetentionPolicy.{key}"
            faults.one_of(where, lookup(obj, where), ("Retain", "Delete"))

    def validate_create(self, obj: Object) -> list[Cause]:
        faults = Faults()
        faults.name("spec.serviceName", lookup(obj, "spec.serviceName"), DNS_LABEL, required=False)  # it stays
        for index, claim in enumerate(maps(sub(obj, "spec").get("volumeClaimTemplates"))):
            validate_claim(faults, sub(claim, "spec"), f"spec.volumeClaimTemplates[{index}].spec")
        return super().validate_create(obj) + faults.causes

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        after, before = sub(new, "spec"), sub(old, "spec")
        changed = {key for key in {*after, *before} - _STATEFUL_MUTABLE if after.get(key) != before.get(key)}
        if changed:
            faults.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template',"
                " 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and"
                " 'minReadySeconds' are forbidden",
            )


TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


class DaemonSet(Workload):
    names_pods = False
    advised = "spec.template"
    optional = frozenset({"spec.selector"})
    noun = "daemonset"
    rows: ClassVar[Rows] = (
        *_TEMPLATE,
        ("spec.updateStrategy", {}),
        ("spec.updateStrategy.type", "RollingUpdate"),
        ("spec.revisionHistoryLimit", 10),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        if isinstance(annotations := obj["metadata"].setdefault("annotations", {}), dict):
            annotations.setdefault(TEMPLATE_GENERATION, "0")
        strategy = sub(obj, "spec", "updateStrategy")
        if strategy.get("type") == "RollingUpdate":
            if strategy.get("rollingUpdate") is None:
                strategy["rollingUpdate"] = {}
            if isinstance(strategy["rollingUpdate"], dict):
                for key, value in (("maxUnavailable", 1), ("maxSurge", 0)):
                    if strategy["rollingUpdate"].get(key) is None:
                        strategy["rollingUpdate"][key] = value

    def validate(self, faults: Faults, obj: Object) -> None:
        super().validate(faults, obj)
        strategy, where = sub(obj, "spec", "updateStrategy"), "spec.updateStrategy"
        if strategy.get("type") not in (types := ("RollingUpdate", "OnDelete")):
            faults.one_of(where, _shown(strategy, maxUnavailable=0, maxSurge=0), types, required=None)
        rolling = sub(strategy, "rollingUpdate")
        if strategy.get("type") != "RollingUpdate" or not rolling:
            return
        for key in ("maxUnavailable", "maxSurge"):
            part_or_percent(faults, f"{where}.rollingUpdate.{key}", rolling.get(key))
            _at_most_all(faults, f"{where}.rollingUpdate.{key}", rolling.get(key))
        nothing = [_is_zero(rolling.get(key)) for key in ("maxUnavailable", "maxSurge")]
        if not any(nothing):
            fault = "may not be set when maxUnavailable is non-zero"
            faults.invalid(f"{where}.rollingUpdate.maxSurge", rolling.get("maxSurge"), fault)
        elif all(nothing):
            faults.required(f"{where}.rollingUpdate.maxUnavailable", "cannot be 0 when maxSurge is 0")

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["metadata"].setdefault("annotations", {})[TEMPLATE_GENERATION] = "1"

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        """The generation of the template, kept in an annotation, is the server's to count."""
        count = (old["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "1")
        if ctx.subresource is None and lookup(new, "spec.template") != lookup(old, "spec.template") and count.isdigit():
            count = str(int(count) + 1)
        new["metadata"].setdefault("annotations", {})[TEMPLATE_GENERATION] = count


class ControllerRevision(TableStrategy):
    immutable = ("data",)

    def validate(self, faults: Faults, obj: Object) -> None:
        faults.non_negative("revision", obj.get("revision"))


class PodTemplate(TableStrategy):
    def default(self, obj: Object) -> None:
        if obj.get("template") is None:
            obj["template"] = {}
        if isinstance(template := obj["template"], dict):
            if template.get("spec") is None:
                template["spec"] = {}
            default_pod_spec(template["spec"])

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        if old is not None and new.get("template") == old.get("template"):
            return []
        return template_advice(new.get("template"), "template")

    def validate(self, faults: Faults, obj: Object) -> None:
        validate_template(faults, obj, "template", ("Always", "OnFailure", "Never"))


STRATEGIES = {
    ("apps", "Deployment"): Deployment(),
    ("apps", "ReplicaSet"): ReplicaSet(),
    ("apps", "StatefulSet"): StatefulSet(),
    ("apps", "DaemonSet"): DaemonSet(),
    ("apps", "ControllerRevision"): ControllerRevision(),
    ("", "ReplicationController"): ReplicationController(),
    ("", "PodTemplate"): PodTemplate(),
}
