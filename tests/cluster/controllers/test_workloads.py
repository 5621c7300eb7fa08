"""StatefulSet, DaemonSet, Job and CronJob against the real API server."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sampan.kube import kinds
from sampan.kube.objects import Object, annotations_of, is_deleting, labels_of, name_of
from sampan.operator.conditions import is_true

Template = Callable[..., Object]
SELECTOR = {"matchLabels": {"app": "web"}}
STS, DS, JOB, CRON = kinds.STATEFUL_SET, kinds.DAEMON_SET, kinds.JOB, kinds.CRON_JOB


def sts(template: Object, replicas: int = 3, **more: Any) -> Object:
    return {"serviceName": "web", "replicas": replicas, "selector": SELECTOR, "template": template, **more}


async def names(cluster: Any) -> list[str]:
    return [name_of(p) for p in await cluster.pods() if not is_deleting(p)]


async def ready(cluster: Any, number: int) -> bool:
    status = (await cluster.get(STS, "web")).get("status") or {}
    return bool(status.get("readyReplicas", 0) == number == status.get("replicas", 0))


async def test_pods_come_in_order_each_after_the_last_is_ready(cluster: Any, template: Template) -> None:
    cluster.node.ready = lambda pod: name_of(pod) != "web-1"
    await cluster.create(STS, "web", sts(template()))
    await cluster.until(lambda: _is(cluster, ["web-0", "web-1"]))
    await cluster.settle()
    assert await names(cluster) == ["web-0", "web-1"]
    await cluster.node.set(await cluster.get(kinds.POD, "web-1"))
    await cluster.until(lambda: ready(cluster, 3))
    pod = await cluster.get(kinds.POD, "web-2")
    assert labels_of(pod)["apps.kubernetes.io/pod-index"] == "2"
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("web-2", "web")


async def _is(cluster: Any, expected: list[str]) -> bool:
    return await names(cluster) == expected


async def test_parallel_waits_for_nobody(cluster: Any, template: Template) -> None:
    cluster.node.ready = lambda pod: False
    await cluster.create(STS, "web", sts(template(), podManagementPolicy="Parallel"))
    await cluster.until(lambda: _is(cluster, ["web-0", "web-1", "web-2"]))


async def test_scaling_down_takes_the_highest_and_keeps_the_volumes(cluster: Any, template: Template) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await cluster.create(STS, "web", sts(template(), 2, volumeClaimTemplates=[claim]))
    await cluster.until(lambda: ready(cluster, 2))
    pod = await cluster.get(kinds.POD, "web-1")
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "data-web-1"
    await cluster.patch(STS, "web", {"spec": {"replicas": 1}}, "scale")
    await cluster.until(lambda: ready(cluster, 1))
    assert await names(cluster) == ["web-0"]
    claims = await cluster.list(kinds.PERSISTENT_VOLUME_CLAIM)
    assert sorted(map(name_of, claims)) == ["data-web-0", "data-web-1"]
    assert {c["status"]["phase"] for c in claims} == {"Bound"}


async def test_an_update_goes_from_the_highest_down_to_the_partition(cluster: Any, template: Template) -> None:
    await cluster.create(STS, "web", sts(template(), updateStrategy={"rollingUpdate": {"partition": 1}}))
    await cluster.until(lambda: ready(cluster, 3))
    await cluster.patch(STS, "web", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}})

    async def updated() -> bool:
        return [annotations_of(p).get("v") for p in await cluster.pods()] == [None, "2", "2"] and await ready(
            cluster, 3
        )

    await cluster.until(updated)
    await cluster.settle()
    status = (await cluster.get(STS, "web"))["status"]
    assert (status["updatedReplicas"], status["currentReplicas"]) == (2, 1)
    assert status["currentRevision"] != status["updateRevision"]
    await cluster.delete(kinds.POD, "web-0")  # below the partition: comes back as it was
    await cluster.until(lambda: ready(cluster, 3))
    assert annotations_of(await cluster.get(kinds.POD, "web-0")).get("v") is None
    await cluster.patch(STS, "web", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})

    async def complete() -> bool:
        status = (await cluster.get(STS, "web"))["status"]
        return bool(status["currentRevision"] == status["updateRevision"] and status.get("updatedReplicas") == 3)

    await cluster.until(complete)


async def test_history_is_kept_in_controller_revisions(cluster: Any, template: Template) -> None:
    await cluster.create(STS, "web", sts(template(), 1))
    await cluster.until(lambda: ready(cluster, 1))
    await cluster.patch(STS, "web", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}})

    async def two() -> bool:
        return sorted(r["revision"] for r in await cluster.list(kinds.CONTROLLER_REVISION, "app=web")) == [1, 2]

    await cluster.until(two)


async def test_a_daemon_set_puts_one_pod_on_each_fitting_node(cluster: Any, template: Template) -> None:
    await cluster.create(kinds.NODE, "windows", {}, metadata={"labels": {"kubernetes.io/os": "windows"}})
    body = {"selector": SELECTOR, "template": template(nodeSelector={"kubernetes.io/os": "linux"})}
    await cluster.create(DS, "web", body)

    async def done() -> bool:
        status = (await cluster.get(DS, "web")).get("status") or {}
        return bool(status.get("desiredNumberScheduled") == 1 == status.get("numberAvailable", 0))

    await cluster.until(done)
    [pod] = await cluster.pods()
    assert pod["spec"]["nodeName"] == "node"
    await cluster.patch(DS, "web", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}})

    async def rolled() -> bool:
        return [annotations_of(p).get("v") for p in await cluster.pods()] == ["2"] and await done()

    await cluster.until(rolled)


def job(template: Object, **more: Any) -> Object:
    return {"template": {"spec": {**template["spec"], "restartPolicy": "Never"}}, **more}


async def condition(cluster: Any, name: str, type: str) -> bool:
    return is_true(((await cluster.get(JOB, name)).get("status") or {}).get("conditions"), type)


async def finish(cluster: Any, phase: str = "Succeeded", code: int = 0) -> None:
    for pod in await cluster.pods():
        if (pod.get("status") or {}).get("phase") == "Running":
            ended = {"terminated": {"exitCode": code, "finishedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
            statuses = [{"name": "main", "state": ended, "image": "", "imageID": "", "ready": False, "restartCount": 0}]
            await cluster.node.set(pod, phase=phase, ready=False, containerStatuses=statuses)


async def running(cluster: Any, number: int) -> bool:
    return bool(sum((p.get("status") or {}).get("phase") == "Running" for p in await cluster.pods()) == number)


async def test_a_job_runs_to_its_completions_within_its_parallelism(cluster: Any, template: Template) -> None:
    await cluster.create(JOB, "sum", job(template(), completions=3, parallelism=2))
    await cluster.until(lambda: running(cluster, 2))
    await cluster.settle()
    assert len(await cluster.pods()) == 2
    await finish(cluster)
    await cluster.until(lambda: running(cluster, 1))
    await finish(cluster)
    await cluster.until(lambda: condition(cluster, "sum", "Complete"))
    status = (await cluster.get(JOB, "sum"))["status"]
    assert status["succeeded"] == 3
    assert status["completionTime"]
    await cluster.settle()
    assert not any(p["metadata"].get("finalizers") for p in await cluster.pods())


async def test_a_job_gives_up_at_its_back_off_limit(cluster: Any, template: Template) -> None:
    await cluster.create(JOB, "bad", job(template(), backoffLimit=1))
    for _ in range(2):
        await cluster.until(lambda: running(cluster, 1))
        await finish(cluster, "Failed", 1)
    await cluster.until(lambda: condition(cluster, "bad", "Failed"))
    status = (await cluster.get(JOB, "bad"))["status"]
    assert status["failed"] == 2
    assert {c["reason"] for c in status["conditions"]} == {"BackoffLimitExceeded"}


async def test_a_deleted_finished_pod_stays_counted(cluster: Any, template: Template) -> None:
    await cluster.create(JOB, "sum", job(template(), completions=2))
    await cluster.until(lambda: running(cluster, 1))
    first = (await cluster.pods())[0]
    await finish(cluster)
    await cluster.until(lambda: running(cluster, 1))
    await cluster.delete(kinds.POD, name_of(first))
    await finish(cluster)
    await cluster.until(lambda: condition(cluster, "sum", "Complete"))
    assert (await cluster.get(JOB, "sum"))["status"]["succeeded"] == 2


async def test_an_indexed_job_runs_each_index(cluster: Any, template: Template) -> None:
    await cluster.create(JOB, "many", job(template(), completions=3, parallelism=3, completionMode="Indexed"))
    await cluster.until(lambda: running(cluster, 3))
    pods = await cluster.pods()
    assert sorted(annotations_of(p)["batch.kubernetes.io/job-completion-index"] for p in pods) == ["0", "1", "2"]
    assert all({"name": "JOB_COMPLETION_INDEX", "value": labels_of(p)["batch.kubernetes.io/job-completion-index"]}
               in p["spec"]["containers"][0]["env"] for p in pods)  # fmt: skip
    await finish(cluster)
    await cluster.until(lambda: condition(cluster, "many", "Complete"))
    assert (await cluster.get(JOB, "many"))["status"]["completedIndexes"] == "0-2"


async def test_a_suspended_job_runs_when_resumed(cluster: Any, template: Template) -> None:
    await cluster.create(JOB, "later", job(template(), suspend=True))
    await cluster.until(lambda: condition(cluster, "later", "Suspended"))
    assert await cluster.pods() == []
    await cluster.patch(JOB, "later", {"spec": {"suspend": False}})
    await cluster.until(lambda: running(cluster, 1))


async def test_a_deadline_ends_a_job(cluster: Any, template: Template) -> None:
    await cluster.create(JOB, "slow", job(template(), activeDeadlineSeconds=1))
    await cluster.until(lambda: condition(cluster, "slow", "Failed"))
    reasons = {c["reason"] for c in (await cluster.get(JOB, "slow"))["status"]["conditions"]}
    assert reasons == {"DeadlineExceeded"}
    await cluster.until(lambda: _is(cluster, []))


async def test_a_finished_job_lives_for_its_time(cluster: Any, template: Template) -> None:
    await cluster.create(JOB, "brief", job(template(), ttlSecondsAfterFinished=0))
    await cluster.until(lambda: running(cluster, 1))
    await finish(cluster)

    async def gone() -> bool:
        return not await cluster.exists(JOB, "brief") and not await cluster.pods()

    await cluster.until(gone)


async def test_a_cron_job_starts_the_missed_run_once_and_forbids_a_second(cluster: Any, template: Template) -> None:
    body = {"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": job(template())}}
    made = await cluster.create(CRON, "tick", body)
    await cluster.settle()
    long_ago = {**made, "status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}
    await cluster.client.update(
        CRON, {**(await cluster.get(CRON, "tick")), "status": long_ago["status"]}, subresource="status"
    )

    async def started() -> bool:
        return len(await cluster.list(JOB)) == 1

    await cluster.until(started)
    await cluster.settle()
    assert len(await cluster.list(JOB)) == 1
    status = (await cluster.get(CRON, "tick"))["status"]
    assert [reference["kind"] for reference in status["active"]] == ["Job"]
    await cluster.until(lambda: running(cluster, 1))
    await finish(cluster)

    async def noted() -> bool:
        status = (await cluster.get(CRON, "tick"))["status"]
        return not status.get("active") and bool(status.get("lastSuccessfulTime"))

    await cluster.until(noted)
