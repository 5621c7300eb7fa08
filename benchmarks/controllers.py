"""From a wish to its pods: work queue, controllers over the in-process API server, and the client beside its peer."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import PeerMissing, Row, median, peer_python, row
from sampan.cluster import controllers
from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.objects import Object
from sampan.operator import Manager, WorkQueue

AREA = "controllers"
OBJECTS = 2000
OURS = """
import asyncio, sys, time
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.https import HttpsTransport
async def main():
    client = Client(HttpsTransport.from_kubeconfig(sys.argv[1]))
    await client.list(kinds.CONFIG_MAP, "default", limit=1)
    start = time.perf_counter()
    for _ in range(3):
        assert len((await client.list(kinds.CONFIG_MAP, "default")).items) >= int(sys.argv[2])
    print((time.perf_counter() - start) / 3)
    await client.close()
asyncio.run(main())
"""
PEER = """
import asyncio, sys, time
from kubernetes_asyncio import client, config
async def main():
    await config.load_kube_config(sys.argv[1])
    async with client.ApiClient() as api:
        core = client.CoreV1Api(api)
        await core.list_namespaced_config_map("default", limit=1)
        start = time.perf_counter()
        for _ in range(3):
            assert len((await core.list_namespaced_config_map("default")).items) >= int(sys.argv[2])
        print((time.perf_counter() - start) / 3)
asyncio.run(main())
"""


def run() -> Iterable[Row]:
    yield row(AREA, "work queue: 1,000 add, get, done", median(lambda: asyncio.run(_queue())) * 1000, "ms")
    with tempfile.TemporaryDirectory() as scratch:
        yield from asyncio.run(_cluster(Path(scratch)))


async def _queue() -> float:
    queue = WorkQueue()
    keys = [f"shop/{number}" for number in range(1000)]
    start = time.perf_counter()
    for key in keys:
        queue.add(key)
    for _ in keys:
        queue.done(await queue.get())
    return time.perf_counter() - start


@asynccontextmanager
async def _control_plane(directory: Path) -> AsyncIterator[tuple[ApiServer, Client, Manager]]:
    store, pki = Store.open(directory / "cluster.db"), Pki(directory / "pki")
    pki.ensure()
    server = ApiServer(store, pki, {"service_cidr": "127.64.128.0/17", "node_name": "node", "node_ip": "127.64.0.1"})
    await server.start()
    client = Client(server.transport())
    manager = controllers.manager(client, usage=dict, volumes=directory / "volumes")
    await manager.start()
    await client.create(kinds.NODE, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}})
    await manager.settle()
    yield server, client, manager
    await manager.stop()
    await server.stop()
    await store.close()


async def _cluster(directory: Path) -> list[Row]:
    async with _control_plane(directory) as (server, client, manager):
        single = [await _deploy(client, manager, f"one-{n}", 1) for n in range(15)]
        crowd = await _deploy(client, manager, "crowd", 500)
        rows = [
            row(AREA, "Deployment to its pod on a node", statistics.median(single) * 1000, "ms"),
            row(AREA, "Deployment of 500 to its pods on a node", crowd * 1000, "ms"),
        ]
        rows += await _listing(directory, server, client)
    return rows


async def _deploy(client: Client, manager: Manager, name: str, replicas: int) -> float:
    placed: set[str] = set()
    done = asyncio.Event()

    def heard(old: Object | None, new: Object | None) -> None:
        if new and new["metadata"].get("labels", {}).get("app") == name and new["spec"].get("nodeName"):
            placed.add(new["metadata"]["name"])
            if len(placed) == replicas:
                done.set()

    manager.cache.informer(kinds.POD).add_handler(heard)
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "web"}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    metadata = {"name": name, "namespace": "default"}
    start = time.perf_counter()
    await client.create(
        kinds.DEPLOYMENT, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    )
    await asyncio.wait_for(done.wait(), 60)
    taken = time.perf_counter() - start
    await manager.settle()
    return taken


async def _listing(directory: Path, server: ApiServer, client: Client) -> list[Row]:
    kubeconfig = directory / "kubeconfig"
    server.write_kubeconfig(kubeconfig, f"https://127.0.0.1:{await server.serve()}")
    data = {"settings": "x" * 500}
    for start in range(0, OBJECTS, 100):
        names = [f"m{number}" for number in range(start, start + 100)]
        bodies = [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": n, "namespace": "default"}, "data": data}
            for n in names
        ]
        await asyncio.gather(*(client.create(kinds.CONFIG_MAP, body) for body in bodies))
    what = f"list {OBJECTS:,} ConfigMaps over TLS, decoded"
    try:
        peer = await asyncio.to_thread(peer_python, "kubernetes-asyncio", ["kubernetes_asyncio"])
    except PeerMissing:
        ours = await _script(Path(sys.executable), OURS, kubeconfig)
        return [row(AREA, what, ours * 1000, "ms")]
    pairs = [
        (await _script(Path(sys.executable), OURS, kubeconfig), await _script(peer, PEER, kubeconfig)) for _ in range(3)
    ]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return [row(AREA, what, ours * 1000, "ms", peer="kubernetes_asyncio", peer_value=theirs * 1000)]


async def _script(python: Path, script: str, kubeconfig: Path) -> float:
    command = [str(python), "-c", script, str(kubeconfig), str(OBJECTS)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{python} ended with {done.returncode}: {done.stderr[-2000:]}")
    return float(done.stdout)
