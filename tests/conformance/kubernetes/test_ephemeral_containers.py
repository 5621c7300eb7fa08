"""Ephemeral containers: what may be added to a pod, through which door, and (where a kubelet runs) that it runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import STRATEGIC, Object, Reply, Wire

NOT_HERE = "Forbidden: cannot be set for an Ephemeral Container"


def pods(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/pods" + (f"/{name}" if name else "")


@pytest.fixture
def pod(wire: Wire, ns: str) -> str:
    """The path of a pod's ephemeral containers."""
    spec = {
        "containers": [{"name": "a", "image": "sampan.dev/none:1"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }
    reply = wire.post(pods(ns), {"metadata": {"name": "p"}, "spec": spec})
    assert reply.code == 201, reply
    return pods(ns, "p/ephemeralcontainers")


def add(wire: Wire, path: str, *containers: Object, **query: Any) -> Reply:
    """As `kubectl debug` does."""
    return wire.patch(path, {"spec": {"ephemeralContainers": list(containers)}}, STRATEGIC, **query)


def test_added_and_shown_with_defaults(wire: Wire, ns: str, pod: str) -> None:
    made = add(wire, pod, {"name": "d", "image": "busybox", "targetContainerName": "a", "stdin": True, "tty": True})
    assert made.code == 200 and made["kind"] == "Pod", made
    shown = {
        "name": "d", "image": "busybox", "resources": {}, "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File", "imagePullPolicy": "Always", "targetContainerName": "a", "stdin": True,
        "tty": True,
    }  # fmt: skip
    assert made["spec"]["ephemeralContainers"] == [shown]
    assert wire.get(pod)["spec"]["ephemeralContainers"] == [shown]
    assert made["metadata"]["generation"] == 2
    parts = {entry.get("subresource") for entry in wire.get(pods(ns, "p"))["metadata"]["managedFields"]}
    assert "ephemeralcontainers" in parts
    assert {c["name"] for c in add(wire, pod, {"name": "e", "image": "x:1"})["spec"]["ephemeralContainers"]} == {
        "d",
        "e",
    }


@pytest.mark.parametrize(
    ("container", "causes"),
    [
        ({"name": "a", "image": "x"}, [("name", 'Duplicate value: "a"')]),
        ({"name": "d"}, [("image", "Required value")]),
        ({"name": "d", "image": "x", "targetContainerName": "zz"}, [("targetContainerName", 'Not found: "zz"')]),
        ({"name": "d", "image": "x", "ports": [{"containerPort": 1}]}, [("ports", NOT_HERE)]),
        ({"name": "d", "image": "x", "resources": {"limits": {"cpu": "1"}}}, [("resources", NOT_HERE)]),
        (
            {"name": "d", "image": "x", "livenessProbe": {"tcpSocket": {"port": 1}},
             "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}},
            [("lifecycle", NOT_HERE), ("livenessProbe", NOT_HERE)],
        ),
        (
            {"name": "d", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]},
            [("volumeMounts[0].subPath", NOT_HERE)],
        ),
        (
            {"name": "d", "image": "x", "volumeMounts": [{"name": "w", "mountPath": "/v"}]},
            [("volumeMounts[0].name", 'Not found: "w"')],
        ),
        ({"name": "d", "image": "x", "restartPolicy": "Always"}, [("restartPolicy", NOT_HERE)]),
    ],
)  # fmt: skip
def test_what_they_may_not_be(wire: Wire, pod: str, container: Object, causes: list[tuple[str, str]]) -> None:
    reply = add(wire, pod, container, dryRun="All")
    assert (reply.code, reply.reason) == (422, "Invalid"), reply
    assert [(field, text) for _, field, text in reply.causes] == [
        (f"spec.ephemeralContainers[0].{field}", text) for field, text in causes
    ]


def test_they_stay_as_they_are(wire: Wire, ns: str, pod: str) -> None:
    assert add(wire, pod, {"name": "d", "image": "x:1"}).code == 200
    changed = add(wire, pod, {"name": "d", "image": "x:2"})
    assert changed.code == 422, changed
    assert (
        'spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not be changed\n'
        in changed["message"]
    )
    body = wire.get(pod).body
    del body["metadata"]["resourceVersion"]  # a kubelet may write meanwhile
    body["spec"]["ephemeralContainers"] = []
    removed = wire.put(pod, body)
    message = 'Forbidden: existing ephemeral containers "d" may not be removed\n'
    assert removed.causes == [("FieldValueForbidden", "spec.ephemeralContainers", message)]
    other: Object = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "other:1"}]}}
    other["spec"]["ephemeralContainers"] = [{"name": "e", "image": "x:1"}]
    kept = wire.patch(pod, other, STRATEGIC)
    assert kept.code == 200 and kept["spec"]["containers"][0]["image"] == "sampan.dev/none:1", "nothing else changes"
    assert "labels" not in kept["metadata"]


def test_only_through_their_own_door(wire: Wire, ns: str, pod: str) -> None:
    spec = {"containers": [{"name": "a", "image": "x:1"}], "ephemeralContainers": [{"name": "d", "image": "x:1"}]}
    reply = wire.post(pods(ns), {"metadata": {"name": "q"}, "spec": spec})
    assert reply.causes == [("FieldValueForbidden", "spec.ephemeralContainers", "Forbidden: cannot be set on create")]
    body = wire.get(pods(ns, "p")).body
    del body["metadata"]["resourceVersion"]
    body["spec"]["ephemeralContainers"] = [{"name": "d", "image": "x:1"}]
    reply = wire.put(pods(ns, "p"), body)
    assert reply.code == 422, reply
    assert "spec: Forbidden: pod updates may not change fields other than" in reply["message"]
    assert wire.post(pod, body).code == 405 and wire.delete(pod).code == 405
    assert wire.get(pods(ns, "none/ephemeralcontainers")).code == 404


def test_pod_security_looks_at_them(wire: Wire, ns: str, pod: str) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    assert wire.patch(f"/api/v1/namespaces/{ns}", labels).code == 200
    mighty = {"name": "d", "image": "x:1", "securityContext": {"privileged": True}}
    eventually(lambda: add(wire, pod, mighty, dryRun="All").code == 403)
    assert add(wire, pod, mighty)["message"] == (
        'pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "d" must not set'
        " securityContext.privileged=true)"
    )
    assert add(wire, pod, {"name": "d", "image": "x:1"}).code == 200
