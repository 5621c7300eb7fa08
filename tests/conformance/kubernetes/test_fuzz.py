"""A short run of the differential fuzzer: no answer differs, no stored object, no watch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.kubernetes.fuzz.run import Difference, run
from tests.conformance.kubernetes.targets import Missing, start_api_alone, start_real
from tests.conformance.kubernetes.wire import Wire

OPERATIONS = 300
"""A seed."""


@pytest.mark.parametrize("seed", [1, 11])
def test_random_operations_answer_alike(
    seed: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "ours").mkdir()
    try:
        real = start_real(tmp_path / "real", controllers=False)
    except Missing as error:
        pytest.skip(f"real: {error}")
    try:
        ours = start_api_alone(tmp_path / "ours")
        try:
            result = run(Wire(real.kubeconfig), Wire(ours.kubeconfig), seed=seed, operations=OPERATIONS, fresh=150)
        finally:
            ours.stop()
    finally:
        real.stop()
    figures = f"fuzz, seed {seed}: {result.operations} operations, {len(result.found)} differed;"
    figures += f" {result.states} objects, {result.watches} watches with {result.events} events compared"
    record_property("figures", figures)
    print(figures)
    assert result.operations == OPERATIONS
    assert [_told(found) for found in result.found] == []


def _told(found: Difference) -> str:
    return f"#{found.number} {found.operation}: {found.lines[:4]}"
