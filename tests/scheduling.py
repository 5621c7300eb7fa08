"""Which tests may run beside others when pytest has several workers (`pytest -n 2`, as `./dev test` does).

A unit is what one worker runs from its beginning to its end: a file, or the tests of a row of TOGETHER. The tests of
ALONE come last, on one worker, when nothing runs beside them: they measure, or need a whole machine.
"""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

ALONE: Final = (
    "tests/benchmarks/",
    "tests/model/test_handles.py::test_importing_",
    "tests/service/resilience/test_overload.py::",
    "tests/service/resilience/test_parts.py::",
    "tests/service/test_processes.py::test_forks_of_a_warm_parent_",
    "tests/system/test_browser.py",
    "tests/system/test_ordinary_user.py",
    "tests/system/test_pod_network",
    "tests/system/test_shop",
    "tests/system/test_soak.py",
)
"""How the names of such tests begin."""
TOGETHER: Final = {
    # whole clusters: with addresses, interfaces and groups of the kernel, at which some of these tests look
    "clusters": re.compile(r"tests/(cli|clients|docs|system|cluster/(kubelet|network|proxy|test_process\.py))\b"),
    # one server of a kind is enough, and some take long to start
    "Kafka": re.compile(r"tests/conformance/ports/.*[\[-]kafka\b"),
    "RabbitMQ": re.compile(r"tests/conformance/ports/.*[\[-]rabbitmq\b"),
    "real control plane": re.compile(r"tests/conformance/kubernetes/.*[\[-](real|given)\b"),
    "embedded control plane": re.compile(r"tests/conformance/kubernetes/"),
    "NATS": re.compile(r"tests/conformance/ports/.*[\[-]nats\b"),
}
"""Tests that share a session's servers, or what a machine has once; the longest first. The first row that finds the
name of a test has it."""
_ALONE: Final = "alone"


def unit(test: str) -> str:
    """The unit of a test, by its name."""
    if test.startswith(ALONE):
        return _ALONE
    file = test.partition("::")[0]
    return next((name for name, tests in TOGETHER.items() if tests.match(test)), file)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Units to workers: those of TOGETHER first, then the files, those with most tests first; ALONE when every worker
    but one has ended."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)

    def remove_node(self, node: Any) -> str | None:
        """What a worker that died left goes to others, but for the test it died in, which is given back: run again, it
        would kill the next."""
        left = {name: tests for name, tests in self.assigned_work.pop(node).items() if not all(tests.values())}
        died_in: str | None = None
        for tests in list(left.values())[:1]:
            died_in = next(test for test, done in tests.items() if not done)
            tests[died_in] = True
        self.workqueue.update({name: tests for name, tests in left.items() if not all(tests.values())})
        for other in self.nodes:  # what waited to be alone may be it now
            self._reschedule(other)
        return died_in

    def _assign_work_unit(self, node: Any) -> None:
        first = next((name for name in TOGETHER if name in self.workqueue), "")
        if first:
            self.workqueue.move_to_end(first, last=False)
        if _ALONE in self.workqueue:
            self.workqueue.move_to_end(_ALONE)
        if not self._only_alone_is_left() or len(self.nodes) == 1:
            super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:
        if node not in self.registered_collections:
            return  # it has just begun
        if self._only_alone_is_left() and any(not other.shutting_down for other in self.nodes if other is not node):
            node.shutdown()  # it ends with what it has
            return
        super()._reschedule(node)
        # a worker begins a test when it has the next, or knows that there is none
        if self._pending_of(self.assigned_work[node]) < 2 and not (self._only_alone_is_left() and len(self.nodes) > 1):
            super()._reschedule(node)

    def _only_alone_is_left(self) -> bool:
        return list(self.workqueue) == [_ALONE]


class Plugin:
    """Registered where pytest gives tests to workers, as it does with `-n 2`."""

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Scheduling:
        return Scheduling(config, log)
