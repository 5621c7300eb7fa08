"""Garbage collection, namespaces, volumes and namespace defaults against the real API server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.kube import kinds
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, name_of, owner_reference

Template = Callable[..., Object]
SELECTOR = {"matchLabels": {"app": "web"}}
CM, PVC, PV = kinds.CONFIG_MAP, kinds.PERSISTENT_VOLUME_CLAIM, kinds.PERSISTENT_VOLUME
WIDGET = Resource("example.com", "v1", "Widget", "widgets", "widget")


async def deploy(cluster: Any, template: Object) -> None:
    await cluster.create(kinds.DEPLOYMENT, "web", {"replicas": 2, "selector": SELECTOR, "template": template})

    async def running() -> bool:
        return len(await cluster.pods()) == 2

    await cluster.until(running)


async def empty(cluster: Any) -> bool:
    return not await cluster.list(kinds.REPLICA_SET) and not await cluster.pods()


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_deleting_a_deployment_takes_its_pods(cluster: Any, template: Template, propagation: str) -> None:
    await deploy(cluster, template())
    await cluster.delete(kinds.DEPLOYMENT, "web", propagation)
    await cluster.until(lambda: empty(cluster))

    async def gone() -> bool:
        return not await cluster.exists(kinds.DEPLOYMENT, "web")

    await cluster.until(gone)


async def test_foreground_keeps_the_owner_until_its_dependents_are_gone(cluster: Any, template: Template) -> None:
    await deploy(cluster, template())
    cluster.node.linger = True
    await cluster.delete(kinds.DEPLOYMENT, "web", "Foreground")
    await cluster.settle()
    assert (await cluster.get(kinds.DEPLOYMENT, "web"))["metadata"]["finalizers"] == ["foregroundDeletion"]
    cluster.node.linger = False
    for pod in await cluster.pods():
        await cluster.node.handle(pod)

    async def gone() -> bool:
        return not await cluster.exists(kinds.DEPLOYMENT, "web")

    await cluster.until(gone)


async def test_orphan_leaves_the_dependents(cluster: Any, template: Template) -> None:
    await deploy(cluster, template())
    await cluster.delete(kinds.DEPLOYMENT, "web", "Orphan")

    async def gone() -> bool:
        return not await cluster.exists(kinds.DEPLOYMENT, "web")

    await cluster.until(gone)
    await cluster.settle()
    [left] = await cluster.list(kinds.REPLICA_SET)
    assert not left["metadata"].get("ownerReferences")
    assert len(await cluster.pods()) == 2


async def test_an_object_lives_while_one_owner_does(cluster: Any) -> None:
    one, two = await cluster.create(CM, "one"), await cluster.create(CM, "two")
    owners = [owner_reference(o, controller=False, block=False) for o in (one, two)]
    await cluster.create(CM, "child", metadata={"ownerReferences": owners})
    await cluster.delete(CM, "one")
    await cluster.settle()

    async def one_left() -> bool:
        return [o["name"] for o in (await cluster.get(CM, "child"))["metadata"]["ownerReferences"]] == ["two"]

    await cluster.until(one_left)
    await cluster.delete(CM, "two")

    async def gone() -> bool:
        return not await cluster.exists(CM, "child")

    await cluster.until(gone)


async def test_an_owner_that_never_was_is_absent(cluster: Any) -> None:
    ghost = {"apiVersion": "v1", "kind": "ConfigMap", "name": "ghost", "uid": "00000000-0000-0000-0000-000000000000"}
    await cluster.create(CM, "child", metadata={"ownerReferences": [ghost]})

    async def gone() -> bool:
        return not await cluster.exists(CM, "child")

    await cluster.until(gone)


async def define(cluster: Any) -> None:
    spec = {
        "group": "example.com",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
        "scope": "Namespaced",
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    }
    await cluster.create(kinds.CUSTOM_RESOURCE_DEFINITION, "widgets.example.com", spec)

    async def established() -> bool:
        try:
            await cluster.list(WIDGET)
        except Exception:
            return False
        return True

    await cluster.until(established)


async def test_custom_resources_own_and_are_owned(cluster: Any) -> None:
    await define(cluster)
    widget = await cluster.create(WIDGET, "w")
    await cluster.create(CM, "child", metadata={"ownerReferences": [owner_reference(widget)]})
    await cluster.settle()
    assert await cluster.exists(CM, "child")
    await cluster.delete(WIDGET, "w")

    async def gone() -> bool:
        return not await cluster.exists(CM, "child")

    await cluster.until(gone)


async def test_a_namespace_takes_everything_with_it(cluster: Any, template: Template) -> None:
    await define(cluster)
    await deploy(cluster, template())
    await cluster.create(WIDGET, "w")
    await cluster.create(CM, "settings")
    await cluster.client.delete(kinds.NAMESPACE, "shop")

    async def gone() -> bool:
        return not await cluster.exists(kinds.NAMESPACE, "shop")

    await cluster.until(gone)
    for resource in (kinds.POD, kinds.REPLICA_SET, CM, WIDGET, kinds.SERVICE_ACCOUNT):
        assert await cluster.list(resource) == []


async def test_a_namespace_waits_for_finalizers_and_says_so(cluster: Any) -> None:
    await cluster.create(CM, "held", metadata={"finalizers": ["example.com/hold"]})
    await cluster.client.delete(kinds.NAMESPACE, "shop")

    async def says() -> bool:
        conditions = ((await cluster.get(kinds.NAMESPACE, "shop")).get("status") or {}).get("conditions") or []
        return any("example.com/hold in 1" in c["message"] for c in conditions)

    await cluster.until(says)
    await cluster.patch(CM, "held", {"metadata": {"finalizers": None}})

    async def gone() -> bool:
        return not await cluster.exists(kinds.NAMESPACE, "shop")

    await cluster.until(gone)


async def test_every_namespace_has_its_account_and_ca(cluster: Any) -> None:
    async def there() -> bool:
        return bool(
            await cluster.exists(kinds.SERVICE_ACCOUNT, "default") and await cluster.exists(CM, "kube-root-ca.crt")
        )

    await cluster.until(there)
    assert (await cluster.get(CM, "kube-root-ca.crt"))["data"] == {"ca.crt": "CA"}
    await cluster.delete(kinds.SERVICE_ACCOUNT, "default")
    await cluster.until(there)


CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


async def bound(cluster: Any, name: str = "data") -> bool:
    return ((await cluster.get(PVC, name)).get("status") or {}).get("phase") == "Bound"


async def test_a_claim_is_bound_to_a_new_directory_that_goes_with_it(cluster: Any, template: Template) -> None:
    await cluster.create(PVC, "data", CLAIM)
    await cluster.until(lambda: bound(cluster))
    claim = await cluster.get(PVC, "data")
    volume = await cluster.get(PV, claim["spec"]["volumeName"])
    path = Path(volume["spec"]["hostPath"]["path"])
    assert path.is_dir()
    assert path.stat().st_mode & 0o777 == 0o700
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    await cluster.create(kinds.POD, "user", template(volumes=volumes)["spec"])
    await cluster.settle()
    await cluster.delete(PVC, "data")
    await cluster.settle()
    assert path.is_dir(), "a claim in use is not removed under its pod"
    await cluster.delete(kinds.POD, "user")

    async def gone() -> bool:
        return not await cluster.exists(PVC, "data") and not await cluster.exists(PV, name_of(volume))

    await cluster.until(gone)
    assert not path.exists()


async def test_a_claim_takes_the_smallest_volume_made_for_its_class(cluster: Any, tmp_path: Path) -> None:
    for name, size in (("big", "10Gi"), ("fit", "2Gi"), ("small", "500Mi")):
        spec = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
                "hostPath": {"path": str(tmp_path)}, "persistentVolumeReclaimPolicy": "Retain"}  # fmt: skip
        await cluster.create(PV, name, spec)
    await cluster.create(PVC, "data", {**CLAIM, "storageClassName": "manual"})
    await cluster.until(lambda: bound(cluster))
    assert (await cluster.get(PVC, "data"))["spec"]["volumeName"] == "fit"
    await cluster.delete(PVC, "data")

    async def released() -> bool:
        return bool((await cluster.get(PV, "fit"))["status"]["phase"] == "Released")

    await cluster.until(released)
