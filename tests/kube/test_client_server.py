"""Client, informer and both transports against the real API server: in process, and over TLS with its kubeconfig."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.https import HttpsTransport
from sampan.kube.informer import Informer
from sampan.kube.objects import Object, name_of
from sampan.kube.transport import JSON_PATCH, STRATEGIC_MERGE_PATCH, Transport

CM = kinds.CONFIG_MAP


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    store = Store.open(tmp_path / "cluster.db", window=64)
    pki = Pki(tmp_path / "pki")
    pki.ensure()
    made = ApiServer(store, pki, {"service_cidr": "127.64.128.0/17", "node_name": "node", "node_ip": "127.64.0.1"})
    await made.start()
    yield made
    await made.stop()
    await store.close()


@pytest.fixture(params=["in process", "https"])
async def client(server: ApiServer, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    transport: Transport = server.transport()
    if request.param == "https":
        port = await server.serve()
        server.write_kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{port}")
        transport = HttpsTransport.from_kubeconfig(tmp_path / "kubeconfig")
    yield Client(transport)
    await transport.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_create_get_update_delete(client: Client) -> None:
    made = await client.create(CM, config_map("a", x="1"))
    assert await client.get(CM, "a", "default") == made
    updated = await client.update(CM, {**made, "data": {"x": "2"}})
    assert updated["data"] == {"x": "2"}
    with pytest.raises(ApiError) as stale:
        await client.update(CM, {**made, "data": {"x": "3"}})
    assert stale.value.code == 409
    await client.delete(CM, "a", "default", uid=made["metadata"]["uid"])
    with pytest.raises(ApiError) as gone:
        await client.get(CM, "a", "default")
    assert (gone.value.code, gone.value.reason) == (404, "NotFound")


async def test_every_patch_type(client: Client) -> None:
    await client.create(CM, config_map("a", x="1"))
    merged = await client.patch(CM, "a", "default", {"data": {"y": "2"}})
    assert merged["data"] == {"x": "1", "y": "2"}
    patch = [{"op": "remove", "path": "/data/y"}]
    assert (await client.patch(CM, "a", "default", patch, content_type=JSON_PATCH))["data"] == {"x": "1"}
    strategic = {"data": {"z": "3"}}
    assert (await client.patch(CM, "a", "default", strategic, content_type=STRATEGIC_MERGE_PATCH))["data"]["z"] == "3"
    applied = await client.apply(CM, config_map("a", w="4"), field_manager="me")
    assert applied["data"] == {"x": "1", "z": "3", "w": "4"}


async def test_dry_run_changes_nothing(client: Client) -> None:
    await client.create(CM, config_map("a"), dry_run=True)
    with pytest.raises(ApiError):
        await client.get(CM, "a", "default")


async def test_pages_are_put_together(client: Client) -> None:
    for number in range(7):
        await client.create(CM, config_map(f"m{number}"))
    answer = await client.list(CM, "default", limit=3)
    assert [name_of(o) for o in answer.items] == [f"m{n}" for n in range(7)]
    assert all(o["kind"] == "ConfigMap" for o in answer.items)
    assert int(answer.resource_version) >= max(int(o["metadata"]["resourceVersion"]) for o in answer.items)


async def test_selectors(client: Client) -> None:
    labelled = config_map("a")
    labelled["metadata"]["labels"] = {"app": "web"}
    await client.create(CM, labelled)
    await client.create(CM, config_map("b"))
    assert [name_of(o) for o in (await client.list(CM, labels="app=web")).items] == ["a"]
    assert [name_of(o) for o in (await client.list(CM, "default", fields="metadata.name=b")).items] == ["b"]
    await client.delete_collection(CM, "default", labels="app=web")
    assert [name_of(o) for o in (await client.list(CM, "default")).items] == ["b"]


async def test_an_informer_follows_through_create_update_delete(client: Client) -> None:
    informer = Informer(client, CM, namespace="default")
    informer.start()
    await informer.wait_synced(5)
    await client.create(CM, config_map("a", x="1"))
    await until(lambda: informer.get("default/a"))
    await client.patch(CM, "a", "default", {"data": {"x": "2"}})
    await until(lambda: informer.list()[0]["data"]["x"] == "2")
    await client.delete(CM, "a", "default")
    await until(lambda: not informer.list())
    assert informer.lists == 1
    await informer.stop()


async def test_a_watch_from_a_forgotten_version_is_gone(client: Client) -> None:
    first = await client.create(CM, config_map("a"))
    for number in range(200):
        await client.patch(CM, "a", "default", {"data": {"n": str(number)}})
    with pytest.raises(ApiError) as caught:
        async for _ in client.watch(CM, "default", resource_version=first["metadata"]["resourceVersion"]):
            break
    assert caught.value.code == 410


async def test_an_informer_recovers_when_its_version_was_forgotten(client: Client) -> None:
    informer = Informer(client, CM, namespace="default")
    await client.create(CM, config_map("doomed"))
    gone: list[str] = []
    informer.add_handler(lambda old, new: gone.append(name_of(old)) if new is None and old else None)
    informer.start()
    await informer.wait_synced(5)
    await informer.stop()  # away for a while
    await client.delete(CM, "doomed", "default")
    await client.create(CM, config_map("a"))
    for number in range(200):
        await client.patch(CM, "a", "default", {"data": {"n": str(number)}})
    informer.start()
    await until(lambda: informer.get("default/a") and gone == ["doomed"])
    assert informer.lists == 2
    await informer.stop()
