"""Deployments and ReplicaSets against the real API server; the node is played by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

from sampan.kube import kinds
from sampan.kube.objects import Object, annotations_of, controller_of, is_deleting, labels_of, name_of
from sampan.kube.transport import JSON_PATCH
from sampan.operator.conditions import find

Template = Callable[..., Object]
D, RS = kinds.DEPLOYMENT, kinds.REPLICA_SET
SELECTOR = {"matchLabels": {"app": "web"}}


def spec(template: Object, replicas: int = 3, **more: Any) -> Object:
    return {"replicas": replicas, "selector": SELECTOR, "template": template, **more}


async def available(cluster: Any, name: str = "web") -> bool:
    found = await cluster.get(D, name)
    status, wanted = found.get("status") or {}, found["spec"]["replicas"]
    done = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
    numbers = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
    return bool(done and numbers == [wanted] * 3)


async def test_a_deployment_makes_its_pods_at_once(cluster: Any, template: Template) -> None:
    await cluster.settle()
    await cluster.create(D, "web", spec(template()))
    await cluster.until(lambda: _count(cluster, 3))
    await cluster.until(lambda: available(cluster))
    found = await cluster.get(D, "web")
    assert annotations_of(found)["deployment.kubernetes.io/revision"] == "1"
    conditions = found["status"]["conditions"]
    assert (find(conditions, "Available") or {})["status"] == "True"
    assert (find(conditions, "Progressing") or {})["reason"] == "NewReplicaSetAvailable"
    [replica_set] = await cluster.list(RS)
    digest = labels_of(replica_set)["pod-template-hash"]
    assert name_of(replica_set) == f"web-{digest}"
    assert all(labels_of(pod)["pod-template-hash"] == digest for pod in await cluster.pods())


async def _count(cluster: Any, number: int) -> bool:
    return len([p for p in await cluster.pods() if not is_deleting(p)]) == number


async def test_a_settled_cluster_writes_nothing(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template()))
    await cluster.until(lambda: available(cluster))
    await cluster.settle()
    before = (await cluster.client.list(kinds.POD)).resource_version
    await asyncio.sleep(0.2)
    assert (await cluster.client.list(kinds.POD)).resource_version == before


async def test_a_lost_pod_is_replaced(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template()))
    await cluster.until(lambda: available(cluster))
    lost = (await cluster.pods())[0]
    await cluster.delete(kinds.POD, name_of(lost))

    async def replaced() -> bool:
        found = [name_of(p) for p in await cluster.pods()]
        return len(found) == 3 and name_of(lost) not in found and await available(cluster)

    await cluster.until(replaced)


async def test_a_rolling_update_keeps_its_bounds_and_ends(cluster: Any, template: Template) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await cluster.create(D, "web", spec(template(), 4, strategy=strategy))
    await cluster.until(lambda: available(cluster))
    bounds: list[tuple[int, int]] = []

    def watch(old: Object | None, new: Object | None) -> None:
        pods = [p for p in cluster.manager.cache.informer(kinds.POD).list("shop") if not is_deleting(p)]
        ready = [
            p for p in pods if (find((p.get("status") or {}).get("conditions"), "Ready") or {}).get("status") == "True"
        ]
        bounds.append((len(pods), len(ready)))

    cluster.manager.cache.informer(kinds.POD).add_handler(watch)
    bounds.clear()
    await cluster.patch(D, "web", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}})
    await cluster.until(lambda: available(cluster))
    await cluster.settle()
    assert max(total for total, _ in bounds) <= 5
    assert min(ready for _, ready in bounds) >= 4
    sets = {
        annotations_of(s)["deployment.kubernetes.io/revision"]: s["spec"]["replicas"] for s in await cluster.list(RS)
    }
    assert sets == {"1": 0, "2": 4}


async def test_a_broken_update_stops_and_undo_returns(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template(), 4, progressDeadlineSeconds=1))
    await cluster.until(lambda: available(cluster))
    first = await cluster.get(D, "web")
    cluster.node.ready = lambda pod: pod["spec"]["containers"][0]["image"] != "web:broken"
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "web:broken"}]
    await cluster.client.patch(D, "web", "shop", patch, content_type=JSON_PATCH)

    async def exceeded() -> bool:
        conditions = (await cluster.get(D, "web"))["status"]["conditions"]
        return (find(conditions, "Progressing") or {}).get("reason") == "ProgressDeadlineExceeded"

    await cluster.until(exceeded)
    found = await cluster.get(D, "web")
    assert found["status"]["availableReplicas"] >= 3
    undo = [
        {"op": "replace", "path": "/spec/template", "value": first["spec"]["template"]}
    ]  # what `rollout undo` sends
    await cluster.client.patch(D, "web", "shop", undo, content_type=JSON_PATCH)
    await cluster.until(lambda: available(cluster))
    good = next(s for s in await cluster.list(RS) if s["spec"]["replicas"])
    assert annotations_of(good)["deployment.kubernetes.io/revision"] == "3"
    assert annotations_of(good)["deployment.kubernetes.io/revision-history"] == "1"


async def test_a_paused_deployment_scales_but_does_not_roll(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template(), 2))
    await cluster.until(lambda: available(cluster))
    await cluster.patch(D, "web", {"spec": {"paused": True}})
    await cluster.patch(D, "web", {"spec": {"replicas": 3, "template": {"metadata": {"annotations": {"v": "2"}}}}})
    await cluster.until(lambda: _count(cluster, 3))
    await cluster.settle()
    assert len(await cluster.list(RS)) == 1
    await cluster.patch(D, "web", {"spec": {"paused": None}})
    await cluster.until(lambda: available(cluster))
    assert len(await cluster.list(RS)) == 2


async def test_recreate_starts_nothing_before_the_last_old_pod_is_gone(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template(), 2, strategy={"type": "Recreate"}))
    await cluster.until(lambda: available(cluster))
    cluster.node.linger = True
    await cluster.patch(D, "web", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}})
    await cluster.settle()
    assert all(is_deleting(p) for p in await cluster.pods())
    assert len(await cluster.pods()) == 2
    cluster.node.linger = False
    for pod in await cluster.pods():
        await cluster.node.handle(pod)
    await cluster.until(lambda: available(cluster))


async def test_scaling_in_the_middle_of_an_update_ends_right(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template(), 3))
    await cluster.until(lambda: available(cluster))
    await cluster.patch(D, "web", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}})
    await cluster.patch(D, "web", {"spec": {"replicas": 7}}, "scale")
    await cluster.until(lambda: available(cluster))
    await cluster.patch(D, "web", {"spec": {"replicas": 1}}, "scale")
    await cluster.until(lambda: available(cluster))
    assert await _count(cluster, 1)


async def test_history_is_limited(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template(), 1, revisionHistoryLimit=1))
    for version in "2345":
        await cluster.until(lambda: available(cluster))
        await cluster.patch(D, "web", {"spec": {"template": {"metadata": {"annotations": {"v": version}}}}})
    await cluster.until(lambda: available(cluster))
    await cluster.settle()
    revisions = {annotations_of(s)["deployment.kubernetes.io/revision"] for s in await cluster.list(RS)}
    assert revisions == {"4", "5"}


async def test_min_ready_seconds_delays_availability(cluster: Any, template: Template) -> None:
    await cluster.create(D, "web", spec(template(), 1, minReadySeconds=3))
    await cluster.until(lambda: _count(cluster, 1))
    await cluster.settle()
    assert (await cluster.get(D, "web"))["status"].get("availableReplicas", 0) == 0
    await cluster.until(lambda: available(cluster))


async def test_a_replica_set_adopts_and_releases(cluster: Any, template: Template) -> None:
    made = await cluster.create(kinds.POD, "loose", template()["spec"], metadata={"labels": {"app": "web"}})
    await cluster.create(RS, "web", spec(template(), 2))
    await cluster.until(lambda: _count(cluster, 2))
    assert (controller_of(await cluster.get(kinds.POD, "loose")) or {})["name"] == "web"
    await cluster.patch(kinds.POD, "loose", {"metadata": {"labels": {"app": "debug"}}})
    await cluster.until(lambda: _count(cluster, 3))
    await cluster.settle()
    loose = await cluster.get(kinds.POD, "loose")
    assert controller_of(loose) is None
    assert loose["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_template_the_server_refuses_shows_in_the_conditions(cluster: Any, template: Template) -> None:
    body = template()
    body["spec"]["containers"][0]["volumeMounts"] = [{"name": "none", "mountPath": "/x"}]
    try:
        await cluster.create(RS, "web", spec(body, 1))
    except Exception:
        return  # refused even earlier, which is better

    async def failed() -> bool:
        conditions = ((await cluster.get(RS, "web")).get("status") or {}).get("conditions")
        return find(conditions, "ReplicaFailure") is not None

    await cluster.until(failed)


async def test_a_replication_controller_still_works(cluster: Any, template: Template) -> None:
    body = {"replicas": 2, "selector": {"app": "web"}, "template": template()}
    await cluster.create(kinds.REPLICATION_CONTROLLER, "web", body)
    await cluster.until(lambda: _count(cluster, 2))

    async def ready() -> bool:
        status = (await cluster.get(kinds.REPLICATION_CONTROLLER, "web")).get("status") or {}
        return bool(status.get("readyReplicas") == 2)

    await cluster.until(ready)
