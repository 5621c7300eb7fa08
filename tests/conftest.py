"""One shop serves all tests of a session that need a whole system."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.harness import ROOT, System, until


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The shop, Ready."""
    system = System(tmp_path_factory.mktemp("shop"))
    try:
        system.sampan("up", str(ROOT / "examples/shop"), "--detach")
        yield system
    finally:
        system.sampan("down", check=False)
        until(lambda: not system.processes(), 15, "every process of the shop has ended")
