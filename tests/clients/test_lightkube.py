"""lightkube, its asynchronous client: typed and generic resources, apply, watch with its own restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.apps_v1 import DeploymentSpec
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap, Event, Pod
from lightkube.types import CascadeType, PatchType

from tests.clients.conftest import GROUP, Harbour, eventually

Boat = create_namespaced_resource(GROUP, "v1", "Boat", "boats")
BoatStatus = Boat.Status


@pytest.fixture
async def client(harbour: Harbour, ns: str) -> AsyncIterator[AsyncClient]:
    made = AsyncClient(config=KubeConfig.from_file(str(harbour.kubeconfig)), namespace=ns, field_manager="lightkube")
    yield made
    await made.close()


def config_map(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, labels={"seen": "yes"}), data=data)


def named(obj: ConfigMap) -> str:
    assert obj.metadata is not None and obj.metadata.name is not None
    return obj.metadata.name


def letter(obj: ConfigMap) -> str:
    assert obj.data is not None
    return str(obj.data["a"])


async def test_objects_patches_and_pages(client: AsyncClient) -> None:
    for number in range(7):
        await client.create(config_map(f"m{number}", a="1"))
    listed = [named(item) async for item in client.list(ConfigMap, chunk_size=3, labels={"seen": "yes"})]
    assert listed == [f"m{number}" for number in range(7)]
    patched = await client.patch(ConfigMap, "m0", {"data": {"b": "2"}}, patch_type=PatchType.MERGE)
    assert patched.data == {"a": "1", "b": "2"}
    patched = await client.patch(ConfigMap, "m0", [{"op": "remove", "path": "/data/a"}], patch_type=PatchType.JSON)
    assert patched.data == {"b": "2"}
    patched.data = {"c": "3"}
    assert (await client.replace(patched)).data == {"c": "3"}
    with pytest.raises(ApiError) as caught:
        await client.replace(patched)
    assert caught.value.status.reason == "Conflict"
    await client.deletecollection(ConfigMap)
    assert [item async for item in client.list(ConfigMap, labels={"seen": "yes"})] == []


async def test_apply_with_conflict(client: AsyncClient, ns: str) -> None:
    def deployment(replicas: int) -> Deployment:
        labels = {"app": "x"}
        pod = PodSpec(containers=[Container(name="c", image="busybox", command=["sleep", "1000"])])
        template = PodTemplateSpec(metadata=ObjectMeta(labels=labels), spec=pod)
        spec = DeploymentSpec(replicas=replicas, selector=LabelSelector(matchLabels=labels), template=template)
        return Deployment(metadata=ObjectMeta(name="x", namespace=ns), spec=spec)

    await client.apply(deployment(1), field_manager="one")
    with pytest.raises(ApiError) as caught:
        await client.apply(deployment(2), field_manager="two")
    assert caught.value.status.code == 409
    assert 'conflict with "one"' in (caught.value.status.message or "")
    assert (await client.apply(deployment(2), field_manager="two", force=True)).spec.replicas == 2
    found = await client.wait(Deployment, "x", for_conditions=["Available"], namespace=ns)
    assert found.status is not None and found.status.readyReplicas
    await client.delete(Deployment, "x", cascade=CascadeType.FOREGROUND)

    async def gone() -> bool:
        return not [pod async for pod in client.list(Pod, labels={"app": "x"})]

    await eventually(gone, "the pods went with their deployment")


@pytest.mark.timeout(240)
async def test_watch_survives_restart_and_410(harbour: Harbour, client: AsyncClient) -> None:
    seen: dict[str, str] = {}
    lists = 0

    async def follow() -> None:
        nonlocal lists
        while True:
            try:
                listing = client.list(ConfigMap, labels={"seen": "yes"})
                present = {named(item): letter(item) async for item in listing}
                lists += 1
                seen.clear()
                seen.update(present)
                async for kind, item in client.watch(
                    ConfigMap, labels={"seen": "yes"}, resource_version=listing.resourceVersion, server_timeout=30
                ):
                    if kind == "DELETED":
                        seen.pop(named(item), None)
                    else:
                        seen[named(item)] = letter(item)
            except (ApiError, httpx2.HTTPError):
                await asyncio.sleep(0.05)

    following = asyncio.create_task(follow())
    try:
        await client.create(config_map("first", a="1"))
        await eventually(lambda: seen == {"first": "1"}, "the first is seen")
        await asyncio.to_thread(lambda: harbour.restart(compact=True))
        await client.create(config_map("second", a="1"))
        await client.delete(ConfigMap, "first")
        await eventually(lambda: seen == {"second": "1"}, "what changed around the restart is seen")
        assert lists > 1
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_leader_election(client: AsyncClient, ns: str) -> None:
    """A lease taken by update, as every election does it: of two who read the same version one wins."""
    from datetime import UTC, datetime

    made = await client.create(Lease(metadata=ObjectMeta(name="boats"), spec=LeaseSpec(leaseDurationSeconds=1)))

    async def take(name: str, lease: Lease) -> bool:
        spec = LeaseSpec(leaseDurationSeconds=1, holderIdentity=name, renewTime=datetime.now(UTC))
        try:
            await client.replace(Lease(metadata=lease.metadata, spec=spec))
        except ApiError as error:
            assert error.status.reason == "Conflict"
            return False
        return True

    results = await asyncio.gather(*(take(name, made) for name in ("left", "right", "third")))
    assert sum(results) == 1
    held = await client.get(Lease, "boats")
    assert held.spec is not None
    assert held.spec.holderIdentity == ("left", "right", "third")[results.index(True)]
    assert isinstance(held.spec.renewTime, datetime)
    assert await take("later", held)


async def test_exec_and_logs(client: AsyncClient, pod: str) -> None:
    """lightkube has no exec; it follows logs."""
    lines: list[str] = []
    async for line in client.log(pod, namespace="default", container="talker", follow=True, tail_lines=2):
        lines.append(line)
        if len(lines) == 5:
            break
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    with pytest.raises(ApiError) as caught:
        async for _ in client.log(pod, namespace="default", container="nobody"):
            pass
    assert caught.value.status.code == 400


async def test_custom_objects_and_finalizers(client: AsyncClient, boats: None, ns: str) -> None:
    boat = Boat(metadata=ObjectMeta(name="ida", namespace=ns, finalizers=[f"{GROUP}/x"]), spec={"size": 2})
    made: Any = await client.create(boat)
    assert made.spec["image"] == "busybox"
    await client.patch(BoatStatus, "ida", {"status": {"ready": 2}}, patch_type=PatchType.MERGE)
    await client.delete(Boat, "ida")
    found: Any = await client.get(Boat, "ida")
    assert found.status == {"ready": 2} and found.metadata.deletionTimestamp
    await client.patch(Boat, "ida", {"metadata": {"finalizers": []}}, patch_type=PatchType.MERGE)
    with pytest.raises(ApiError) as caught:
        await client.get(Boat, "ida")
    assert caught.value.status.code == 404


async def test_events(client: AsyncClient, pod: str) -> None:
    found = [event async for event in client.list(Event, namespace="default", fields={"involvedObject.name": pod})]
    assert {"Scheduled", "Started"} <= {event.reason for event in found}
