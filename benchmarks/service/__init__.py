"""The service process beside its peers. A module for each concern; each has `def run() -> Iterable[Row]`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from benchmarks import Row

MODULES = ("http", "start", "discovery", "messages", "calls", "cache", "rpc", "data", "security")


def run() -> Iterable[Row]:
    for name in MODULES:
        yield from importlib.import_module(f"benchmarks.service.{name}").run()
