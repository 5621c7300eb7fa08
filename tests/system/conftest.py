"""Clusters as a user runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import System, until


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[System]:
    """A cluster with nothing in it."""
    system = System(tmp_path)
    try:
        system.sampan("up", "--detach")
        yield system
    finally:
        system.sampan("down", check=False)
        until(lambda: not system.processes(), 15, "every process of the cluster has ended")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A cluster for the tests of one file, which keep to names of their own."""
    system = System(tmp_path_factory.mktemp("cluster"))
    try:
        system.sampan("up", "--detach")
        yield system
    finally:
        system.sampan("down", check=False)
        until(lambda: not system.processes(), 15, "every process of the cluster has ended")
