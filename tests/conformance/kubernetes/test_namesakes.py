"""Custom kinds that are named as built-in ones (Knative's Service, Volcano's Job) follow no rule of these.

Every such kind is asked the same as one of a name of its own, and has to answer the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.test_cel import DEFINITIONS
from tests.conformance.kubernetes.wire import Reply, Wire

GROUP = "namesakes.example.com"
NAMES = (
    "Plain", "ConfigMap", "CronJob", "CustomResourceDefinition", "DaemonSet", "Deployment", "Endpoints", "Event", "Job",
    "Lease", "LimitRange", "MutatingWebhookConfiguration", "Namespace", "NetworkPolicy", "Node",
    "PersistentVolumeClaim", "Pod", "PodMetrics", "PriorityClass", "ReplicaSet", "ReplicationController",
    "ResourceQuota", "Role", "Scale", "Secret", "SelfSubjectReview", "Service", "ServiceAccount",
    "ValidatingAdmissionPolicy",
)  # fmt: skip


@pytest.fixture(scope="module")
def namesakes(wire: Wire) -> Iterator[Wire]:
    for name in NAMES:
        made = wire.post(DEFINITIONS, definition(name))
        assert made.code == 201, made
    for name in NAMES:
        eventually(lambda: wire.get(path(name)).code == 200)  # noqa: B023
    yield wire
    for name in NAMES:
        wire.delete(f"{DEFINITIONS}/{name.lower()}z.{GROUP}")


def path(kind: str, name: str = "", subresource: str = "") -> str:
    parts = ("/apis", GROUP, "v1/namespaces/default", f"{kind.lower()}z", name, subresource)
    return "/".join(part for part in parts if part)


def definition(kind: str) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": anything},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.lower()}z.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"plural": f"{kind.lower()}z", "kind": kind},
            "versions": [version],
        },
    }


def told(kind: str, reply: Reply) -> Any:
    """Code, warnings and body, in which nothing is left of the kind's name, of times and ids."""
    text = json.dumps({"code": reply.code, "warnings": reply.warnings, "body": reply.body}, sort_keys=True)
    for name, stands in ((f"{kind.lower()}z", "plainz"), (kind, "Plain")):
        text = re.sub(rf"\b{name}\b", stands, text)
    text = re.sub(r'"(uid|resourceVersion|creationTimestamp|deletionTimestamp|time)": "[^"]*"', r'"\1": ""', text)
    return json.loads(text)


def asked(wire: Wire, kind: str) -> list[Any]:
    """What one who works with a kind meets: creations that do not look like it, updates, owners, deletions."""
    body: dict[str, Any] = {
        "apiVersion": f"{GROUP}/v1",
        "kind": kind,
        "metadata": {"name": "one", "finalizers": ["example.com/wait"]},
        "spec": {"template": {"metadata": {"labels": {"a": "b"}}}, "replicas": 1, "finalizers": ["example.com/wait"]},
        "data": {"a": "b"},
        "immutable": True,
        "status": {"phase": "Given"},
    }
    nameless = {**body, "metadata": {}}
    replies = [
        wire.put(path(kind, "one"), body),  # creates some built-in kinds
        wire.post(path(kind), nameless),
        wire.apply(path(kind, "one", "status"), {key: body[key] for key in ("apiVersion", "kind", "status")}),
        wire.post(path(kind), body),
        wire.put(path(kind, "one"), body),  # replaces some, unconditionally
        wire.patch(path(kind, "one"), {"spec": {"replicas": 2}, "data": {}, "metadata": {"labels": {"c": "d"}}}),
        wire.patch(path(kind, "one"), {"metadata": {"annotations": {"e": "f"}}, "webhooks": []}),
        wire.patch(path(kind, "one", "status"), {"status": {"phase": "Told"}}),
        wire.get(path(kind), fieldSelector="status.phase=Told"),
        wire.get(path(kind, "one")),
        wire.delete(path(kind, "one")),
        wire.patch(path(kind, "one"), {"metadata": {"finalizers": None}}),
        wire.post(path(kind), {**body, "metadata": {"name": "one"}}),
        wire.delete(path(kind, "one")),
        wire.get(path(kind, "one")),
        wire.post(path(kind, "one", "binding"), body),
        wire.get(path(kind, "one", "log")),
    ]
    return [told(kind, reply) for reply in replies]


@pytest.fixture(scope="module")
def plain(namesakes: Wire) -> list[Any]:
    return asked(namesakes, "Plain")


@pytest.mark.parametrize("kind", NAMES[1:])
def test_a_namesake_is_a_custom_kind_like_any_other(namesakes: Wire, plain: list[Any], kind: str) -> None:
    assert asked(namesakes, kind) == plain
