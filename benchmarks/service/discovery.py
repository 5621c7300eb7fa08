"""Choosing an instance, asking readiness, and how soon a change of settings in etcd is seen."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from benchmarks import PeerMissing, Row, compare, program, row
from benchmarks.service.harness import AREA
from sampan.service.bindings import Binding
from sampan.service.configuration.etcd import EtcdSource
from sampan.service.configuration.live import LiveConfig
from sampan.service.discovery.balancer import Balancer
from sampan.service.discovery.port import Instance
from sampan.service.telemetry.metrics import Registry

CALLS = 100_000
CHANGES = 100


class Settings(Struct):
    rate: float = 0.0


def run() -> Iterable[Row]:
    ours, peer = compare(lambda: picking(10), lambda: picking(1), 5)
    yield row(AREA, "pick and report, ten instances", ours, "ns", peer="one instance", peer_value=peer)
    try:
        program("etcd", "apt-get install etcd-server")
    except PeerMissing:
        return
    yield row(AREA, "settings, from a put in etcd to the subscriber", asyncio.run(following()) * 1000, "ms")


def picking(instances: int) -> float:
    """Nanoseconds for one pick and its report."""
    balancer = Balancer("users")
    balancer.update(Instance("users", str(number), f"http://u{number}") for number in range(instances))
    pick, report = balancer.pick, balancer.report
    started = time.perf_counter()
    for _ in range(CALLS):
        report(pick(), True)
    return (time.perf_counter() - started) / CALLS * 1e9


async def following() -> float:
    from tests.servers.etcd import start_etcd

    with tempfile.TemporaryDirectory() as directory:
        server = await asyncio.to_thread(start_etcd, Path(directory))
        try:
            source = EtcdSource(Binding("config-bench", "etcd", f"{server.uri}/config/bench"))
            config = LiveConfig("bench", Settings, {}, source, Registry())
            await config.load()
            await config.start()
            taken: list[float] = []
            seen = asyncio.Event()
            config.on_change(lambda _: seen.set())
            for number in range(1, CHANGES + 1):
                seen.clear()
                started = time.perf_counter()
                putting = asyncio.create_task(source.etcd.put("/config/bench/rate", str(number)))
                await seen.wait()
                taken.append(time.perf_counter() - started)
                await putting
            await config.stop()
            return statistics.median(taken)
        finally:
            server.stop()
