"""One shop serves all tests of a session that need a whole system; tables at the end; who runs beside whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.table import Table as Clients
from tests.conformance.kubernetes.table import Table as Conformance
from tests.system.harness import ROOT, System


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    for table in (Clients(), Conformance()):
        config.pluginmanager.register(table)
    if config.getoption("numprocesses", None):
        from tests.scheduling import Plugin

        config.pluginmanager.register(Plugin())


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The shop, Ready."""
    with System(tmp_path_factory.mktemp("shop")).up(str(ROOT / "examples/shop")) as system:
        yield system
