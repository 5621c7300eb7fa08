"""Ready is said of pods that can be reached: the wait, against a real API server without controllers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.cli.failure import Failure
from sampan.cli.serving import until_served
from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.https import HttpsTransport
from sampan.kube.objects import Object, name_of, uid_of


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    pki = Pki(tmp_path / "pki")
    pki.ensure()
    store = Store.open(tmp_path / "cluster.db")
    server = ApiServer(store, pki)
    await server.start()
    yield server
    await server.stop(grace=1.0)
    await store.close()


@pytest.fixture
async def client(api: ApiServer, tmp_path: Path) -> AsyncIterator[Client]:
    """Over HTTPS, as `up` has it."""
    port = await api.serve()
    api.write_kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{port}")
    client = Client(HttpsTransport.from_kubeconfig(tmp_path / "kubeconfig"))
    yield client
    await client.close()


async def pod(client: Client, name: str, *, ready: bool = True) -> Object:
    spec = {"containers": [{"name": "c", "image": "busybox"}]}
    metadata = {"name": name, "namespace": "default", "labels": {"app": "web"}}
    made = await client.create(kinds.POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    conditions = [{"type": "Ready", "status": str(ready)}]
    status = {"phase": "Running", "podIP": "127.64.1.1", "podIPs": [{"ip": "127.64.1.1"}], "conditions": conditions}
    return await client.update(kinds.POD, {**made, "status": status}, subresource="status")


async def service(client: Client, name: str, **spec: object) -> None:
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}}
    await client.create(kinds.SERVICE, {**made, "spec": {"ports": [{"port": 80}], **spec}})


async def endpoints(client: Client, name: str, *pods: Object, ready: bool) -> Object:
    body: Object = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": f"{name}-1", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [
            {
                "addresses": ["127.64.1.1"],
                "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": name_of(one), "uid": uid_of(one)},
            }
            for one in pods
        ],
    }  # fmt: skip
    return await client.apply(kinds.ENDPOINT_SLICE, body, field_manager="test")


async def test_it_waits_for_endpoints_and_then_for_the_proxy(api: ApiServer, client: Client) -> None:
    asked: list[int] = []

    async def settled() -> bool:
        asked.append(len(asked))
        return len(asked) > 3

    api.checks["proxy"] = settled
    web, idle = await pod(client, "web-1"), await pod(client, "web-2", ready=False)
    await service(client, "web", selector={"app": "web"})
    await service(client, "other", selector={"app": "other"})
    await service(client, "by-hand")
    await service(client, "elsewhere", type="ExternalName", externalName="example.com", selector={"app": "web"})
    waiting = asyncio.create_task(until_served(client, lambda: [web, idle], 60))
    for ready in (None, False):
        if ready is not None:
            await endpoints(client, "web", web, ready=ready)
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done and not asked
    await endpoints(client, "web", web, ready=True)
    await waiting
    assert len(asked) == 4


async def test_it_ends_with_what_lacks(api: ApiServer, client: Client) -> None:
    async def never() -> bool:
        return False

    web = await pod(client, "web-1")
    await service(client, "web", selector={"app": "web"})
    with pytest.raises(Failure, match=r"not served within 0\.5 s: pod web-1 is no endpoint of Service default/web yet"):
        await until_served(client, lambda: [web], 0.5)
    await endpoints(client, "web", web, ready=True)
    await until_served(client, lambda: [web], 60)  # a cluster without a proxy of ours
    api.checks["proxy"] = never
    with pytest.raises(Failure, match=r"not served within 0\.5 s: .*the proxy has not applied all it knows yet"):
        await until_served(client, lambda: [web], 0.5)
