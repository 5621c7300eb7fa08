"""The table at the end of a run: area, tests, how many passed on each target, how many were skipped and why."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest

TARGETS: Final = ["given", "embedded"] if os.environ.get("SAMPAN_CONFORMANCE_KUBECONFIG") else ["real", "embedded"]
COMPARED: Final = {"fuzz"}
"""Areas whose tests set both targets against each other; other tests that name no target are of the embedded one."""


class Table:
    def __init__(self) -> None:
        self._results: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
        self._reasons: dict[str, set[str]] = defaultdict(set)
        self._figures: list[str] = []  # what tests count besides

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "conformance/kubernetes" not in report.nodeid or (report.when != "call" and not report.skipped):
            return
        area = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
        named = [name for name in TARGETS if f"[{name}" in report.nodeid or f"-{name}" in report.nodeid]
        for where in named[:1] or (TARGETS if area in COMPARED else TARGETS[1:]):
            self._results[area][where][report.outcome] += 1
        self._figures.extend(str(value) for name, value in report.user_properties if name == "figures")
        if report.skipped and isinstance(report.longrepr, tuple):
            self._reasons[area].add(str(report.longrepr[2]).removeprefix("Skipped: "))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._results:
            return
        write = terminalreporter.write_line
        write("")
        write(f"{'area':<24}{'tests':>7}" + "".join(f"{f'passed, {name}':>20}" for name in TARGETS) + "  skipped")
        for area, by_target in sorted(self._results.items()):
            tests = max(sum(outcomes.values()) for outcomes in by_target.values())
            passed = "".join(f"{by_target[name]['passed']:>20}" for name in TARGETS)
            skipped = sum(outcomes["skipped"] for outcomes in by_target.values())
            if area in COMPARED:
                skipped //= len(TARGETS)
            why = f"  {skipped}: {'; '.join(sorted(self._reasons[area]))[:120]}" if skipped else ""
            write(f"{area:<24}{tests:>7}{passed}{why}")
        for line in self._figures:
            write(line)
