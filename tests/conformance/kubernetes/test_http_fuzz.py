"""Requests and clients that break every rule, at every route: answered in time, never with a fault of ours, and nothing
is left behind.

`python -m tests.conformance.kubernetes.httpfuzz --operations 50000` runs longer; `--compare` sets the codes against
the real control plane's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.kubernetes.httpfuzz import abuse
from tests.conformance.kubernetes.httpfuzz.client import Address
from tests.conformance.kubernetes.httpfuzz.run import Run
from tests.conformance.kubernetes.httpfuzz.server import FuzzedServer
from tests.conformance.kubernetes.targets import start_embedded
from tests.conformance.kubernetes.wire import Wire

OPERATIONS = 1500
GROWTH = 150_000
"""Kilobytes the server may gain: buffers of some hundred connections at once, caches, and what was written."""
LIMIT = 3 * 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FuzzedServer]:
    found = FuzzedServer(tmp_path)
    yield found
    found.stop()


@pytest.mark.parametrize("seed", [3])
async def test_requests_and_clients_that_break_every_rule(server: FuzzedServer, seed: int) -> None:
    run = await asyncio.to_thread(Run, server, seed)
    await run.go(100)  # what is made on first use is no leak
    before = await asyncio.to_thread(server.census)
    address = Address(server.kubeconfig)
    await asyncio.gather(run.go(OPERATIONS), abuse.everything(address, seed))
    after = await asyncio.to_thread(server.settled, before)
    assert [f"{found.what}\n{found.request}" for found in run.result.found] == []
    assert server.complaints() == ""
    assert after.tasks <= before.tasks and after.descriptors <= before.descriptors, (before, after)
    assert after.kilobytes <= before.kilobytes + GROWTH, (before, after)
    assert len(run.result.codes) > 8, "the requests reach different answers"
    assert run.wire.get("/readyz").code == 200


async def test_a_body_over_the_limit_is_refused_and_hears_so(server: FuzzedServer) -> None:
    address = Address(server.kubeconfig)
    assert await abuse.too_large(address, LIMIT) == 400, "it is read, and is no JSON"
    for size in (LIMIT + 1, 4 * LIMIT):
        assert await abuse.too_large(address, size) == 413


async def test_streams_into_pods_cut_off_at_any_point(tmp_path: Path) -> None:
    """Exec, attach and port-forward sessions of a real pod, spoilt after the upgrade, leave nothing behind."""
    target = start_embedded(tmp_path)
    log = tmp_path / "cluster/cluster.log"
    try:
        wire, process = Wire(target.kubeconfig), target.processes[0].pid
        wire.post("/api/v1/namespaces", {"metadata": {"name": "fuzz"}})
        container = {"name": "c", "image": "busybox", "command": ["sh", "-c", "while true; do echo x; sleep 0.1; done"]}
        pod = {"metadata": {"name": "a"}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
        await _until(lambda: wire.post("/api/v1/namespaces/fuzz/pods", pod).code in {201, 409})
        await _until(lambda: wire.get("/api/v1/namespaces/fuzz/pods/a")["status"].get("phase") == "Running")
        address, rng, codes = Address(target.kubeconfig), random.Random(1), []
        codes += [await abuse.upgraded(address, raw, rng) for raw in abuse.UPGRADES]
        await asyncio.sleep(1)
        before = _held(process)
        for _ in range(4):
            codes += await asyncio.gather(*(abuse.upgraded(address, raw, rng) for raw in abuse.UPGRADES))
        assert {101, 400} <= set(codes) and not {code for code in codes if code >= 500}, codes
        try:
            await _until(lambda: _held(process) <= before, 40)
        except AssertionError:
            raise AssertionError(f"descriptors and children: {before} before, {_held(process)} after") from None
        status = wire.get("/api/v1/namespaces/fuzz/pods/a")["status"]
        assert (status["phase"], status["containerStatuses"][0]["restartCount"]) == ("Running", 0)
    finally:
        await asyncio.to_thread(target.stop)
    assert "Traceback" not in log.read_text() and "never retrieved" not in log.read_text(), log.read_text()[-4000:]


def _held(pid: int) -> tuple[int, int]:
    """(descriptors, processes below it) of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    below, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in below} - below
        below |= more
        grown = bool(more)
    # The pod's own `sleep` comes and goes.
    names = [_name(one) for one in below]
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len([name for name in names if name not in {"sleep", ""}])


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def _until(check: Callable[[], object], seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < give_up, "it did not come about"
        await asyncio.sleep(0.1)
