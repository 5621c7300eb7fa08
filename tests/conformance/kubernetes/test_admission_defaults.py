"""What the server's own plugins decide and refuse: priorities, accounts, default classes, namespaces that stay."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Object, Reply, Wire

PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"
RUNTIMES = "/apis/node.k8s.io/v1/runtimeclasses"
_counter = itertools.count()


def ask(wire: Wire, ns: str, **spec: Any) -> Reply:
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "busybox:1"}], **spec}}
    return wire.post(f"/api/v1/namespaces/{ns}/pods", body, dryRun="All")


def refused(reply: Reply, message: str) -> None:
    assert (reply.code, reply.reason) == (403, "Forbidden"), reply
    assert reply["message"] == f'pods "p" is forbidden: {message}'


@pytest.fixture
def made(wire: Wire) -> Iterator[Any]:
    """Write an object of the whole cluster; deleted afterwards."""
    paths: list[str] = []

    def write(path: str, body: Object) -> Reply:
        reply = wire.post(path, body)
        if reply.code == 201:
            paths.append(f"{path}/{body['metadata']['name']}")
        return reply

    yield write
    for path in paths:
        wire.delete(path)


def name() -> str:
    return f"admission-{next(_counter)}"


def test_priorities(wire: Wire, ns: str, made: Any) -> None:
    one = name()
    assert made(PRIORITIES, {"metadata": {"name": one}, "value": 7, "preemptionPolicy": "Never"}).code == 201
    eventually(lambda: ask(wire, ns, priorityClassName=one).code == 201)
    spec = ask(wire, ns, priorityClassName=one)["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (7, "Never")
    spec = ask(wire, ns, priorityClassName="system-node-critical")["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (2000001000, "PreemptLowerPriority")
    refused(ask(wire, ns, priorityClassName="nobody"), "no PriorityClass with name nobody was found")
    refused(
        ask(wire, ns, priorityClassName=one, priority=5),
        "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 7"
        " from the given PriorityClass name",
    )
    refused(
        ask(wire, ns, preemptionPolicy="Never"),
        "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller"
        " computed PreemptLowerPriority from the given PriorityClass name",
    )


def test_one_default_priority(wire: Wire, ns: str, made: Any) -> None:
    first, second = name(), name()
    assert made(PRIORITIES, {"metadata": {"name": first}, "value": 11, "globalDefault": True}).code == 201
    eventually(lambda: ask(wire, ns)["spec"]["priority"] == 11)
    assert ask(wire, ns)["spec"]["priorityClassName"] == first
    reply = wire.post(PRIORITIES, {"metadata": {"name": second}, "value": 1, "globalDefault": True})
    assert (reply.code, reply["message"]) == (
        403,
        f'priorityclasses.scheduling.k8s.io "{second}" is forbidden: PriorityClass {first} is already marked as'
        " default. Only one default can exist",
    )


def test_the_priorities_of_the_system(wire: Wire) -> None:
    listed = {item["metadata"]["name"]: item["value"] for item in wire.get(PRIORITIES)["items"]}
    assert listed["system-cluster-critical"] == 2000000000 and listed["system-node-critical"] == 2000001000
    reply = wire.delete(f"{PRIORITIES}/system-node-critical")
    assert (reply.code, reply["message"]) == (
        403,
        'priorityclasses.scheduling.k8s.io "system-node-critical" is forbidden: this is a system priority class and'
        " cannot be deleted",
    )
    reply = wire.post(PRIORITIES, {"metadata": {"name": "system-other"}, "value": 5})
    assert reply.causes == [
        (
            "FieldValueForbidden",
            "metadata.name",
            "Forbidden: priority class names with 'system-' prefix are reserved for system use only. error:"
            " system-other is not a known system priority class",
        )
    ]


def test_accounts(wire: Wire, ns: str) -> None:
    accounts = f"/api/v1/namespaces/{ns}/serviceaccounts"
    refused(
        ask(wire, ns, serviceAccountName="nobody"),
        f'error looking up service account {ns}/nobody: serviceaccount "nobody" not found',
    )
    assert wire.post(accounts, {"metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "registry"}]}).code == 201
    eventually(lambda: ask(wire, ns, serviceAccountName="puller").code == 201)
    spec = ask(wire, ns, serviceAccountName="puller")["spec"]
    assert spec["serviceAccount"] == "puller" and spec["imagePullSecrets"] == [{"name": "registry"}]
    own = ask(wire, ns, serviceAccountName="puller", imagePullSecrets=[{"name": "own"}])["spec"]
    assert own["imagePullSecrets"] == [{"name": "own"}]
    assert ask(wire, ns)["spec"]["serviceAccountName"] == "default"


def test_runtime_classes(wire: Wire, ns: str, made: Any) -> None:
    refused(ask(wire, ns, runtimeClassName="nobody"), 'pod rejected: RuntimeClass "nobody" not found')
    wrong = wire.post(RUNTIMES, {"metadata": {"name": "x"}, "handler": "Wrong_"})
    assert [field for _, field, _ in wrong.causes] == ["handler"]
    one = name()
    toleration = {"key": "x", "operator": "Exists"}
    scheduling = {"nodeSelector": {"a": "b"}, "tolerations": [toleration]}
    body = {
        "metadata": {"name": one},
        "handler": "h",
        "overhead": {"podFixed": {"cpu": "100m"}},
        "scheduling": scheduling,
    }
    assert made(RUNTIMES, body).code == 201
    eventually(lambda: ask(wire, ns, runtimeClassName=one).code == 201)
    spec = ask(wire, ns, runtimeClassName=one)["spec"]
    assert (spec["overhead"], spec["nodeSelector"]) == ({"cpu": "100m"}, {"a": "b"})
    assert [t["key"] for t in spec["tolerations"]][2:] == ["x"] and spec["tolerations"][2] == toleration
    refused(
        ask(wire, ns, runtimeClassName=one, nodeSelector={"a": "c"}),
        "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c",
    )
    refused(
        ask(wire, ns, runtimeClassName=one, overhead={"cpu": "1"}),
        "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
    )
    changed = wire.patch(f"{RUNTIMES}/{one}", {"handler": "other"})
    assert changed.causes == [("FieldValueInvalid", "handler", 'Invalid value: "other": field is immutable')]


def test_the_newest_default_class(wire: Wire, ns: str, made: Any) -> None:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    backend = {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}
    rows: list[tuple[str, str, Object, str, Object, str]] = [
        ("/apis/storage.k8s.io/v1/storageclasses", "storageclass", {"provisioner": "x"},
         f"/api/v1/namespaces/{ns}/persistentvolumeclaims", asked, "storageClassName"),
        ("/apis/networking.k8s.io/v1/ingressclasses", "ingressclass", {"spec": {"controller": "x/y"}},
         f"/apis/networking.k8s.io/v1/namespaces/{ns}/ingresses", backend, "ingressClassName"),
    ]  # fmt: skip
    for classes, word, rest, path, spec, field in rows:
        one = name()
        annotations = {f"{word}.kubernetes.io/is-default-class": "true"}
        assert made(classes, {"metadata": {"name": one, "annotations": annotations}, **rest}).code == 201

        def chosen(spec: Object = spec, path: str = path, field: str = field) -> Any:
            return wire.post(path, {"metadata": {"name": "c"}, "spec": spec}, dryRun="All")["spec"].get(field)

        eventually(lambda choose=chosen, one=one: choose() == one)  # type: ignore[misc]
        assert chosen({**spec, field: "mine"}) == "mine"


def test_namespaces_that_stay_and_that_go(wire: Wire, ns: str) -> None:
    for one in ("default", "kube-system", "kube-public"):
        reply = wire.delete(f"/api/v1/namespaces/{one}", dryRun="All")
        assert (reply.code, reply["message"]) == (
            403, f'namespaces "{one}" is forbidden: this namespace may not be deleted',
        )  # fmt: skip
    path = f"/api/v1/namespaces/{ns}"
    assert wire.patch(path, {"metadata": {"finalizers": ["example.com/hold"]}}).code == 200
    assert wire.delete(path).code == 200
    try:
        eventually(lambda: ask(wire, ns).code == 403)
        reply = ask(wire, ns)
        refused(reply, f"unable to create new content in namespace {ns} because it is being terminated")
        assert reply.causes == [("NamespaceTerminating", "metadata.namespace", f"namespace {ns} is being terminated")]
    finally:
        wire.patch(path, {"metadata": {"finalizers": None}})
    assert ask(wire, "nowhere").code == 404
