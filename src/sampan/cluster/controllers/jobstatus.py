"""What a Job's pods amount to: counts, completed indexes, and whether the job has succeeded or failed. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from sampan.cluster.controllers.pods import age, phase
from sampan.kube.objects import Object, annotations_of, is_deleting, uid_of
from sampan.operator.conditions import find, is_true, put

INDEX = "batch.kubernetes.io/job-completion-index"


class Verdict(Struct, frozen=True):
    success: bool
    reason: str
    message: str


class Tally(Struct, frozen=True):
    """`succeeded` and `failed` include pods seen but not yet counted for good; `countable` are finished pods whose
    finalizer may go once their uids stand in the status."""

    succeeded: int
    failed: int
    settled: tuple[int, int]
    waiting: dict[str, list[str]]
    countable: list[Object]
    indexes: set[int]
    indexed: bool

    def status(self, old: Object) -> Object:
        good, bad = self.settled
        fields: Object = {"uncountedTerminatedPods": {key: uids for key, uids in self.waiting.items() if uids}}
        good = len(self.indexes) if self.indexed else good
        if good or "succeeded" in old:
            fields["succeeded"] = good
        if bad or "failed" in old:
            fields["failed"] = bad
        if self.indexed:
            fields["completedIndexes"] = ranges(self.indexes)
        return fields


def finished(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions")
    return is_true(conditions, "Complete") or is_true(conditions, "Failed")


def finished_at(job: Object) -> str:
    conditions = job["status"]["conditions"]
    condition = find(conditions, "Complete") or find(conditions, "Failed") or {}
    return str(condition.get("lastTransitionTime") or job["metadata"]["creationTimestamp"])


def ended(pod: Object) -> str:
    """When the last container of a finished pod ended."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    times = [((s.get("state") or {}).get("terminated") or {}).get("finishedAt") or "" for s in statuses]
    return max(times, default="") or str(pod["metadata"].get("creationTimestamp") or "")


def uncounted(status: Object) -> bool:
    return any((status.get("uncountedTerminatedPods") or {}).values())


def count(job: Object, own: Sequence[Object], tracking: str) -> Tally:
    status = job.get("status") or {}
    before = status.get("uncountedTerminatedPods") or {}
    tracked = {uid_of(p) for p in own if tracking in (p["metadata"].get("finalizers") or ())}
    indexed = job["spec"].get("completionMode") == "Indexed"
    completions = job["spec"].get("completions") or 0
    indexes = {i for i in unranges(status.get("completedIndexes") or "") if i < completions} if indexed else set()
    settled, waiting, countable = {}, {}, []
    for kind in ("succeeded", "failed"):
        noted: list[str] = before.get(kind) or []
        settled[kind] = (status.get(kind) or 0) + sum(uid not in tracked for uid in noted)
        waiting[kind] = [uid for uid in noted if uid in tracked]
    for pod in own:
        outcome = _outcome(pod)
        if outcome is None or uid_of(pod) not in tracked or _ignored(job, pod):
            if outcome is not None and uid_of(pod) in tracked:
                countable.append(pod)
            continue
        countable.append(pod)
        if outcome == "succeeded" and indexed:
            index = int(annotations_of(pod).get(INDEX, -1))
            if 0 <= index < completions:
                indexes.add(index)
        if uid_of(pod) not in waiting[outcome]:
            waiting[outcome].append(uid_of(pod))
    good = len(indexes) if indexed else settled["succeeded"] + len(waiting["succeeded"])
    bad = settled["failed"] + len(waiting["failed"])
    return Tally(good, bad, (settled["succeeded"], settled["failed"]), waiting, countable, indexes, indexed)


def _outcome(pod: Object) -> str | None:
    if phase(pod) == "Succeeded":
        return "succeeded"
    if phase(pod) == "Failed" or (is_deleting(pod) and not pod["metadata"].get("deletionGracePeriodSeconds")):
        return "failed"
    return None


