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

from benchmarks import ROOT, Row, row

AREA = "cluster"
SHOP = ROOT / "examples/shop"
ROUNDS = 5
PHASE = re.compile(r"start-up: (?P<phases>.+)$", re.MULTILINE)


def run() -> Iterable[Row]:
    ready = [_up(None) for _ in range(ROUNDS)]
    yield row(AREA, "API ready after the command", _median(ready, "cluster"), "s", peer="promised", peer_value=0.5)
    for phase in sorted(ready[0].keys() - {"cluster", "all"}, key=lambda name: _median(ready, name)):
        yield row(AREA, f"API ready: {phase}", _median(ready, phase), "s")
    shops = [_up(SHOP) for _ in range(3)]
    yield row(AREA, "every pod of the shop Ready", _median(shops, "all"), "s", peer="promised", peer_value=8)
    yield row(AREA, "pods of the shop", _median(shops, "pods"), "pods")
    for name in ("first pod", "half of the pods", "API in the shop's run"):
        yield row(AREA, f"shop: {name}", _median(shops, name), "s")


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(each.get(name, 0.0) for each in rounds)


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
        )
        times: dict[str, float] = {}
        pods: list[float] = []
        assert child.stdout is not None
        for line in child.stdout:
            at = time.monotonic() - began
            event = json.loads(line)
            if event["event"] == "cluster":
                times["cluster"] = times["API in the shop's run"] = at
            elif event["event"] == "pod" and event.get("ready"):
                pods.append(at)
        if child.wait(120):
            raise RuntimeError(f"sampan up ended with {child.returncode}")
        times["all"] = time.monotonic() - began
        if pods:
            times |= {"first pod": pods[0], "half of the pods": pods[len(pods) // 2], "pods": float(len(pods))}
        times |= _phases(Path(scratch) / ".sampan/cluster.log")
        subprocess.run([*command, "down", "--delete"], cwd=scratch, check=True, capture_output=True, timeout=60)
        return times


def _phases(log: Path) -> dict[str, float]:
    """The breakdown the cluster wrote: `start-up: pki 12 ms, store 3 ms, ...`."""
    found = PHASE.search(log.read_text()) if log.exists() else None
    if not found:
        return {}
    parts = (part.rsplit(" ", 2) for part in found["phases"].split(", "))
    return {name: float(value) / 1000 for name, value, unit in parts if unit == "ms"}
