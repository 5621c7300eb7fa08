"""EndpointSlices, Endpoints, autoscaling, budgets and scheduling against the real API server."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sampan.kube import kinds
from sampan.kube.objects import Object, name_of
from sampan.operator.conditions import find

Template = Callable[..., Object]
SELECTOR = {"matchLabels": {"app": "web"}}
SLICE = kinds.ENDPOINT_SLICE


async def deploy(cluster: Any, template: Object, replicas: int = 2) -> None:
    await cluster.create(kinds.DEPLOYMENT, "web", {"replicas": replicas, "selector": SELECTOR, "template": template})


async def expose(cluster: Any, **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    made: Object = await cluster.create(kinds.SERVICE, "web", {"selector": {"app": "web"}, "ports": ports, **spec})
    return made


def named(template: Object, number: int = 8080) -> Object:
    template["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": number}]
    return template


async def endpoints(cluster: Any) -> list[Object]:
    return [e for s in await cluster.list(SLICE, "kubernetes.io/service-name=web") for e in s.get("endpoints") or ()]


async def ready(cluster: Any, number: int) -> bool:
    return bool(sum(e["conditions"]["ready"] for e in await endpoints(cluster)) == number)


async def test_endpoints_follow_readiness(cluster: Any, template: Template) -> None:
    cluster.node.ready = lambda pod: False
    await expose(cluster)
    await deploy(cluster, named(template()))

    async def listed() -> bool:
        return len(await endpoints(cluster)) == 2

    await cluster.until(listed)
    assert await ready(cluster, 0)
    for pod in await cluster.pods():
        await cluster.node.set(pod)
    await cluster.until(lambda: ready(cluster, 2))
    [found] = await cluster.list(SLICE, "kubernetes.io/service-name=web")
    assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io"
    old = await cluster.get(kinds.ENDPOINTS, "web")
    assert len(old["subsets"][0]["addresses"]) == 2


async def test_a_change_of_readiness_arrives_within_milliseconds(cluster: Any, template: Template) -> None:
    await expose(cluster)
    await deploy(cluster, named(template()), 1)
    await cluster.until(lambda: ready(cluster, 1))
    await cluster.settle()
    changed = asyncio.Event()
    informer = cluster.manager.cache.informer(SLICE)
    informer.add_handler(lambda old, new: changed.set())
    times = []
    for value in (False, True) * 5:
        changed.clear()
        [pod] = await cluster.pods()
        start = time.perf_counter()
        await cluster.node.set(pod, ready=value)
        await asyncio.wait_for(changed.wait(), 5)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 0.1, times


async def test_a_terminating_pod_serves_but_is_not_ready(cluster: Any, template: Template) -> None:
    await expose(cluster)
    await deploy(cluster, named(template()), 1)
    await cluster.until(lambda: ready(cluster, 1))
    cluster.node.linger = True
    [pod] = await cluster.pods()
    await cluster.delete(kinds.POD, name_of(pod))

    async def leaving() -> bool:
        states = {e["targetRef"]["name"]: e["conditions"] for e in await endpoints(cluster)}
        return states.get(name_of(pod)) == {"ready": False, "serving": True, "terminating": True}

    await cluster.until(leaving)


async def test_a_named_port_may_differ_between_pods(cluster: Any, template: Template) -> None:
    await expose(cluster)
    for name, number in (("a", 8080), ("b", 9090)):
        await cluster.create(kinds.POD, name, named(template(), number)["spec"], metadata={"labels": {"app": "web"}})
    await cluster.until(lambda: ready(cluster, 2))
    slices = await cluster.list(SLICE, "kubernetes.io/service-name=web")
    assert sorted(s["ports"][0]["port"] for s in slices) == [8080, 9090]


async def test_endpoints_written_by_hand_are_mirrored(cluster: Any) -> None:
    await cluster.create(kinds.SERVICE, "web", {"ports": [{"port": 80}]})
    subsets = [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 3306, "protocol": "TCP"}]}]
    await cluster.create(kinds.ENDPOINTS, "web", subsets=subsets)
    await cluster.until(lambda: ready(cluster, 1))
    assert (await endpoints(cluster))[0]["addresses"] == ["10.1.2.3"]


async def test_slices_and_endpoints_go_with_their_service(cluster: Any, template: Template) -> None:
    await expose(cluster)
    await deploy(cluster, named(template()), 1)
    await cluster.until(lambda: ready(cluster, 1))
    await cluster.delete(kinds.SERVICE, "web")

    async def gone() -> bool:
        return not await cluster.list(SLICE) and not await cluster.exists(kinds.ENDPOINTS, "web")

    await cluster.until(gone)


def hpa(**more: Any) -> Object:
    target = {"type": "Utilization", "averageUtilization": 50}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1,
        "maxReplicas": 5,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        **more,
    }


async def replicas(cluster: Any, number: int) -> bool:
    return bool((await cluster.get(kinds.DEPLOYMENT, "web"))["spec"]["replicas"] == number)


async def test_an_autoscaler_follows_use_up_and_down(cluster: Any, template: Template) -> None:
    await deploy(cluster, template(), 1)
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    autoscaler = kinds.HORIZONTAL_POD_AUTOSCALER
    await cluster.create(autoscaler, "web", hpa(behavior=behavior))

    async def no_metric() -> bool:
        conditions = ((await cluster.get(autoscaler, "web")).get("status") or {}).get("conditions")
        return (find(conditions, "ScalingActive") or {}).get("reason") == "FailedGetResourceMetric"

    await cluster.until(no_metric)

    async def load(cores: float, wanted: int) -> None:
        async def step() -> bool:
            for pod in await cluster.pods():
                cluster.use(name_of(pod), cores)
            return await replicas(cluster, wanted)

        await cluster.until(step)

    await asyncio.sleep(1.1)  # use measured before the pod was ready says nothing
    await load(0.1, 2)
    await load(0.5, 5)
    status = (await cluster.get(autoscaler, "web"))["status"]
    assert (find(status["conditions"], "ScalingActive") or {})["reason"] == "ValidMetricFound"
    await load(0.001, 1)


async def test_a_budget_counts_what_may_be_disrupted(cluster: Any, template: Template) -> None:
    await deploy(cluster, template(), 4)
    await cluster.create(kinds.POD_DISRUPTION_BUDGET, "web", {"maxUnavailable": "25%", "selector": SELECTOR})

    async def allowed() -> bool:
        status = (await cluster.get(kinds.POD_DISRUPTION_BUDGET, "web")).get("status") or {}
        seen = [status.get(f) for f in ("expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed")]
        return seen == [4, 3, 4, 1]

    await cluster.until(allowed)


async def test_a_pod_that_fits_nowhere_says_why_and_is_placed_when_it_does(cluster: Any, template: Template) -> None:
    await cluster.create(kinds.POD, "picky", template(nodeSelector={"disk": "ssd"})["spec"])

    async def refused() -> bool:
        pod = await cluster.get(kinds.POD, "picky")
        condition = find((pod.get("status") or {}).get("conditions"), "PodScheduled")
        return condition is not None and "didn't match" in condition["message"]

    await cluster.until(refused)
    await cluster.client.patch(kinds.NODE, "node", None, {"metadata": {"labels": {"disk": "ssd"}}})

    async def placed() -> bool:
        return bool((await cluster.get(kinds.POD, "picky"))["spec"].get("nodeName") == "node")

    await cluster.until(placed)
