"""The API of the embedded cluster beside the real control plane, both running all the while, asked in turns.

`ready` is the time from the command to the first answered request of the administrator, from an empty directory.
Memory is that of what answers the API and runs the controllers, of both sides: of ours one process, which is kubelet
and proxy besides; a row of its own adds what the embedded cluster has further, the zygote of pods and Envoy.
Every mutation is durable before it is acknowledged on both sides (etcd's fsync on). Objects are ConfigMaps of about
1 kB, which no controller acts on; `pod template` rows take an object with a large schema. Latencies are in ms.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import Row, row
from benchmarks.cluster import sides
from benchmarks.cluster.sides import Side
from benchmarks.cluster.wire import Connection, Measured, Wire, load, percentile

AREA = "cluster"
ROUNDS = 5
STARTS = 3
CONNECTIONS = 16
BATCH = 320
"""Requests of one verb in one round."""
WATCHERS = 100
SIZES = (10_000, 50_000)
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
TEXT = "The harbour keeps its own time; boats wait for the tide, and nobody minds. " * 7


def run() -> Iterable[Row]:
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as scratch:
        pair = (sides.ours(Path(scratch) / "ours"), sides.real(Path(scratch) / "real"))
        try:
            yield from _measure(*pair)
        finally:
            for side in pair:
                side.down()


def _measure(ours: Side, peer: Side) -> Iterator[Row]:
    yield _plain("ready", "s", *_starts(ours, peer))
    time.sleep(3)  # what follows readiness is over; both are idle
    yield _plain("idle-memory", "MB", ours.memory(), peer.memory())
    yield _plain("idle-memory, with zygote and Envoy", "MB", ours.memory(whole=True), peer.memory(whole=True))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield from runner.run(_mutations(ours, peer))
        yield runner.run(_fanout(ours, peer))
        yield from runner.run(_lists(ours, peer))
    yield _plain("memory-50000", "MB", ours.memory(), peer.memory())
    yield _plain("recovery-50000", "s", _recovery(ours), _recovery(peer))


def _plain(name: str, unit: str, value: float, peer_value: float) -> Row:
    return row(AREA, name, value, unit, peer="kube-apiserver + etcd", peer_value=peer_value)


def _starts(*pair: Side) -> list[float]:
    """Median seconds to ready of each, from empty directories, while the other does not run: for a while after it is
    ready each goes on working with both cores. The first start warms up; both go on running after their last."""
    times: dict[str, list[float]] = {side.name: [] for side in pair}
    for number in range(STARTS + 1):
        for side in pair:
            for each in pair:
                each.down()
            side.directory = side.directory.with_name(f"{side.name.partition(' ')[0]}-{number}")
            taken = side.up()
            if number:
                times[side.name].append(taken)
    pair[0].up()
    return [statistics.median(times[side.name]) for side in pair]


def _recovery(side: Side) -> float:
    side.kill()
    return side.up()


# -- objects


def config_map(name: str, namespace: str, text: str = TEXT, **data: str) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {"app.kubernetes.io/name": "bench", "app.kubernetes.io/part-of": "harbour", "tier": name[-1]},
        "annotations": {"example.com/why": "measured"},
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": text, **data}}


def pod_template(name: str, namespace: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "registry.example.com/harbour/orders:3f2a",
        "args": ["serve", "orders"],
        "env": [{"name": f"SETTING_{number}", "value": str(number)} for number in range(8)],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 2},
        "volumeMounts": [{"name": "config", "mountPath": "/config", "readOnly": True}],
    }
    spec = {"containers": [container], "volumes": [{"name": "config", "configMap": {"name": "orders"}}]}
    template = {"metadata": {"labels": {"app": "orders"}}, "spec": spec}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata, "template": template}


async def _namespace(wire: Wire, connection: Connection, name: str) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    reply = await connection.ask(wire.request("POST", "/api/v1/namespaces", body), keep=True)
    assert reply.code == 201, reply.body


# -- get, and what changes something

Requests = Callable[[Wire, str, list[str]], tuple[list[bytes], int]]
"""(side, namespace, names) -> the requests of one round and the status code of their answers."""


def _path(namespace: str, name: str = "", plural: str = "configmaps") -> str:
    return f"/api/v1/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def _create(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    return [wire.request("POST", _path(ns), config_map(name, ns)) for name in names], 201


def _get(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    return [wire.request("GET", _path(ns, name)) for name in names], 200


def _update(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    return [wire.request("PUT", _path(ns, name), config_map(name, ns, step="updated")) for name in names], 200


def _patch(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    return [wire.request("PATCH", _path(ns, name), {"data": {"step": "patched"}}, MERGE) for name in names], 200


def _apply(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    bodies = (config_map(name, ns, step="applied") for name in names)
    query = "?fieldManager=bench&force=true"
    return [
        wire.request("PATCH", _path(ns, name) + query, body, APPLY) for name, body in zip(names, bodies, strict=True)
    ], 200


def _delete(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    return [wire.request("DELETE", _path(ns, name)) for name in names], 200


def _create_template(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    plural = "podtemplates"
    return [wire.request("POST", _path(ns, plural=plural), pod_template(name, ns)) for name in names], 201


def _patch_template(wire: Wire, ns: str, names: list[str]) -> tuple[list[bytes], int]:
    change = {"template": {"spec": {"containers": [{"name": "main", "image": "registry.example.com/orders:4a1b"}]}}}
    kind = "application/strategic-merge-patch+json"
    return [wire.request("PATCH", _path(ns, name, "podtemplates"), change, kind) for name in names], 200


VERBS: tuple[tuple[str, Requests], ...] = (
    ("create", _create),
    ("get", _get),
    ("update", _update),
    ("patch", _patch),
    ("apply", _apply),
    ("delete", _delete),
    ("create, pod template", _create_template),
    ("patch, pod template", _patch_template),
)


async def _mutations(ours: Side, peer: Side) -> list[Row]:
    """Each verb in turns, the same objects through a whole life in every round; the first round warms up."""
    pair = [(side, side.wire()) for side in (ours, peer)]
    open_ = {side.name: await wire.connections(CONNECTIONS) for side, wire in pair}
    taken: dict[tuple[str, str], list[Measured]] = {}
    for side, wire in pair:
        await _namespace(wire, open_[side.name][0], "bench")
    for number in range(ROUNDS + 1):
        names = [f"r{number}-{index:04d}" for index in range(BATCH)]
        for verb, make in VERBS:
            for side, wire in pair if number % 2 else reversed(pair):
                requests, code = make(wire, "bench", names)
                measured = await load(open_[side.name], requests, code)
                if number:
                    taken.setdefault((verb, side.name), []).append(measured)
    for connections in open_.values():
        for connection in connections:
            connection.close()
    return [_rates(verb, taken[verb, ours.name], taken[verb, peer.name]) for verb, _ in VERBS]


def _rates(name: str, ours: list[Measured], peer: list[Measured]) -> Row:
    return row(
        AREA, name, statistics.median(each.rate for each in ours), "/s",
        peer="kube-apiserver + etcd", peer_value=statistics.median(each.rate for each in peer), more_is_better=True,
        p99=statistics.median(each.p99 for each in ours), peer_p99=statistics.median(each.p99 for each in peer),
    )  # fmt: skip


# -- watch


async def _fanout(ours: Side, peer: Side) -> Row:
    """Events delivered a second to 100 watchers of one namespace while it is written to; the p99 is that of the time
    from sending one change to the last of the watchers having it, with nothing else going on."""
    taken: dict[str, list[Measured]] = {}
    for number in range(ROUNDS):
        for side in (ours, peer) if number % 2 else (peer, ours):
            taken.setdefault(side.name, []).append(await _fanout_once(side.wire(), f"fan-{number}"))
    return _rates("watch-fanout", taken[ours.name], taken[peer.name])


async def _fanout_once(wire: Wire, namespace: str) -> Measured:
    writers = await wire.connections(4)
    await _namespace(wire, writers[0], namespace)
    names = [f"f{index}" for index in range(40)]
    await load(writers, *_create(wire, namespace, names))
    watchers = await wire.connections(WATCHERS)
    listed = await writers[0].ask(wire.request("GET", _path(namespace) + "?limit=1"), keep=True)
    version = listed.body.partition(b'"resourceVersion":"')[2].partition(b'"')[0].decode()
    request = wire.request("GET", f"{_path(namespace)}?watch=true&resourceVersion={version}")
    for watcher in watchers:
        watcher.streaming = True
        assert (await watcher.ask(request)).code == 200
    requests: list[bytes] = []
    for step in range(5):
        patches = ({"data": {"step": str(step)}} for _ in names)
        requests += [wire.request("PATCH", _path(namespace, n), p, MERGE) for n, p in zip(names, patches, strict=True)]
    began = time.perf_counter()
    await load(writers, requests, 200)
    await _seen(watchers, len(requests))
    rate = WATCHERS * len(requests) / (time.perf_counter() - began)
    late = []
    for step in range(20):
        began = time.perf_counter()
        await writers[0].ask(wire.request("PATCH", _path(namespace, "f0"), {"data": {"step": f"one-{step}"}}, MERGE))
        await _seen(watchers, len(requests) + step + 1)
        late.append(1000 * (time.perf_counter() - began))
    for connection in (*watchers, *writers):
        connection.close()
    return Measured(rate, percentile(late))


async def _seen(watchers: list[Connection], count: int) -> None:
    give_up = time.monotonic() + 60
    while min(watcher.events for watcher in watchers) < count:
        if time.monotonic() > give_up:
            raise RuntimeError(f"a watcher has {min(w.events for w in watchers)} of {count} events")
        await asyncio.sleep(0.0005)
    assert max(watcher.events for watcher in watchers) == count, "an event came twice"


# -- many objects


async def _lists(ours: Side, peer: Side) -> list[Row]:
    """The time of a whole list of all namespaces, at each size; the objects come over the API like any others."""
    rows, made = [], 0
    pair = [(side, side.wire()) for side in (ours, peer)]
    for size in SIZES:
        namespace = f"many-{size}"
        names = [f"m{index:06d}" for index in range(size - made)]
        for _, wire in pair:
            writers = await wire.connections(CONNECTIONS * 2)
            await _namespace(wire, writers[0], namespace)
            await load(writers, *_create(wire, namespace, names))
            for writer in writers:
                writer.close()
        made = size
        taken: dict[str, list[float]] = {}
        for number in range(8 if size < 20_000 else 5):
            for side, wire in pair if number % 2 else reversed(pair):
                took = await _list_once(wire, size)
                if number:
                    taken.setdefault(side.name, []).append(took)
        mine, theirs = taken[ours.name], taken[peer.name]
        rows.append(
            row(
                AREA,
                f"list-{size}",
                statistics.median(mine),
                "ms",
                peer="kube-apiserver + etcd",
                peer_value=statistics.median(theirs),
                p99=percentile(mine),
                peer_p99=percentile(theirs),
            )
        )
    return rows


async def _list_once(wire: Wire, size: int) -> float:
    """Milliseconds from the request to the last byte of the answer."""
    connection = await wire.connect()
    whole = wire.request("GET", "/api/v1/configmaps")
    began = time.perf_counter()
    reply = await connection.ask(whole)
    took = 1000 * (time.perf_counter() - began)
    assert reply.code == 200
    assert reply.size > size * len(TEXT), f"{reply.size} bytes are no {size} objects"
    connection.close()
    return took
