"""Job: pods until enough of them have succeeded.

A finished pod is counted exactly once, even across a crash: its finalizer keeps it until its uid has been written to
`status.uncountedTerminatedPods`, and only then is it let go and the count raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sampan.cluster.controllers import jobstatus, pods
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, annotations_of, is_deleting, key_of, name_of, namespace_of, now, uid_of
from sampan.operator import Controller, Maps, Owns, Result, Watch
from sampan.operator.cache import OWNER
from sampan.operator.conditions import find, is_true, put
from sampan.operator.finalizers import has, remove

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"


class JobController(Controller):
    """`backoff` is the first delay in seconds before a failed pod is replaced; it doubles up to `backoff_ceiling`."""

    name, resource = "job", kinds.JOB

    def __init__(self, *, backoff: float = 10.0, backoff_ceiling: float = 360.0) -> None:
        super().__init__()
        self.backoff, self.backoff_ceiling = backoff, backoff_ceiling

    def watches(self) -> tuple[Watch, ...]:
        self.jobs = self.cache.informer(kinds.JOB)
        self.pods = self.cache.informer(kinds.POD, indexes=pods.INDEXES)
        return Owns(kinds.POD), Maps(kinds.POD, self._released)

    def _released(self, pod: Object) -> list[str]:
        """A tracked pod whose job is gone still has to be let go; the reconcile of its own key does that."""
        return [f"{key_of(pod)}#pod"] if has(pod, TRACKING) and self._orphaned(pod) else []

    def _orphaned(self, pod: Object) -> bool:
        owners = [r for r in pod["metadata"].get("ownerReferences") or () if r.get("kind") == "Job"]
        jobs = [self.jobs.get(f"{namespace_of(pod)}/{reference['name']}") for reference in owners]
        return not any(job and uid_of(job) == r["uid"] for job, r in zip(jobs, owners, strict=True))

    async def reconcile(self, key: str) -> Result | None:
        if key.endswith("#pod"):
            pod = self.pods.get(key.removesuffix("#pod"))
            if pod is not None and self._orphaned(pod):
                await remove(self.client, kinds.POD, pod, TRACKING)
            return None
        job = self.jobs.get(key)
        if job is None:
            for pod in self.pods.list(key.rpartition("/")[0]):
                if has(pod, TRACKING) and self._orphaned(pod):
                    await remove(self.client, kinds.POD, pod, TRACKING)
            return None
        own = await pods.claim(self.client, kinds.POD, job, self.pods)
        if is_deleting(job):
            for pod in own:
                await remove(self.client, kinds.POD, pod, TRACKING)
            return None
        if jobstatus.finished(job):
            return await self._after(job, own)
        return await self._run(job, own)

    async def _after(self, job: Object, own: Sequence[Object]) -> Result | None:
        """Let remaining pods go, and delete the job when its time to live is over."""
        for pod in own:
            await remove(self.client, kinds.POD, pod, TRACKING)
        lifetime = job["spec"].get("ttlSecondsAfterFinished")
        if lifetime is None:
            return None
        left = lifetime - pods.age(jobstatus.finished_at(job))
        if left > 0:
            return Result(left + 0.1)
        try:
            await self.client.delete(kinds.JOB, name_of(job), namespace_of(job), uid=uid_of(job))
        except ApiError as error:
            if error.code != 404:
                raise
        return None

    async def _run(self, job: Object, own: list[Object]) -> Result | None:
        old = job.get("status") or {}
        status: Object = {**old}
        suspended = bool(job["spec"].get("suspend"))
        if not status.get("startTime") and not suspended:
            status["startTime"] = now()
        tally = jobstatus.count(job, own, TRACKING)
        status.update(tally.status(old))
        active = [pod for pod in own if pods.is_active(pod)]
        conditions = jobstatus.note_suspension(list(old.get("conditions") or ()), suspended)
        if conditions != (old.get("conditions") or []) and not suspended:
            status["startTime"] = now()  # resumed: the deadline starts anew
        verdict = jobstatus.judge(job, status, own, tally)
        wait = jobstatus.deadline(job, status) if verdict is None else math.inf
        if verdict is None and not suspended:
            active, delay = await self._scale(job, own, active, tally)
            wait = min(wait, delay)
        elif suspended or verdict is not None:
            await self._stop(job, active)
            if suspended and verdict is None:
                status.pop("startTime", None)
            active = [p for p in self.pods.by_index(OWNER, uid_of(job)) if pods.is_active(p)]
        status["conditions"] = self._conclude(job, status, conditions, verdict, own)
        if not status["conditions"]:
            del status["conditions"]
        status = {k: v for k, v in status.items() if k not in ("active", "ready", "terminating")} | pods.counts(
            active=len(active),
        )
        status["ready"] = sum(map(pods.is_ready, active))
        status["terminating"] = sum(
            is_deleting(p) and pods.phase(p) not in pods.FINISHED for p in self.pods.by_index(OWNER, uid_of(job))
        )
        job = await pods.write_status(self.client, kinds.JOB, self.jobs.get(key_of(job)) or job, status)
        for pod in tally.countable:
            await remove(self.client, kinds.POD, self.pods.get(key_of(pod)) or pod, TRACKING)
        return Result(wait) if math.isfinite(wait) else None

    def _conclude(
        self,
        job: Object,
        status: Object,
        conditions: list[Object],
        verdict: jobstatus.Verdict | None,
        own: list[Object],
    ) -> list[Object]:
        """Two steps, as Kubernetes does: SuccessCriteriaMet or FailureTarget first; Complete or Failed when every pod
        has ended and been counted."""
        if verdict is None:
            return conditions
        early, final = ("SuccessCriteriaMet", "Complete") if verdict.success else ("FailureTarget", "Failed")
        if not is_true(conditions, early):
            conditions = put(conditions, early, True, verdict.reason, verdict.message)
        running = [p for p in self.pods.by_index(OWNER, uid_of(job)) if pods.phase(p) not in pods.FINISHED]
        if running or jobstatus.uncounted(status):
            return conditions
        target = find(conditions, early) or {}
        conditions = put(conditions, final, True, target.get("reason", ""), target.get("message", ""))
        if verdict.success:
            status["completionTime"] = now()
            self.events.normal(job, "Completed", "Job completed")
        else:
            self.events.warning(job, target.get("reason") or "Failed", target.get("message") or "Job has failed")
        return conditions

    async def _scale(
        self, job: Object, own: list[Object], active: list[Object], tally: jobstatus.Tally
    ) -> tuple[list[Object], float]:
        """Run as many pods as parallelism and what is left to do allow. Returns active pods and seconds to wait."""
        spec = job["spec"]
        wanted = spec.get("parallelism", 1)
        completions = spec.get("completions")
        if completions is not None:
            wanted = min(wanted, completions - tally.succeeded)
        elif tally.succeeded:
            wanted = len(active)  # work queue: one success means no more are started
        surplus = len(active) - wanted
        if surplus > 0:
            await self._stop(job, pods.to_delete(active, surplus, active))
        terminating = [p for p in own if is_deleting(p) and pods.phase(p) not in pods.FINISHED]
        missing = wanted - len(active)
        if spec.get("podReplacementPolicy") == "Failed" or spec.get("podFailurePolicy"):
            missing -= len(terminating)
        if missing > 0:
            delay = self._delay(own)
            if delay > 0:
                return active, delay
            indexes = self._indexes(job, active + terminating, tally)

            async def make(number: int) -> None:
                made = await self.client.create(
                    kinds.POD, self._pod(job, indexes[number] if indexes is not None else None)
                )
                self.events.normal(job, "SuccessfulCreate", f"Created pod: {name_of(made)}")

            if indexes is not None:
                missing = min(missing, len(indexes))
            _, error = await pods.slow_start(missing, make)
            if error is not None:
                self.events.warning(job, "FailedCreate", f"Error creating: {error}")
                raise error
        return [p for p in self.pods.by_index(OWNER, uid_of(job)) if pods.is_active(p)], math.inf

    def _delay(self, own: Sequence[Object]) -> float:
        """Exponential back-off after pods that failed since the last success."""
        good = max((jobstatus.ended(p) for p in own if pods.phase(p) == "Succeeded"), default="")
        bad = sorted(jobstatus.ended(p) for p in own if pods.phase(p) == "Failed")
        bad = [when for when in bad if when > good]
        if not bad:
            return 0.0
        return float(min(self.backoff * 2 ** min(len(bad) - 1, 20), self.backoff_ceiling)) - pods.age(bad[-1])

    def _indexes(self, job: Object, busy: Sequence[Object], tally: jobstatus.Tally) -> list[int] | None:
        if job["spec"].get("completionMode") != "Indexed":
            return None
        taken = {int(annotations_of(pod).get(INDEX, -1)) for pod in busy} | tally.indexes
        return [index for index in range(job["spec"].get("completions") or 0) if index not in taken]

    def _pod(self, job: Object, index: int | None) -> Object:
        labels = {
            "batch.kubernetes.io/controller-uid": uid_of(job),
            "batch.kubernetes.io/job-name": name_of(job),
            "controller-uid": uid_of(job),
            "job-name": name_of(job),
        }
        metadata: dict[str, Any] = {"labels": labels, "finalizers": [TRACKING]}
        template = job["spec"]["template"]
        if index is None:
            return pods.from_template(template, job, generateName=f"{name_of(job)}-", **metadata)
        metadata["annotations"] = {INDEX: str(index)}
        metadata["labels"] = {**labels, INDEX: str(index)}
        pod = pods.from_template(template, job, generateName=f"{name_of(job)}-{index}-", **metadata)
        pod["spec"]["hostname"] = f"{name_of(job)}-{index}"
        variable = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
        for field in ("containers", "initContainers"):
            if pod["spec"].get(field):
                pod["spec"][field] = [
                    {**c, "env": [*(e for e in c.get("env") or () if e["name"] != variable["name"]), variable]}
                    for c in pod["spec"][field]
                ]
        return pod

    async def _stop(self, job: Object, victims: Sequence[Object]) -> None:
        for pod in victims:
            if await pods.delete(self.client, kinds.POD, pod):
                self.events.normal(job, "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")
