"""Job and CronJob."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.advice import name_advice
from sampan.cluster.apiserver.registry.base import TableStrategy, lookup
from sampan.cluster.apiserver.registry.defaulting import Rows, default_pod_spec
from sampan.cluster.apiserver.registry.faults import Faults, maps, sub
from sampan.cluster.apiserver.registry.podspec import validate_template
from sampan.cluster.apiserver.registry.templates import template_advice
from sampan.cluster.apiserver.strategy import Context
from sampan.kube import selectors
from sampan.kube.errors import Cause
from sampan.kube.names import dns1123_label
from sampan.kube.objects import Object

_CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
_POLICIES = ("OnFailure", "Never")
_COUNTS = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")


def _job_spec(faults: Faults, obj: Object, path: str) -> None:
    spec: Any = obj
    for step in path.split("."):
        spec = sub(spec, step)
    for key in _COUNTS:
        faults.non_negative(f"{path}.{key}", spec.get(key))
    mode = spec.get("completionMode")
    faults.one_given(f"{path}.completionMode", mode, ("NonIndexed", "Indexed"))
    if mode == "Indexed" and spec.get("completions") is None:
        faults.required(f"{path}.completions", "when completion mode is Indexed")
    validate_template(faults, obj, f"{path}.template", _POLICIES)


def _own_labels(uid: str, name: str) -> dict[str, str]:
    """What the pods of a job carry, unless it is asked for a selector of its own."""
    return {"controller-uid": uid, "job-name": name, _CONTROLLER_UID: uid, "batch.kubernetes.io/job-name": name}


def _advice(new: Object, old: Object | None, path: str) -> list[str]:
    if old is not None and new.get("spec") == old.get("spec"):
        return []
    found, job = name_advice(new, old), path.removesuffix(".template.spec")
    spec = lookup(new, job) or {}
    if (
        spec.get("completionMode") == "Indexed"
        and (spec.get("completions") or 0) > 10**5
        and (spec.get("parallelism") or 0) > 10**4
    ):
        found.append(
            f"{job}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4,"
            " Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        )
    template = path.removesuffix(".spec")
    return found + template_advice(lookup(new, template), template)


def _fixed(spec: Object) -> Object:
    """What may not change of the pods of a suspended job that never started: all but where they may run and what
    their containers may use."""
    pod = dict(sub(spec, "template", "spec"))
    for free in ("nodeSelector", "tolerations", "schedulingGates"):
        pod.pop(free, None)
    if affinity := {key: value for key, value in sub(pod, "affinity").items() if key != "nodeAffinity"}:
        pod["affinity"] = affinity
    else:
        pod.pop("affinity", None)
    for key in ("containers", "initContainers"):
        if key in pod:
            pod[key] = [{k: v for k, v in one.items() if k != "resources"} for one in maps(pod[key])]
    return pod


class Job(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec", {}),
        ("spec.template", {}),
        ("spec.template.spec", {}),
        ("spec.completionMode", "NonIndexed"),
        ("spec.suspend", False),
        ("spec.manualSelector", False),
    )
    immutable = ("spec.selector", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimitPerIndex")

    def default(self, obj: Object) -> None:
        super().default(obj)
        spec = obj.get("spec")
        if not isinstance(spec, dict):
            return
        if spec.get("completions") is None and spec.get("parallelism") is None:
            spec["completions"] = spec["parallelism"] = 1
        elif spec.get("parallelism") is None:
            spec["parallelism"] = 1
        if spec.get("backoffLimit") is None:
            spec["backoffLimit"] = 6 if spec.get("backoffLimitPerIndex") is None else 2**31 - 1
        if spec.get("podReplacementPolicy") is None:
            spec["podReplacementPolicy"] = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
        labels, metadata = sub(spec, "template", "metadata").get("labels"), obj.get("metadata")
        if isinstance(labels, dict) and isinstance(metadata, dict) and not metadata.get("labels"):
            metadata["labels"] = labels  # the same ones, to which those of its pods are added
        default_pod_spec(lookup(obj, "spec.template.spec"))

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        spec, metadata = sub(obj, "spec"), obj["metadata"]
        obj["status"] = {}
        if spec.get("manualSelector") or not isinstance(spec.get("template"), dict):
            return
        uid = metadata.get("uid") or metadata.setdefault("uid", str(uuid.uuid4()))
        template = spec["template"]
        labels = template.setdefault("metadata", {}).get("labels") or {}
        labels.update(_own_labels(uid, metadata.get("name") or ""))
        template["metadata"]["labels"] = labels
        if spec.get("selector") is None:
            spec["selector"] = {"matchLabels": {_CONTROLLER_UID: uid}}
        self.default(obj)  # labels of the job follow those of its template

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        return _advice(new, old, "spec.template.spec")

    def validate_create(self, obj: Object) -> list[Cause]:
        causes, spec, name = super().validate_create(obj), sub(obj, "spec"), sub(obj, "metadata").get("name") or ""
        completions = spec.get("completions")
        if spec.get("completionMode") == "Indexed" and isinstance(completions, int) and completions > 0:
            last = f"{name}-{completions - 1}"  # of its pods
            if dns1123_label(last):
                faults = Faults()
                faults.invalid("metadata.name", name, f"will not able to create pod with invalid DNS label: {last}")
                causes += faults.causes
        return causes

    def validate(self, faults: Faults, obj: Object) -> None:
        spec, metadata = sub(obj, "spec"), obj["metadata"]
        if spec.get("selector") is not None and not spec.get("manualSelector"):
            labels = sub(spec, "template", "metadata").get("labels") or {}
            for label, value in _own_labels(metadata.get("uid") or "", metadata.get("name") or "").items():
                where = f"spec.template.metadata.labels[{label}]"
                if label not in labels:
                    faults.required(where, f"must be '{value}'")
                elif labels[label] != value:
                    faults.invalid(where, labels, f"must be '{value}'")
        _job_spec(faults, obj, "spec")
        selector = spec.get("selector")
        if selector is None:
            faults.required("spec.selector")
            labels = sub(spec, "template", "metadata").get("labels")
            faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
            return
        before = len(faults.causes)
        faults.label_selector("spec.selector", selector)
        labels = sub(spec, "template", "metadata").get("labels") or {}
        if len(faults.causes) == before and not selectors.from_label_selector(selector).matches(labels):
            faults.invalid(
                "spec.template.metadata.labels", labels or None, "`selector` does not match template `labels`"
            )

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        after, before = sub(new, "spec"), sub(old, "spec")
        indexed = after.get("completionMode") == "Indexed"
        missing = indexed and after.get("completions") is None  # which is told already
        if not missing and (not indexed or after.get("completions") != after.get("parallelism")):
            detail = "can only be modified in tandem with spec.parallelism" if indexed else "field is immutable"
            faults.immutable("spec.completions", after.get("completions"), before.get("completions"), detail)
        if before.get("suspend") and not lookup(old, "status.startTime"):
            faults.immutable("spec.template.spec", _fixed(after), _fixed(before))
        else:
            faults.immutable("spec.template", after.get("template"), before.get("template"))

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {"status.successful": str(lookup(obj, "status.succeeded") or 0)}


class CronJob(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec", {}),
        ("spec.jobTemplate", {}),
        ("spec.jobTemplate.spec", {}),
        ("spec.jobTemplate.spec.template", {}),
        ("spec.jobTemplate.spec.template.spec", {}),
        ("spec.concurrencyPolicy", "Allow"),
        ("spec.suspend", False),
        ("spec.successfulJobsHistoryLimit", 3),
        ("spec.failedJobsHistoryLimit", 1),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        default_pod_spec(lookup(obj, "spec.jobTemplate.spec.template.spec"))

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        return _advice(new, old, "spec.jobTemplate.spec.template.spec")

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        name = sub(obj, "metadata").get("name") or ""
        if len(name) > 52:
            faults.invalid("metadata.name", name, "must be no more than 52 characters")
        schedule = spec.get("schedule")
        if not schedule:
            faults.required("spec.schedule")
        else:
            _schedule(faults, schedule, spec.get("timeZone"))
        zone = spec.get("timeZone")
        if zone is not None:
            if not zone:
                faults.invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string")
            elif zone.lower() == "local":
                faults.invalid(
                    "spec.timeZone",
                    zone,
                    "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
                )
            else:
                import zoneinfo  # with what it imports in turn, for a field that is seldom there

                try:
                    zoneinfo.ZoneInfo(zone)
                except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
                    faults.invalid("spec.timeZone", zone, f"unknown time zone {zone}")
        faults.one_of("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), ("Allow", "Forbid", "Replace"))
        for key in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
            faults.non_negative(f"spec.{key}", spec.get(key))
        if sub(spec, "jobTemplate", "spec").get("manualSelector"):
            faults.one_of("spec.jobTemplate.spec.manualSelector", "true", ("nil", "false"))
        _job_spec(faults, obj, "spec.jobTemplate.spec")


_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


def _schedule(faults: Faults, schedule: str, zone: str | None) -> None:
    if "TZ" in schedule:
        faults.invalid("spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
        return
    text = schedule.strip()
    if text in _MACROS or text.startswith("@every "):
        return
    fields = text.split()
    if len(fields) != 5:
        faults.invalid(
            "spec.schedule", schedule, f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
        )
        return
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        CronSim(text.replace("?", "*"), datetime.now(UTC))
    except CronSimError as error:
        faults.invalid("spec.schedule", schedule, str(error))


STRATEGIES = {("batch", "Job"): Job(), ("batch", "CronJob"): CronJob()}
