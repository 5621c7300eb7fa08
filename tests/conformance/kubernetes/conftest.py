"""Every test here runs on each target, the real control plane first: what it does there is what is right."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.kubernetes.table import TARGETS
from tests.conformance.kubernetes.targets import Missing, Target, running
from tests.conformance.kubernetes.wire import Wire

_counter = itertools.count()


@pytest.fixture(scope="session", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    try:
        with running(request.param, tmp_path_factory.mktemp(request.param)) as found:
            yield found
    except Missing as error:
        pytest.skip(f"{request.param}: {error}")


@pytest.fixture(scope="session")
def wire(target: Target) -> Iterator[Wire]:
    """The administrator."""
    client = Wire(target.kubeconfig)
    yield client
    client.close()


@pytest.fixture
def ns(wire: Wire) -> Iterator[str]:
    """A namespace of the test's own, with its default service account; deleted afterwards without waiting."""
    name = f"t{next(_counter)}-{os.getpid()}"
    reply = wire.post("/api/v1/namespaces", {"metadata": {"name": name}})
    assert reply.code == 201, reply
    eventually(lambda: wire.get(f"/api/v1/namespaces/{name}/serviceaccounts/default").code == 200)
    yield name
    wire.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubeconfig(target: Target) -> Path:
    return target.kubeconfig


def eventually(check: Callable[[], Any], seconds: float = 30, what: str = "") -> Any:
    """The first true result of `check`, asked again and again. AssertionError after `seconds`."""
    give_up = time.monotonic() + seconds
    while True:
        if found := check():
            return found
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds:g} s: {what or check}")
        time.sleep(0.02)
