"""The embedded cluster beside the real control plane (etcd, kube-apiserver, kube-controller-manager), and from nothing.

`start.py` times the start of the cluster and of the shop; `api.py` measures the API of both in the same minutes, with
one client program (`wire.py`) and in turns; `sides.py` starts, weighs and kills the two.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from benchmarks import Row

MODULES = ("start", "api")


def run() -> Iterable[Row]:
    for name in MODULES:
        yield from importlib.import_module(f"benchmarks.cluster.{name}").run()
