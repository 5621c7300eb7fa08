"""Clusters as a user runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import System


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[System]:
    """A cluster with nothing in it."""
    with System(tmp_path).up() as system:
        yield system


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A cluster for the tests of one file, which keep to names of their own."""
    with System(tmp_path_factory.mktemp("cluster")).up() as system:
        yield system
