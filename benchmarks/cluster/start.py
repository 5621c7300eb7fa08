"""The embedded cluster from nothing: how soon its API answers, and how soon every pod of the shop is Ready.

There is no peer that starts a Kubernetes API without Docker on every machine; the peer column holds the times its users
were promised (0.5 s and 8 s on two cores), so that a ratio under 1 is a broken promise.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import ROOT, Row, environment, row

AREA = "cluster"
SHOP = ROOT / "examples/shop"
ROUNDS = 5
PHASE_NAMES = ("interpreter", "imports", "store", "objects", "certificates", "API server")
PHASES = re.compile(r"API ready after \d+ ms \((?P<phases>[^)]+)\)")


def run() -> Iterable[Row]:
    ready = [_up(None) for _ in range(ROUNDS)]
    yield row(AREA, "API ready after the command", _median(ready, "cluster"), "s", peer="promised", peer_value=0.5)
    for phase in PHASE_NAMES:
        yield row(AREA, f"API ready: {phase}", _median(ready, phase), "s")
    shops = [_up(SHOP) for _ in range(3)]
    yield row(AREA, "every pod of the shop Ready", _median(shops, "all"), "s", peer="promised", peer_value=8)
    yield row(AREA, "pods of the shop", _median(shops, "pods"), "pods")
    for name in ("first pod", "half of the pods", "API in the shop's run"):
        yield row(AREA, f"shop: {name}", _median(shops, name), "s")


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in rounds)


def _up(target: Path | None) -> dict[str, float]:
    """Seconds from starting the command until its events, in a directory of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "sampan"]
        began = time.monotonic()
        child = subprocess.Popen(
            [*command, "up", *([str(target)] if target else []), "--detach", "--json"],
            cwd=scratch,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        try:
            return _follow(child, began, Path(scratch) / ".sampan/cluster.log")
        finally:
            subprocess.run([*command, "down", "--delete"], cwd=scratch, check=True, capture_output=True, timeout=60)


def _follow(child: subprocess.Popen[str], began: float, log: Path) -> dict[str, float]:
    times: dict[str, float] = {}
    pods: list[float] = []
    assert child.stdout is not None
    for line in child.stdout:
        at = time.monotonic() - began
        event = json.loads(line)
        if event["event"] == "cluster":
            times["cluster"] = times["API in the shop's run"] = at
        elif event["event"] == "pod" and event["state"] == "Ready":
            pods.append(at)
    if child.wait(120):
        raise RuntimeError(f"sampan up ended with {child.returncode}")
    times["all"] = time.monotonic() - began
    if pods:
        times |= {"first pod": pods[0], "half of the pods": pods[len(pods) // 2], "pods": float(len(pods))}
    times |= _phases(log)
    return times


def _phases(log: Path) -> dict[str, float]:
    """Seconds of each phase, as the cluster wrote them: `API ready after 300 ms (interpreter 120, imports 60, ...)`."""
    found = PHASES.search(log.read_text())
    assert found, f"no start-up line in {log}"
    parts = (part.rsplit(" ", 1) for part in found["phases"].split(", "))
    return {name: float(milliseconds) / 1000 for name, milliseconds in parts}
