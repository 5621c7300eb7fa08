"""A job as Job or CronJob."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sampan.compile import identity
from sampan.compile.containers import pod
from sampan.compile.context import Item, version_of
from sampan.compile.workloads import service_account

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.compile.context import Context
    from sampan.model import Job

START_WITHIN_SECONDS = 300


def job(context: Context, declared: Job) -> Iterator[Item]:
    labels = context.labels("job", declared.name)
    yield service_account(context, declared, labels)
    yield from identity.access(context, declared)
    version = version_of(context.images(declared.name), context.app.version)
    spec = {
        "backoffLimit": declared.retries,
        "activeDeadlineSeconds": declared.timeout,
        "template": {
            "metadata": {"labels": {**labels, "app.kubernetes.io/version": version}},
            "spec": {"restartPolicy": "Never", **pod(context, declared, ["sampan", "run", declared.name])},
        },
    }
    if declared.schedule is None:
        # The template of a Job cannot change: another template is another Job, so that every release runs its own.
        name = f"{declared.name}-{digest(spec)}"
        yield Item(declared, context.object("batch/v1", "Job", name, labels, spec=spec))
        return
    timing: dict[str, Any] = {"schedule": declared.schedule}
    if declared.time_zone:
        timing["timeZone"] = declared.time_zone
    timing |= {
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": START_WITHIN_SECONDS,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "suspend": declared.suspend,
        "jobTemplate": {"metadata": {"labels": labels}, "spec": spec},
    }
    yield Item(declared, context.object("batch/v1", "CronJob", declared.name, labels, spec=timing))


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
