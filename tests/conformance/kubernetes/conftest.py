"""Every test here runs on each target, the real control plane first: what it does there is what is right."""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.kubernetes.targets import Missing, Target, running
from tests.conformance.kubernetes.wire import Wire

TARGETS = ["given", "embedded"] if os.environ.get("SAMPAN_CONFORMANCE_KUBECONFIG") else ["real", "embedded"]
COMPARED = {"fuzz"}
"""Areas whose tests set both targets against each other; other tests that name no target are of the embedded one."""
_counter = itertools.count()
_results: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
_reasons: dict[str, set[str]] = defaultdict(set)
_figures: list[str] = []
"""What tests count besides, shown below the table."""


@pytest.fixture(scope="session", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    try:
        with running(request.param, tmp_path_factory.mktemp(request.param)) as found:
            yield found
    except Missing as error:
        pytest.skip(f"{request.param}: {error}")


@pytest.fixture(scope="session")
def wire(target: Target) -> Iterator[Wire]:
    """The administrator."""
    client = Wire(target.kubeconfig)
    yield client
    client.close()


@pytest.fixture
def ns(wire: Wire) -> Iterator[str]:
    """A namespace of the test's own, with its default service account; deleted afterwards without waiting."""
    name = f"t{next(_counter)}-{os.getpid()}"
    reply = wire.post("/api/v1/namespaces", {"metadata": {"name": name}})
    assert reply.code == 201, reply
    eventually(lambda: wire.get(f"/api/v1/namespaces/{name}/serviceaccounts/default").code == 200)
    yield name
    wire.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubeconfig(target: Target) -> Path:
    return target.kubeconfig


def eventually(check: Callable[[], Any], seconds: float = 30, what: str = "") -> Any:
    """The first true result of `check`, asked again and again. AssertionError after `seconds`."""
    give_up = time.monotonic() + seconds
    while True:
        if found := check():
            return found
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds:g} s: {what or check}")
        time.sleep(0.02)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "conformance/kubernetes" not in report.nodeid or (report.when != "call" and not report.skipped):
        return
    area = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
    named = [name for name in TARGETS if f"[{name}" in report.nodeid or f"-{name}" in report.nodeid]
    for where in named[:1] or (TARGETS if area in COMPARED else TARGETS[1:]):
        _results[area][where][report.outcome] += 1
    _figures.extend(str(value) for name, value in report.user_properties if name == "figures")
    if report.skipped and isinstance(report.longrepr, tuple):
        _reasons[area].add(str(report.longrepr[2]).removeprefix("Skipped: "))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _results:
        return
    write = terminalreporter.write_line
    write("")
    write(f"{'area':<24}{'tests':>7}" + "".join(f"{f'passed, {name}':>20}" for name in TARGETS) + "  skipped")
    for area, by_target in sorted(_results.items()):
        tests = max(sum(outcomes.values()) for outcomes in by_target.values())
        passed = "".join(f"{by_target[name]['passed']:>20}" for name in TARGETS)
        skipped = sum(outcomes["skipped"] for outcomes in by_target.values())
        if area in COMPARED:
            skipped //= len(TARGETS)
        why = f"  {skipped}: {'; '.join(sorted(_reasons[area]))[:120]}" if skipped else ""
        write(f"{area:<24}{tests:>7}{passed}{why}")
    for line in _figures:
        write(line)
