"""Versions of a custom kind whose schemas differ, converted by strategy None: what each shows, and who owns what."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.fuzz.more_kinds import GADGET
from tests.conformance.kubernetes.wire import APPLY, Wire

GROUP = f"versions{os.getpid()}.example.com"


@pytest.fixture
def roots(wire: Wire) -> Iterator[tuple[str, str]]:
    """The collections of v1 and v2; v2 is stored."""
    made = {**GADGET, "metadata": {"name": f"gadgets.{GROUP}"}, "spec": {**GADGET["spec"], "group": GROUP}}
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert wire.post(definitions, made).code == 201
    paths = f"/apis/{GROUP}/v1/gadgets", f"/apis/{GROUP}/v2/gadgets"
    eventually(lambda: all(wire.get(path).code == 200 for path in paths))
    yield paths
    wire.delete(f"{definitions}/gadgets.{GROUP}")
    eventually(lambda: wire.get(f"{definitions}/gadgets.{GROUP}").code == 404)


def test_a_version_shows_what_its_own_schema_has(wire: Wire, roots: tuple[str, str]) -> None:
    v1, v2 = roots
    obj = {"apiVersion": f"{GROUP}/v1", "kind": "Gadget", "metadata": {"name": "a"}, "spec": {"size": 1, "old": "o"}}
    assert wire.post(v1, obj)["spec"] == {"size": 1}  # the stored version has no `old`
    assert wire.get(f"{v1}/a")["spec"] == {"size": 1}
    assert wire.get(f"{v2}/a")["spec"] == {"size": 1, "new": "is"}


def test_what_another_manager_cannot_see_is_not_applied(wire: Wire, roots: tuple[str, str]) -> None:
    v1, v2 = roots
    obj = {"apiVersion": f"{GROUP}/v2", "kind": "Gadget", "metadata": {"name": "a"}, "spec": {"size": 1}}
    assert wire.post(v2, obj).code == 201
    obj = {**obj, "apiVersion": f"{GROUP}/v1", "spec": {"old": "o"}}
    reply = wire.request("PATCH", f"{v1}/a", obj, content_type=APPLY, fieldManager="m")
    assert reply.code >= 400
    assert reply["message"].endswith(".spec.old: field not declared in schema")
