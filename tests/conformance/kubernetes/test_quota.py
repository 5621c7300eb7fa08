"""ResourceQuota: what is refused, what is counted, and that fifty at once do not overshoot."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Object, Reply, Wire


def at(ns: str, plural: str, name: str = "") -> str:
    root = {"deployments": "/apis/apps/v1"}.get(plural, "/api/v1")
    return f"{root}/namespaces/{ns}/{plural}" + (f"/{name}" if name else "")


def pod(name: str, resources: Object | None = None, **spec: Any) -> Object:
    container = {"name": "c", "image": "sampan.dev/none:1", "resources": resources or {}}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def service(name: str, kind: str, *ports: int) -> Object:
    rows = [{"name": f"p{port}", "port": port} for port in ports]
    return {"metadata": {"name": name}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": rows}}


def claim(name: str, size: str, **spec: Any) -> Object:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **spec}
    return {"metadata": {"name": name}, "spec": asked}


def config(name: str) -> Object:
    return {"metadata": {"name": name}}


def quota(wire: Wire, ns: str, hard: dict[str, str], name: str = "q", **spec: Any) -> None:
    """Write a quota and wait until its use is known and a write meets it."""
    reply = wire.post(at(ns, "resourcequotas"), {"metadata": {"name": name}, "spec": {"hard": hard, **spec}})
    assert reply.code == 201, reply
    eventually(lambda: hard.keys() == (wire.get(at(ns, "resourcequotas", name))["status"].get("used") or {}).keys())


def used(wire: Wire, ns: str, name: str = "q") -> dict[str, str]:
    found: dict[str, str] = wire.get(at(ns, "resourcequotas", name))["status"]["used"]
    return found


def create(wire: Wire, path: str, body: Object, **query: Any) -> Reply:
    """As a client does that meets a server which has just heard of the quota: again while the use is unknown."""
    while True:
        reply = wire.post(path, body, **query)
        if "status unknown for quota" not in str(reply.body.get("message")):
            return reply


def refused(reply: Reply, message: str, what: str = 'pods "x"') -> None:
    assert (reply.code, reply.reason) == (403, "Forbidden"), reply
    assert reply["message"] == f"{what} is forbidden: {message}"


def in_force(wire: Wire, ns: str) -> None:
    """Wait until the server has taken in the quotas written before."""
    quota(wire, ns, {"count/limitranges": "0"}, "probe")
    probe = {"metadata": {"name": "probe"}, "spec": {"limits": []}}
    eventually(lambda: create(wire, at(ns, "limitranges"), probe, dryRun="All").code == 403, what="quota in force")
    wire.delete(at(ns, "resourcequotas", "probe"))


def test_counts_of_objects(wire: Wire, ns: str) -> None:
    root_ca = at(ns, "configmaps", "kube-root-ca.crt")  # a controller writes it; none comes afterwards
    eventually(lambda: wire.get(root_ca).code == 200, what="kube-root-ca.crt")
    present = len(wire.get(at(ns, "configmaps"))["items"])
    hard = {"configmaps": str(present + 1), "count/deployments.apps": "0", "count/secrets": "1"}
    quota(wire, ns, hard)
    in_force(wire, ns)
    assert used(wire, ns) == {"configmaps": str(present), "count/deployments.apps": "0", "count/secrets": "0"}
    assert create(wire, at(ns, "configmaps"), config("a")).code == 201
    assert used(wire, ns)["configmaps"] == str(present + 1), "known before the create is answered"
    words = "exceeded quota: q, requested: {0}=1, used: {0}={1}, limited: {0}={2}".format
    message = words("configmaps", present + 1, present + 1)
    refused(create(wire, at(ns, "configmaps"), config("x")), message, 'configmaps "x"')
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod("p")["spec"]}
    body = {"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
    message = words("count/deployments.apps", 0, 0)
    refused(create(wire, at(ns, "deployments"), body), message, 'deployments.apps "x"')
    message = words("configmaps", present + 1, present + 1)
    refused(create(wire, at(ns, "configmaps"), config("x"), dryRun="All"), message, 'configmaps "x"')
    assert create(wire, at(ns, "secrets"), config("a"), dryRun="All").code == 201
    assert used(wire, ns)["count/secrets"] == "0", "a dry run uses nothing"
    wire.delete(at(ns, "configmaps", "a"))
    eventually(lambda: used(wire, ns)["configmaps"] == str(present), what="use falls when objects go")
    assert create(wire, at(ns, "configmaps"), config("b")).code == 201


def test_compute_of_pods(wire: Wire, ns: str) -> None:
    hard = {"pods": "3", "requests.cpu": "1", "limits.memory": "256Mi", "requests.example.com/gpu": "1"}
    quota(wire, ns, hard)
    in_force(wire, ns)
    resources = {"requests": {"cpu": "600m"}, "limits": {"cpu": "2", "memory": "128Mi"}}
    made = create(wire, at(ns, "pods"), pod("a", resources))
    assert made.code == 201, made
    expected = {"pods": "1", "requests.cpu": "600m", "limits.memory": "128Mi", "requests.example.com/gpu": "0"}
    assert used(wire, ns) == expected
    refused(
        create(wire, at(ns, "pods"), pod("x", resources)),
        "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1",
    )
    refused(
        create(wire, at(ns, "pods"), pod("x", {"limits": {"cpu": "1", "memory": "1Gi"}})),
        "exceeded quota: q, requested: limits.memory=1Gi,requests.cpu=1, used: limits.memory=128Mi,requests.cpu=600m,"
        " limited: limits.memory=256Mi,requests.cpu=1",
    )
    refused(
        create(wire, at(ns, "pods"), pod("x")),
        "failed quota: q: must specify limits.memory for: c; requests.cpu for: c",
    )
    small = {"requests": {"cpu": "10m"}, "limits": {"memory": "1Mi"}}
    gpu = {"requests": {"cpu": "1m"}, "limits": {"memory": "1Mi", "example.com/gpu": "2"}}
    refused(
        create(wire, at(ns, "pods"), pod("x", gpu)),
        "exceeded quota: q, requested: requests.example.com/gpu=2, used: requests.example.com/gpu=0, limited:"
        " requests.example.com/gpu=1",
    )
    for name in ("b", "c"):
        assert create(wire, at(ns, "pods"), pod(name, small)).code == 201
    message = "exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"
    refused(create(wire, at(ns, "pods"), pod("x", small)), message)
    wire.delete(at(ns, "pods", "b"), gracePeriodSeconds=0)
    eventually(lambda: used(wire, ns)["pods"] == "2")
    assert wire.patch(at(ns, "pods", "c") + "/status", {"status": {"phase": "Succeeded"}}).code == 200
    eventually(lambda: used(wire, ns)["requests.cpu"] == "600m", what="a pod that is over uses nothing")


def test_services_and_their_ports(wire: Wire, ns: str) -> None:
    quota(wire, ns, {"services": "2", "services.nodeports": "2", "services.loadbalancers": "0"})
    in_force(wire, ns)
    assert create(wire, at(ns, "services"), service("a", "NodePort", 80, 81)).code == 201
    assert used(wire, ns) == {"services": "1", "services.nodeports": "2", "services.loadbalancers": "0"}
    refused(
        create(wire, at(ns, "services"), service("x", "NodePort", 80)),
        "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=2, limited: services.nodeports=2",
        'services "x"',
    )
    assert create(wire, at(ns, "services"), service("b", "ClusterIP", 80)).code == 201
    changed = wire.patch(at(ns, "services", "b"), {"spec": {"type": "LoadBalancer"}})
    refused(
        changed,
        "exceeded quota: q, requested: services.loadbalancers=1,services.nodeports=1, used: services.loadbalancers=0,"
        "services.nodeports=2, limited: services.loadbalancers=0,services.nodeports=2",
        'services "b"',
    )
    assert wire.patch(at(ns, "services", "a"), {"spec": {"type": "ClusterIP"}}).code == 200
    eventually(lambda: used(wire, ns)["services.nodeports"] == "0")


def test_storage(wire: Wire, ns: str) -> None:
    by_class = "gold.storageclass.storage.k8s.io/requests.storage"
    quota(wire, ns, {"requests.storage": "3Gi", "persistentvolumeclaims": "5", by_class: "1Gi"})
    in_force(wire, ns)
    assert create(wire, at(ns, "persistentvolumeclaims"), claim("a", "1Gi", storageClassName="gold")).code == 201
    assert used(wire, ns) == {"requests.storage": "1Gi", "persistentvolumeclaims": "1", by_class: "1Gi"}
    refused(
        create(wire, at(ns, "persistentvolumeclaims"), claim("x", "1Mi", storageClassName="gold")),
        f"exceeded quota: q, requested: {by_class}=1Mi, used: {by_class}=1Gi, limited: {by_class}=1Gi",
        'persistentvolumeclaims "x"',
    )
    refused(
        create(wire, at(ns, "persistentvolumeclaims"), claim("x", "2500Mi", storageClassName="tin")),
        "exceeded quota: q, requested: requests.storage=2500Mi, used: requests.storage=1Gi, limited:"
        " requests.storage=3Gi",
        'persistentvolumeclaims "x"',
    )


def selector(scope: str, operator: str = "Exists", *values: str) -> Object:
    row: Object = {"scopeName": scope, "operator": operator}
    return {"scopeSelector": {"matchExpressions": [row | ({"values": list(values)} if values else {})]}}


def test_scopes(wire: Wire, ns: str) -> None:
    quota(wire, ns, {"pods": "1"}, "effort", scopes=["BestEffort"])
    quota(wire, ns, {"pods": "1"}, "short", scopes=["Terminating"])
    quota(wire, ns, {"pods": "1"}, "long", **selector("NotTerminating"), scopes=["NotBestEffort"])
    quota(wire, ns, {"pods": "0"}, "critical", **selector("PriorityClass", "In", "system-node-critical"))
    quota(wire, ns, {"pods": "0"}, "elsewhere", **selector("CrossNamespacePodAffinity"))
    in_force(wire, ns)
    asking = {"requests": {"cpu": "1m"}}
    assert create(wire, at(ns, "pods"), pod("a")).code == 201
    assert used(wire, ns, "effort") == {"pods": "1"} and used(wire, ns, "long") == {"pods": "0"}
    message = "exceeded quota: {0}, requested: pods=1, used: pods={1}, limited: pods={1}".format
    refused(create(wire, at(ns, "pods"), pod("x")), message("effort", 1))
    assert create(wire, at(ns, "pods"), pod("b", asking)).code == 201
    refused(create(wire, at(ns, "pods"), pod("x", asking)), message("long", 1))
    assert create(wire, at(ns, "pods"), pod("c", asking, activeDeadlineSeconds=600)).code == 201
    refused(create(wire, at(ns, "pods"), pod("x", asking, activeDeadlineSeconds=600)), message("short", 1))
    moved = wire.patch(at(ns, "pods", "b"), {"spec": {"activeDeadlineSeconds": 600}})
    refused(moved, message("short", 1), 'pods "b"')
    wire.delete(at(ns, "resourcequotas", "effort"))
    wire.delete(at(ns, "resourcequotas", "long"))
    in_force(wire, ns)
    refused(create(wire, at(ns, "pods"), pod("x", priorityClassName="system-node-critical")), message("critical", 0))
    term = {"topologyKey": "a", "labelSelector": {"matchLabels": {"a": "b"}}, "namespaces": ["default"]}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    refused(create(wire, at(ns, "pods"), pod("x", affinity=affinity)), message("elsewhere", 0))


def test_fifty_creates_at_once_do_not_overshoot(wire: Wire, ns: str) -> None:
    quota(wire, ns, {"pods": "7", "count/pods": "100"})
    in_force(wire, ns)

    def one(number: int) -> int:
        client = copy.copy(wire)  # the same credentials on a connection of its own
        client._connection = None
        try:
            return create(client, at(ns, "pods"), pod(f"p{number}")).code
        finally:
            client.close()

    with ThreadPoolExecutor(50) as threads:
        codes = list(threads.map(one, range(50)))
    assert sorted(codes) == [201] * 7 + [403] * 43
    assert used(wire, ns) == {"pods": "7", "count/pods": "7"}
    assert len(wire.get(at(ns, "pods"))["items"]) == 7


def test_a_quota_written_later_counts_what_is_there(wire: Wire, ns: str) -> None:
    assert wire.post(at(ns, "configmaps"), config("a")).code == 201
    present = len(wire.get(at(ns, "configmaps"))["items"])
    quota(wire, ns, {"configmaps": "1"})
    assert used(wire, ns) == {"configmaps": str(present)}
    in_force(wire, ns)
    reply = create(wire, at(ns, "configmaps"), config("x"))
    message = f"exceeded quota: q, requested: configmaps=1, used: configmaps={present}, limited: configmaps=1"
    refused(reply, message, 'configmaps "x"')
    assert wire.patch(at(ns, "resourcequotas", "q"), {"spec": {"hard": {"configmaps": "9"}}}).code == 200
    eventually(lambda: wire.get(at(ns, "resourcequotas", "q"))["status"]["hard"] == {"configmaps": "9"})
    eventually(lambda: wire.post(at(ns, "configmaps"), config("x")).code in (201, 409))


UNSUPPORTED = "unsupported scope applied to resource"


@pytest.mark.parametrize(
    ("spec", "causes"),
    [
        (
            {"hard": {"apples": "1", "pods": "1.5", "cpu": "-1"}},
            [
                ("FieldValueInvalid", "spec.hard[apples]",
                 'Invalid value: "apples": must be a standard resource for quota'),
                ("FieldValueInvalid", "spec.hard[apples]",
                 'Invalid value: "apples": must be a standard resource type or fully qualified'),
                ("FieldValueInvalid", "spec.hard[cpu]", 'Invalid value: "-1": must be greater than or equal to 0'),
                ("FieldValueInvalid", "spec.hard[pods]", 'Invalid value: "1500m": must be an integer'),
            ],
        ),
        (
            {"hard": {"secrets": "1"}, "scopes": ["BestEffort"]},
            [("FieldValueInvalid", "spec.scopes", f'Invalid value: ["BestEffort"]: {UNSUPPORTED}')],
        ),
        (
            {"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]},
            [("FieldValueInvalid", "spec.scopes",
              'Invalid value: ["Terminating","NotTerminating"]: conflicting scopes')],
        ),
        (
            {"hard": {"pods": "1"}, **selector("PriorityClass", "In")},
            [("FieldValueRequired", "spec.scopeSelector.matchExpressions.values",
              "Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")],
        ),
    ],
)  # fmt: skip
def test_quotas_that_cannot_be(wire: Wire, ns: str, spec: Object, causes: list[tuple[str, ...]]) -> None:
    reply = wire.post(at(ns, "resourcequotas"), {"metadata": {"name": "q"}, "spec": spec})
    assert (reply.code, reply.reason) == (422, "Invalid"), reply
    assert reply.causes == sorted(causes)
