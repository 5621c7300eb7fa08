"""The pure parts: log files, atomic directories, hosts, status, addresses, probes' timing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.kubelet import hosts, logreader, probes, status, warm
from sampan.cluster.kubelet.environment import expand, field_value, resource_value
from sampan.cluster.kubelet.logfile import KEEP, LogWriter
from sampan.cluster.kubelet.node import Addresses
from sampan.cluster.kubelet.source import ConfigError
from sampan.cluster.kubelet.volumes import write_atomically
from sampan.cluster.runtime import LogOptions


async def _read(path: Path, **options: Any) -> str:
    chunks = [c async for c in logreader.read(path, LogOptions(**options), lambda: True)]
    return b"".join(chunks).decode()


async def test_logs_rotate_and_read_back(directory: Path) -> None:
    log = LogWriter(directory, 0, limit=2_000)
    for number in range(100):
        log.write("stdout", b"line %03d\n" % number)
    log.write("stderr", b"no end")
    log.close()
    parts = logreader.parts(directory / "0.log")
    assert 1 < len(parts) <= KEEP
    text = await _read(directory / "0.log")
    assert text.endswith("line 098\nline 099\nno end")
    assert await _read(directory / "0.log", tail_lines=2) == "line 099\nno end"
    assert await _read(directory / "0.log", limit_bytes=5) == text[:5]
    assert await _read(directory / "0.log", since=datetime.now(UTC) + timedelta(hours=1)) == ""
    assert (await _read(directory / "0.log", timestamps=True, tail_lines=2)).startswith("20")


async def test_following_crosses_a_rotation(directory: Path) -> None:
    log = LogWriter(directory, 0, limit=1_000)
    ended = False
    got: list[bytes] = []

    async def follow() -> None:
        async for chunk in logreader.read(directory / "0.log", LogOptions(follow=True), lambda: ended):
            got.append(chunk)  # noqa: PERF401

    task = asyncio.create_task(follow())
    for number in range(60):
        log.write("stdout", b"line %d\n" % number)
        await asyncio.sleep(0.01)
    ended = True
    log.close()
    await asyncio.wait_for(task, 5)
    assert b"".join(got).decode().split("\n")[:-1] == [f"line {n}" for n in range(60)]


def test_a_directory_changes_all_at_once(directory: Path) -> None:
    target = directory / "v"
    assert write_atomically(target, {"a": (b"1", 0o644), "d/b": (b"2", 0o600)})
    assert not write_atomically(target, {"a": (b"1", 0o644), "d/b": (b"2", 0o600)})
    before = (target / "..data").readlink()
    assert write_atomically(target, {"a": (b"3", 0o644)})
    assert (target / "..data").readlink() != before
    assert (target / "a").read_text() == "3"
    assert not (target / "d").exists()
    assert not (target / before).exists()
    with pytest.raises(ConfigError, match="leaves the volume"):
        write_atomically(target, {"../x": (b"", 0o644)})


def test_references_expand() -> None:
    assert expand("$(A) $$(A) $(B) $A $(", {"A": "1"}) == "1 $(A) $(B) $A $("


def test_downward_values() -> None:
    pod = {"metadata": {"name": "p", "labels": {"b": 'x"y', "a": "1"}, "annotations": {"k/x": "v"}}, "spec": {}}
    assert field_value(pod, "metadata.labels") == 'a="1"\nb="x\\"y"'
    assert field_value(pod, "metadata.annotations['k/x']") == "v"
    container = {"resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}
    assert resource_value(pod, {"resource": "limits.cpu"}, container) == "2"
    assert resource_value(pod, {"resource": "limits.memory", "divisor": "1Mi"}, container) == "64"
    assert resource_value(pod, {"resource": "requests.memory"}, container) == "0"


def test_hosts_of_headless_services_and_stateful_pods() -> None:
    service = {"metadata": {"name": "db", "namespace": "x"}, "spec": {"clusterIP": "None", "selector": {"app": "db"}}}
    ready = [{"type": "Ready", "status": "True"}]
    pod: dict[str, Any] = {
        "metadata": {"name": "db-0", "namespace": "x", "labels": {"app": "db"}},
        "spec": {"hostname": "db-0", "subdomain": "db"},
        "status": {"podIP": "127.9.1.1", "conditions": ready},
    }
    lines = hosts.service_lines([service], [pod], "x")
    assert lines == [
        "127.9.1.1\tdb-0.db db-0.db.x db-0.db.x.svc db-0.db.x.svc.cluster.local db db.x db.x.svc db.x.svc.cluster.local"
    ]
    assert "db-0.db.x.svc" in hosts.service_lines([service], [pod], "y")[0]
    own = hosts.render(
        {**pod, "spec": {**pod["spec"], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a"]}]}}, "9", []
    )
    assert "9\tdb-0.db.x.svc.cluster.local db-0\n1.2.3.4\ta\n" in own


@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        ("Always", [{"running": {}}], "Running"),
        ("Always", [{"waiting": {}}], "Pending"),
        ("Never", [{"terminated": {"exitCode": 0}}], "Succeeded"),
        ("Never", [{"terminated": {"exitCode": 0}}, {"terminated": {"exitCode": 2}}], "Failed"),
        ("Never", [{"terminated": {"exitCode": 0}}, {"running": {}}], "Running"),
        ("OnFailure", [{"terminated": {"exitCode": 2}}], "Running"),
        ("OnFailure", [{"terminated": {"exitCode": 0}}], "Succeeded"),
    ],
)
def test_phase(policy: str, states: list[Any], expected: str) -> None:
    containers = [{"state": state, "lastState": {}} for state in states]
    assert status.phase({"restartPolicy": policy}, True, containers, False) == expected


def test_quality_of_service() -> None:
    def of(resources: Any) -> str:
        return status.qos_class({"containers": [{"resources": resources}]})

    both = {"cpu": "1", "memory": "1Gi"}
    assert of({}) == "BestEffort"
    assert of({"requests": {"cpu": "1"}}) == "Burstable"
    assert of({"limits": both}) == "Guaranteed"
    assert of({"limits": both, "requests": {"cpu": "1000m", "memory": "1Gi"}}) == "Guaranteed"
    assert of({"limits": both, "requests": {"cpu": "500m"}}) == "Burstable"


def test_an_address_rests_before_it_is_used_again() -> None:
    pool = Addresses("127.9")
    first = pool.take()
    pool.free(first)
    assert pool.take() != first
    assert pool.take("127.9.7.7") == "127.9.7.7"
    assert pool.take("127.9.7.7") != "127.9.7.7"
    assert pool.take("127.9.200.1") != "127.9.200.1"


async def test_failures_count_once_a_period_even_when_asked_often() -> None:
    calls = 0
    reports: list[bool] = []

    async def check() -> str:
        nonlocal calls
        calls += 1
        return "no"

    spec = {"periodSeconds": 0.4, "failureThreshold": 2}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(probes.watch(spec, check, lambda ok, _: reports.append(ok), eager=True), 1.0)
    assert calls > 8
    assert reports == [False]


def test_what_runs_warm(directory: Path) -> None:
    import sys

    folder = str(Path(sys.executable).parent)
    script = directory / "tool"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(0o755)
    env = {"PATH": f"{directory}:{folder}:/usr/bin:/bin"}
    assert warm.plan(["python", "-u", "-m", "x", "1"], env) == ["-m", "x", "1"]
    assert warm.plan(["tool", "a"], env) == [str(script), "a"]
    assert warm.plan(["python", "-X", "dev", "x.py"], env) is None
    assert warm.plan(["sh", "-c", "x"], env) is None
    assert warm.plan(["python"], env) is None
