"""One shop serves all tests of a session that need a whole system."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.harness import ROOT, System


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The shop, Ready."""
    with System(tmp_path_factory.mktemp("shop")).up(str(ROOT / "examples/shop")) as system:
        yield system