def judge(job: Object, status: Object, own: Sequence[Object], tally: Tally) -> Verdict | None:
    """Whether the job is decided, in the order Kubernetes asks."""
    spec, conditions = job["spec"], status.get("conditions") or ()
    if target := find(conditions, "FailureTarget"):
        return Verdict(False, target.get("reason", ""), target.get("message", ""))
    if target := find(conditions, "SuccessCriteriaMet"):
        return Verdict(True, target.get("reason", ""), target.get("message", ""))
    if (message := _policy_failure(job, own)) is not None:
        return Verdict(False, "PodFailurePolicy", message)
    limit = spec.get("backoffLimit", 6)
    restarts = sum(_restarts(pod) for pod in own if phase(pod) in ("Running", "Pending"))
    on_failure = (spec["template"].get("spec") or {}).get("restartPolicy") == "OnFailure"
    if tally.failed > limit or (on_failure and restarts > 0 and restarts >= max(limit, 1)):
        return Verdict(False, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    if deadline(job, status) <= 0:
        return Verdict(False, "DeadlineExceeded", "Job was active longer than specified deadline")
    completions = spec.get("completions")
    if completions is None:
        active = any(phase(p) not in ("Succeeded", "Failed") and not is_deleting(p) for p in own)
        done = tally.succeeded > 0 and not active
    else:
        done = tally.succeeded >= completions
    return Verdict(True, "CompletionsReached", "Reached expected number of succeeded pods") if done else None


def deadline(job: Object, status: Object) -> float:
    """Seconds left of activeDeadlineSeconds, or infinity."""
    allowed = job["spec"].get("activeDeadlineSeconds")
    if allowed is None or not status.get("startTime") or job["spec"].get("suspend"):
        return math.inf
    return float(allowed) - age(status["startTime"])


def note_suspension(conditions: list[Object], suspended: bool) -> list[Object]:
    if suspended:
        return put(conditions, "Suspended", True, "JobSuspended", "Job suspended")
    if is_true(conditions, "Suspended"):
        return put(conditions, "Suspended", False, "JobResumed", "Job resumed")
    return conditions


def _restarts(pod: Object) -> int:
    status = pod.get("status") or {}
    both = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return sum(container.get("restartCount", 0) for container in both)


def _rule(job: Object, pod: Object) -> tuple[int, Any] | None:
    """The first rule of podFailurePolicy that a failed pod meets."""
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or ()
    for number, rule in enumerate(rules if phase(pod) == "Failed" else ()):
        codes, patterns = rule.get("onExitCodes"), rule.get("onPodConditions")
        if (codes and _exit_code(codes, pod)) or (patterns and _has_condition(patterns, pod)):
            return number, rule
    return None


def _exit_code(wanted: Object, pod: Object) -> bool:
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        ended_with = ((container.get("state") or {}).get("terminated") or {}).get("exitCode", 0)
        if ended_with == 0 or wanted.get("containerName") not in (None, container.get("name")):
            continue
        if (ended_with in wanted["values"]) == (wanted["operator"] == "In"):
            return True
    return False


def _has_condition(patterns: Iterable[Object], pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions")
    return any((find(conditions, p["type"]) or {}).get("status") == p.get("status", "True") for p in patterns)


def _ignored(job: Object, pod: Object) -> bool:
    match = _rule(job, pod)
    return match is not None and match[1]["action"] == "Ignore"


def _policy_failure(job: Object, own: Sequence[Object]) -> str | None:
    for pod in own:
        match = _rule(job, pod)
        if match is not None and match[1]["action"] == "FailJob":
            metadata = pod["metadata"]
            return f"Pod {metadata['namespace']}/{metadata['name']} failed, matching FailJob rule at index {match[0]}"
    return None


def ranges(indexes: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> "0-2,5" (two neighbours are written "0,1")."""
    parts: list[list[int]] = []
    for index in sorted(indexes):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    joined = {0: lambda a, b: f"{a}", 1: lambda a, b: f"{a},{b}"}
    return ",".join(joined.get(b - a, lambda a, b: f"{a}-{b}")(a, b) for a, b in parts)


def unranges(text: str) -> set[int]:
    indexes: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        indexes.update(range(int(first), int(last or first) + 1))
    return indexes
