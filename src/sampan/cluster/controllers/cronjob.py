"""CronJob: a Job at each time of a schedule.

The next time is computed and slept for, not polled. Times missed while nothing ran lead to one job, the latest, when
startingDeadlineSeconds still allows it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from sampan.cluster.controllers import jobstatus, pods
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, key_of, name_of, namespace_of, owner_reference, parse_time, uid_of
from sampan.operator import Controller, Owns, Result, Watch
from sampan.operator.cache import OWNER
from sampan.operator.conditions import is_true

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
TOO_MANY = 100
SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"


class BadSchedule(ValueError):
    """A schedule or time zone that cannot be read."""


def times(schedule: str, zone: str | None, after: datetime) -> CronSim:
    """The times of a schedule later than `after`, as aware datetimes, without end. Raises BadSchedule."""
    try:
        moment = after.astimezone(ZoneInfo(zone) if zone else UTC)
        return CronSim(MACROS.get(schedule.strip(), schedule.strip()), moment)
    except (CronSimError, KeyError, ValueError, OSError) as error:
        raise BadSchedule(f"unparseable schedule {schedule!r} (time zone {zone!r}): {error}") from None


def due(
    schedule: str, zone: str | None, earliest: datetime, present: datetime
) -> tuple[datetime | None, datetime, int]:
    """(the latest time missed since `earliest`, the next one to come, how many were missed, at most TOO_MANY + 1)."""
    upcoming = times(schedule, zone, earliest)
    missed, last = 0, None
    moment = next(upcoming)
    while moment <= present:
        missed, last = missed + 1, moment
        if missed > TOO_MANY:  # look near the present only
            upcoming = times(schedule, zone, max(earliest, present - timedelta(days=1)))
            moment = next(upcoming)
            while moment <= present:
                last, moment = moment, next(upcoming)
            break
        moment = next(upcoming)
    return last, moment, missed


class CronJobController(Controller):
    name, resource = "cronjob", kinds.CRON_JOB

    def watches(self) -> tuple[Watch, ...]:
        self.cronjobs = self.cache.informer(kinds.CRON_JOB)
        self.jobs = self.cache.informer(kinds.JOB)
        return (Owns(kinds.JOB),)

    async def reconcile(self, key: str) -> Result | None:
        cron = self.cronjobs.get(key)
        if cron is None or is_deleting(cron):
            return None
        jobs = sorted(self.jobs.by_index(OWNER, uid_of(cron)), key=lambda j: j["metadata"]["creationTimestamp"])
        await self._trim(cron, jobs)
        status = self._status(cron, jobs)
        result = None
        if not cron["spec"].get("suspend"):
            status, result = await self._start(cron, jobs, status)
        if status != (cron.get("status") or {}):
            await self.client.update(kinds.CRON_JOB, {**cron, "status": status}, subresource="status")
        return result

    def _status(self, cron: Object, jobs: list[Object]) -> Object:
        status = {k: v for k, v in (cron.get("status") or {}).items() if k != "active"}
        active = [_reference(job) for job in jobs if not jobstatus.finished(job)]
        ends = [
            j["status"].get("completionTime") or ""
            for j in jobs
            if is_true((j.get("status") or {}).get("conditions"), "Complete")
        ]
        latest = max([status.get("lastSuccessfulTime") or "", *ends])
        return {
            **status,
            **({"lastSuccessfulTime": latest} if latest else {}),
            **({"active": active} if active else {}),
        }

    async def _start(self, cron: Object, jobs: list[Object], status: Object) -> tuple[Object, Result | None]:
        spec, present = cron["spec"], datetime.now(UTC)
        earliest = parse_time(status.get("lastScheduleTime") or cron["metadata"]["creationTimestamp"])
        limit = spec.get("startingDeadlineSeconds")
        if limit is not None:
            earliest = max(earliest, present - timedelta(seconds=limit))
        try:
            last, upcoming, missed = due(spec["schedule"], spec.get("timeZone"), earliest, present)
        except BadSchedule as error:
            self.events.warning(cron, "UnparseableSchedule", str(error))
            return status, None
        wait = Result(max(0.0, (upcoming - present).total_seconds()) + 0.01)
        if missed > TOO_MANY:
            text = f"too many missed start times: {missed}. Set or decrease .spec.startingDeadlineSeconds"
            self.events.warning(cron, "TooManyMissedTimes", text)
        if last is None:
            return status, wait
        running = [job for job in jobs if not jobstatus.finished(job)]
        policy = spec.get("concurrencyPolicy", "Allow")
        if policy == "Forbid" and running:
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self.events.normal(cron, "JobAlreadyActive", text)
            return status, wait
        if policy == "Replace":
            for job in running:
                await self._delete(cron, job)
            status.pop("active", None)
        made = await self._create(cron, last)
        if made is not None and all(reference["uid"] != uid_of(made) for reference in status.get("active") or ()):
            status["active"] = [*(status.get("active") or ()), _reference(made)]
        status["lastScheduleTime"] = last.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return status, wait

    async def _create(self, cron: Object, when: datetime) -> Object | None:
        """The job of one time has one name, so it is never started twice."""
        template = cron["spec"]["jobTemplate"]
        metadata = template.get("metadata") or {}
        name = f"{name_of(cron)}-{int(when.timestamp()) // 60}"
        body: Object = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": name,
                "namespace": namespace_of(cron),
                "labels": metadata.get("labels") or {},
                "annotations": {**(metadata.get("annotations") or {}), SCHEDULED: when.isoformat()},
                "ownerReferences": [owner_reference(cron)],
            },
            "spec": template["spec"],
        }
        try:
            made = await self.client.create(kinds.JOB, body)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return self.jobs.get(f"{namespace_of(cron)}/{name}")
            self.events.warning(cron, "FailedCreate", f"Error creating job: {error}")
            raise
        self.events.normal(cron, "SuccessfulCreate", f"Created job {name}")
        return made

    async def _trim(self, cron: Object, jobs: list[Object]) -> None:
        for condition, field, default in (
            ("Complete", "successfulJobsHistoryLimit", 3),
            ("Failed", "failedJobsHistoryLimit", 1),
        ):
            done = [
                j for j in jobs if is_true((j.get("status") or {}).get("conditions"), condition) and not is_deleting(j)
            ]
            for job in done[: max(0, len(done) - cron["spec"].get(field, default))]:
                await self._delete(cron, job)

    async def _delete(self, cron: Object, job: Object) -> None:
        if await pods.delete(self.client, kinds.JOB, job):
            self.events.normal(cron, "SuccessfulDelete", f"Deleted job {name_of(job)}")


def _reference(job: Object) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "namespace": namespace_of(job),
        "name": key_of(job).rpartition("/")[2],
        "uid": uid_of(job),
        "resourceVersion": job["metadata"]["resourceVersion"],
    }
