"""What one Service wants of the proxy: a cluster per port, and the listeners that lead to it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from sampan.cluster.proxy import resources
from sampan.cluster.proxy.resources import Address, Resource
from sampan.kube.objects import Object, name_of, namespace_of

# What a port speaks, by the first word of its appProtocol or name (the convention of service meshes), else its number.
_PROTOCOLS = {
    "http": "http",
    "ws": "http",
    "web": "http",
    "h2c": "http2",
    "http2": "http2",
    "grpc": "http2",
    "grpc-web": "http",  # of either version on the wire; its servers all take the older
}
_HTTP_PORTS = frozenset({80, 3000, 5000, 8000, 8008, 8080, 8081, 8888, 9000})


class Port(Struct, frozen=True):
    """One port of a Service: its cluster, and where traffic for it may arrive."""

    cluster: str
    name: str
    port: int
    protocol: str  # "http", "http2", "tcp" or "udp"
    node_port: int
    affinity: bool
    tls: bool = False  # `appProtocol: https`: an Ingress speaks TLS to what is behind it


class Plan(Struct, frozen=True):
    """All that a Service asks for. `frontends` pairs an address with the port that it leads to."""

    ports: tuple[Port, ...]
    frontends: tuple[tuple[Address, Port], ...]


def protocol_of(port: Object) -> str:
    """`http`, `http2`, `tcp` or `udp`: from protocol, appProtocol, the port's name, its number, in this order."""
    transport = port.get("protocol") or "TCP"
    if transport != "TCP":
        return str(transport).lower()
    stated = str(port.get("appProtocol") or "").lower().removeprefix("kubernetes.io/")
    if stated:
        return _PROTOCOLS.get(stated, "tcp")
    name = str(port.get("name") or "").lower()
    if name:
        word = name if name in _PROTOCOLS else name.partition("-")[0]
        if word in _PROTOCOLS or word in {"tcp", "tls", "https"}:
            return _PROTOCOLS.get(word, "tcp")
    return "http" if port["port"] in _HTTP_PORTS else "tcp"


def cluster_name(namespace: str, service: str, port: int, transport: str = "TCP") -> str:
    return f"{namespace}/{service}/{port}" + ("" if transport == "TCP" else f"-{transport.lower()}")


def plan(service: Object, *, node: str, load_balancer: str | None) -> Plan:
    """The plan of a Service; `load_balancer` is the address given to it, if it is of that type."""
    spec = service["spec"]
    kind = spec.get("type", "ClusterIP")
    if kind == "ExternalName":
        return Plan((), ())
    namespace, name = namespace_of(service) or "default", name_of(service)
    affinity = spec.get("sessionAffinity") == "ClientIP"
    ports = tuple(
        Port(
            cluster=cluster_name(namespace, name, port["port"], port.get("protocol") or "TCP"),
            name=port.get("name") or "",
            port=port["port"],
            protocol=protocol_of(port),
            node_port=(port.get("nodePort") or 0) if kind in {"NodePort", "LoadBalancer"} else 0,
            affinity=affinity,
            tls=str(port.get("appProtocol") or "").lower() == "https",
        )
        for port in spec.get("ports") or ()
    )
    cluster_ip = spec.get("clusterIP") or "None"
    addresses = [cluster_ip] if cluster_ip != "None" else []
    if load_balancer and kind == "LoadBalancer":
        addresses.append(load_balancer)
    frontends: list[tuple[Address, Port]] = []
    for port in ports:
        if port.protocol not in {"http", "http2", "tcp"}:
            continue
        frontends += [(Address(host, port.port), port) for host in addresses]
        if port.node_port:
            frontends += [(Address(host, port.node_port), port) for host in (node, "127.0.0.1")]
    return Plan(ports, tuple(frontends))


def listener(at: Address, port: Port) -> Resource:
    """The listener of one frontend. It never changes while the Service keeps its ports, so no connection is cut."""
    if port.protocol == "tcp":
        network = resources.tcp_filter(port.cluster, port.cluster, affinity=port.affinity)
    else:
        routes = resources.routes({"prefix": "/"}, port.cluster, affinity=port.affinity)
        everything = {"name": port.cluster, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
        network = resources.http_filter(port.cluster, edge=False, route_config=everything)
    return resources.listener(f"{port.cluster} {at.host}:{at.port}", at, [{"filters": [network]}])


def ready_addresses(port: Port, slices: Iterable[Object], draining: frozenset[str] | set[str]) -> list[Address]:
    """The addresses behind a port: ready endpoints, else (all are terminating) those that still serve.

    `draining` holds UIDs of pods that are about to be stopped and take no new connection whatever their slice says.
    """
    ready: set[Address] = set()
    leaving: set[Address] = set()
    for piece in slices:
        number = _port_number(port, piece.get("ports") or ())
        if number is None or piece.get("addressType", "IPv4") != "IPv4":
            continue
        for endpoint in piece.get("endpoints") or ():
            if (endpoint.get("targetRef") or {}).get("uid") in draining:
                continue
            conditions = endpoint.get("conditions") or {}
            addresses = {Address(host, number) for host in endpoint.get("addresses") or ()}
            # absent means true (EndpointConditions)
            if conditions.get("ready", True):
                ready |= addresses
            elif conditions.get("serving") and conditions.get("terminating"):
                leaving |= addresses
    return sorted(ready or leaving)


def _port_number(port: Port, published: Sequence[Object]) -> int | None:
    transport = "UDP" if port.protocol == "udp" else "TCP"
    for candidate in published:
        if (candidate.get("name") or "") == port.name and (candidate.get("protocol") or "TCP") == transport:
            number = candidate.get("port")
            return int(number) if number else None
    return None
