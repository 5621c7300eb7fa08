"""The table at the end of a run: which client did which task."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest


class Table:
    def __init__(self) -> None:
        self._results: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.nodeid.startswith("tests/clients/") or (report.when != "call" and report.passed):
            return
        file, _, test = report.nodeid.partition("::")
        client = Path(file).stem.removeprefix("test_")
        self._results[client][test.removeprefix("test_").partition("[")[0]] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._results:
            return
        write, results = terminalreporter.write_line, dict(sorted(self._results.items()))
        tasks = list(dict.fromkeys(task for done in results.values() for task in done))
        write("")
        write(f"{'task':<44}" + "".join(f"{client:>20}" for client in results))
        for task in tasks:
            write(f"{task.replace('_', ' '):<44}" + "".join(f"{done.get(task, '-'):>20}" for done in results.values()))
