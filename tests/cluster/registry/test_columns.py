"""Cells as kubectl shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sampan.cluster.apiserver.printing.columns import COLUMNS, cells, columns_for, crd_columns, human_duration
from sampan.cluster.apiserver.printing.definitions import compile_path
from sampan.kube import kinds
from sampan.kube.kinds import Resource


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%SZ")


def row(resource: Resource, obj: dict[str, Any], *, wide: bool = False) -> dict[str, Any]:
    obj.setdefault("metadata", {}).setdefault("name", "web")
    columns = [c for c in columns_for(resource) if wide or c.priority == 0]
    return {column.name.upper(): cell for column, cell in zip(columns, cells(columns, obj), strict=True)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (5, "5s"), (119, "119s"), (120, "2m"), (123, "2m3s"), (600, "10m"),
        (3 * 3600 - 1, "179m"), (3 * 3600, "3h"), (3 * 3600 + 60, "3h1m"), (8 * 3600, "8h"), (47 * 3600, "47h"),
        (48 * 3600, "2d"), (49 * 3600, "2d1h"), (8 * 86400, "8d"), (729 * 86400, "729d"), (730 * 86400, "2y"),
        (731 * 86400, "2y1d"), (9 * 365 * 86400, "9y"),
    ],
)  # fmt: skip
def test_human_duration(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def container(**state: Any) -> dict[str, Any]:
    extra: dict[str, Any] = {
        key: state.pop(key) for key in ("restartCount", "lastState", "ready", "name", "started") if key in state
    }
    return {"name": "a", "restartCount": 0, "ready": False, **extra, "state": state}


RUNNING = container(running={}, ready=True)
PODS: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
    ({"phase": "Pending"}, ("0/1", "Pending", "0")),
    ({"phase": "Running", "containerStatuses": [RUNNING]}, ("1/1", "Running", "0")),
    (
        {"phase": "Pending", "containerStatuses": [container(waiting={"reason": "ErrImagePull"})]},
        ("0/1", "ErrImagePull", "0"),
    ),
    (
        {"phase": "Pending", "containerStatuses": [container(waiting={"reason": "ContainerCreating"})]},
        ("0/1", "ContainerCreating", "0"),
    ),
    (
        {"phase": "Succeeded", "containerStatuses": [container(terminated={"reason": "Completed", "exitCode": 0})]},
        ("0/1", "Completed", "0"),
    ),
    (
        {"phase": "Failed", "containerStatuses": [container(terminated={"exitCode": 3})]},
        ("0/1", "ExitCode:3", "0"),
    ),
    ({"phase": "Failed", "reason": "Evicted"}, ("0/1", "Evicted", "0")),
    (
        {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]},
        ("0/1", "SchedulingGated", "0"),
    ),
]


@pytest.mark.parametrize(("status", "expected"), PODS, ids=lambda v: v[1] if isinstance(v, tuple) else "")
def test_pod(status: dict[str, Any], expected: tuple[str, str, str]) -> None:
    shown = row(kinds.POD, {"spec": {"containers": [{"name": "a"}]}, "status": status})
    assert (shown["READY"], shown["STATUS"], shown["RESTARTS"]) == expected


def test_pod_that_restarted() -> None:
    crashed = container(
        waiting={"reason": "CrashLoopBackOff"},
        restartCount=2,
        lastState={"terminated": {"exitCode": 1, "finishedAt": ago(seconds=65)}},
    )
    pod = {"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running", "containerStatuses": [crashed]}}
    shown = row(kinds.POD, pod)
    assert (shown["STATUS"], shown["RESTARTS"]) == ("CrashLoopBackOff", "2 (65s ago)")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (container(running={}), "Init:0/2"),
        (container(waiting={"reason": "PodInitializing"}), "Init:0/2"),
        (container(waiting={"reason": "ErrImagePull"}), "Init:ErrImagePull"),
        (container(terminated={"exitCode": 1, "reason": "Error"}), "Init:Error"),
        (container(terminated={"exitCode": 137, "signal": 9}), "Init:Signal:9"),
        (container(terminated={"exitCode": 0, "reason": "Completed"}), "Init:1/2"),
    ],
)
def test_initialising_pod(first: dict[str, Any], expected: str) -> None:
    spec = {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]}
    status = {"phase": "Pending", "initContainerStatuses": [first, container(waiting={"reason": "PodInitializing"})]}
    assert row(kinds.POD, {"spec": spec, "status": status})["STATUS"] == expected


def test_terminating_pod_wide() -> None:
    pod = {
        "metadata": {"name": "web", "deletionTimestamp": ago(seconds=1), "creationTimestamp": ago(hours=5)},
        "spec": {"containers": [{"name": "a"}], "nodeName": "here", "readinessGates": [{"conditionType": "x"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "127.64.1.1"}], "containerStatuses": [RUNNING]},
    }
    assert row(kinds.POD, pod, wide=True) == {
        "NAME": "web",
        "READY": "1/1",
        "STATUS": "Terminating",
        "RESTARTS": "0",
        "AGE": "5h",
        "IP": "127.64.1.1",
        "NODE": "here",
        "NOMINATED NODE": "<none>",
        "READINESS GATES": "0/1",
    }


def test_deployment_wide() -> None:
    deployment = {
        "metadata": {"name": "web", "creationTimestamp": ago(minutes=2, seconds=3)},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"b": "2", "a": "1"}},
            "template": {"spec": {"containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j:2"}]}},
        },
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1},
    }
    assert list(row(kinds.DEPLOYMENT, deployment, wide=True).values()) == [
        "web", "2/3", 3, 1, "2m3s", "x,y", "i:1,j:2", "a=1,b=2",
    ]  # fmt: skip


PORTS = [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        (
            {"type": "ClusterIP", "clusterIP": "127.64.128.1", "ports": [{"port": 80}]},
            {},
            ["ClusterIP", "127.64.128.1", "<none>", "80/TCP"],
        ),
        (
            {"type": "NodePort", "clusterIP": "127.64.128.1", "ports": PORTS},
            {},
            ["NodePort", "127.64.128.1", "<none>", "80:30080/TCP,53/UDP"],
        ),
        (
            {"type": "LoadBalancer", "clusterIP": "127.64.128.1", "ports": [{"port": 80}]},
            {},
            ["LoadBalancer", "127.64.128.1", "<pending>", "80/TCP"],
        ),
        (
            {"type": "LoadBalancer", "clusterIP": "127.64.128.1"},
            {"loadBalancer": {"ingress": [{"ip": "127.64.0.1"}]}},
            ["LoadBalancer", "127.64.128.1", "127.64.0.1", "<none>"],
        ),
        ({"clusterIP": "None"}, {}, ["ClusterIP", "None", "<none>", "<none>"]),
        ({"type": "ExternalName", "externalName": "e.com"}, {}, ["ExternalName", "<none>", "e.com", "<none>"]),
    ],
)  # fmt: skip
def test_service(spec: dict[str, Any], status: dict[str, Any], expected: list[str]) -> None:
    shown = row(kinds.SERVICE, {"spec": spec, "status": status})
    assert [shown[key] for key in ("TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)")] == expected


def utilization(name: str, target: int, now: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = {
        "type": "Resource",
        "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": target}},
    }
    current = {"type": "Resource", "resource": {"name": name, "current": {"averageUtilization": now}}}
    return spec, current


def test_autoscaler() -> None:
    cpu, cpu_now = utilization("cpu", 50, 12)
    memory, _ = utilization("memory", 80, None)
    reference = {"kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": reference, "minReplicas": 3, "maxReplicas": 10, "metrics": [cpu, memory, cpu]}
    hpa = {"spec": spec, "status": {"currentReplicas": 3, "currentMetrics": [cpu_now]}}
    shown = row(kinds.HORIZONTAL_POD_AUTOSCALER, hpa)
    assert list(shown.values())[1:6] == [
        "Deployment/web", "cpu: 12%/50%, memory: <unknown>/80% + 1 more...", "3", 10, 3,
    ]  # fmt: skip


def test_event() -> None:
    event = {
        "metadata": {"name": "web.1"},
        "type": "Warning",
        "reason": "BackOff",
        "message": " again ",
        "involvedObject": {"kind": "Pod", "name": "web"},
        "firstTimestamp": ago(minutes=30),
        "lastTimestamp": ago(seconds=5),
        "count": 4,
        "source": {"component": "kubelet", "host": "here"},
    }
    assert row(kinds.EVENT, event, wide=True) == {
        "LAST SEEN": "5s",
        "TYPE": "Warning",
        "REASON": "BackOff",
        "OBJECT": "pod/web",
        "SUBOBJECT": "",
        "SOURCE": "kubelet, here",
        "MESSAGE": "again",
        "FIRST SEEN": "30m",
        "COUNT": 4,
        "NAME": "web.1",
    }


def test_job() -> None:
    status = {"succeeded": 1, "startTime": ago(seconds=90), "completionTime": ago(seconds=85)}
    job = {"spec": {"completions": 1}, "status": {**status, "conditions": [{"type": "Complete", "status": "True"}]}}
    shown = row(kinds.JOB, job)
    assert (shown["STATUS"], shown["COMPLETIONS"], shown["DURATION"]) == ("Complete", "1/1", "5s")


def test_every_kind_survives_an_empty_object() -> None:
    for columns in COLUMNS.values():
        cells(list(columns), {"metadata": {"name": "x"}})


OBJECT: dict[str, Any] = {
    "spec": {"replicas": 3, "names": ["a", "b"], "ports": [{"n": "x", "p": 1}, {"n": "y", "p": 2}], "on": True},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
    "metadata": {"name": "n", "labels": {"a.b/c": "d"}, "creationTimestamp": None},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".spec.replicas", [3]),
        ("{.spec.names[0]}", ["a"]),
        (".spec.names[-1]", ["b"]),
        (".spec.names[*]", ["a", "b"]),
        (".spec.ports[*].n", ["x", "y"]),
        (".spec.ports[0:1].p", [1]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type=='Nope')].status", []),
        (".spec.ports[?(@.p>1)].n", ["y"]),
        (".metadata.labels['a.b/c']", ["d"]),
        (r".metadata.labels.a\.b/c", ["d"]),
        (".spec.missing.deep", []),
    ],
)
def test_json_path(path: str, expected: list[Any]) -> None:
    assert compile_path(path)(OBJECT) == expected


@pytest.mark.parametrize("path", [".spec[", ".a..b", ".a[?(@.b~1)]"])
def test_json_path_that_cannot_be_read(path: str) -> None:
    with pytest.raises(ValueError, match="invalid JSONPath"):
        compile_path(path)


def test_custom_columns() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Names", "type": "string", "jsonPath": ".spec.names", "priority": 1},
        {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
        {"name": "Since", "type": "date", "jsonPath": ".status.since"},
    ]
    obj = {**OBJECT, "status": {**OBJECT["status"], "since": ago(hours=3)}}
    assert cells(crd_columns(rows), obj) == ["n", 3, "True", '["a","b"]', True, "3h"]
    assert [column.name for column in crd_columns(None)] == ["Name", "Age"]
