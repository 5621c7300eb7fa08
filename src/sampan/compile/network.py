"""Who may speak to whom: everything is denied, then `calls`, `uses` and `public` are allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sampan.compile import identity
from sampan.compile.bindings import PORTS, server_name, type_of
from sampan.compile.containers import listens
from sampan.compile.context import Item, selector
from sampan.model import Handle, Service, graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sampan.compile.context import Context
    from sampan.model.application import Workload

POLICY = "networking.k8s.io/v1"
DNS = {
    "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}
OTLP_PORTS = (4317, 4318)


def default_deny(context: Context) -> Iterator[Item]:
    labels = context.labels("application", context.app.name)
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    yield Item(context.app, context.object(POLICY, "NetworkPolicy", "default-deny", labels, spec=spec))


def policy(context: Context, declared: Workload) -> Iterator[Item]:
    labels = context.labels(declared.kind, declared.name)
    ingress: list[dict[str, Any]] = []
    if isinstance(declared, Service):
        http = [{"protocol": "TCP", "port": declared.port}]
        callers = _pods(context, (workload for workload in graph.callers(context.app, declared)))
        if declared.public:
            ingress.append({"ports": http})
        else:
            ingress.append({"from": [*callers, _namespace(context.environment.monitoring_namespace)], "ports": http})
        if declared.grpc is not None and callers:
            ingress.append({"from": callers, "ports": [{"protocol": "TCP", "port": declared.grpc.port}]})
    egress: list[dict[str, Any]] = [DNS, _telemetry(context)]
    for name in declared.call_names:
        callee = context.app.service(name)
        ports = [{"protocol": "TCP", "port": port} for port in listens(callee).values()]
        egress.append({"to": _pods(context, [callee]), "ports": ports})
    if identity.reads_endpoints(declared):
        egress.append({"ports": [{"protocol": "TCP", "port": port} for port in identity.API_PORTS]})
    egress += _stores(context, declared.handles)
    egress += [_outside(target) for target in declared.egress]
    spec = {
        "podSelector": {"matchLabels": selector(labels)},
        "policyTypes": ["Ingress", "Egress"],
        # No list at all, where nobody may come: an empty one counts as a change with every apply.
        **({"ingress": ingress} if ingress else {}),
        "egress": egress,
    }
    yield Item(declared, context.object(POLICY, "NetworkPolicy", declared.name, labels, spec=spec))


def _pods(context: Context, workloads: Iterable[Workload]) -> list[dict[str, Any]]:
    return [
        {"podSelector": {"matchLabels": selector(context.labels(workload.kind, workload.name))}}
        for workload in workloads
    ]


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _telemetry(context: Context) -> dict[str, Any]:
    """To the collector: the one the environment names, or any in the namespace of monitoring."""
    named = context.environment.telemetry
    if named:
        parts = urlsplit(named)
        port = {"protocol": "TCP", "port": parts.port or (443 if parts.scheme == "https" else 80)}
        labels = (parts.hostname or "").split(".")
        if len(labels) == 1:  # a Service of our own namespace
            return {"to": [{"podSelector": {}}], "ports": [port]}
        if len(labels) == 2 or labels[2:3] == ["svc"]:
            return {"to": [_namespace(labels[1])], "ports": [port]}
        return {"ports": [port]}  # outside of the cluster; a policy knows no names
    ports = [{"protocol": "TCP", "port": port} for port in OTLP_PORTS]
    return {"to": [_namespace(context.environment.monitoring_namespace)], "ports": ports}


def _stores(context: Context, handles: list[Handle]) -> Iterator[dict[str, Any]]:
    """To the backing store beside us; elsewhere to its port, wherever the platform keeps it."""
    seen = set()
    for handle in handles:
        server = server_name(handle)
        port = PORTS.get(type_of(context, handle))
        if port is None or context.on_volume(handle) or (server, port) in seen:
            continue
        seen.add((server, port))
        rule: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": port}]}
        if context.local:
            labels = {"app.kubernetes.io/name": server, "app.kubernetes.io/part-of": context.app.name}
            rule = {"to": [{"podSelector": {"matchLabels": labels}}], **rule}
        yield rule


def _outside(target: str) -> dict[str, Any]:
    cidr, _, port = target.rpartition(":")
    return {"to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"protocol": "TCP", "port": int(port)}]}


def store_policy(context: Context, owner: Handle, name: str, users: Iterable[Workload], port: int) -> Item:
    """Only those who use a backing store reach it, and it reaches nobody."""
    labels = context.labels(owner.kind if name != "messaging" else "messaging", name)
    spec = {
        "podSelector": {"matchLabels": selector(labels)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": _pods(context, users), "ports": [{"protocol": "TCP", "port": port}]}],
    }
    return Item(owner, context.object(POLICY, "NetworkPolicy", name, labels, spec=spec))
