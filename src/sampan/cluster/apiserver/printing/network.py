"""Columns of services, endpoints, routes and network policies."""

from __future__ import annotations

from sampan.cluster.apiserver.printing.base import (
    AGE,
    NAME,
    NONE,
    UNKNOWN,
    UNSET,
    Column,
    at,
    labels_text,
    limited,
    selector_text,
    text,
    wide,
)
from sampan.kube.objects import Object


def _balancer(obj: Object) -> str:
    addresses = (
        entry.get("ip") or entry.get("hostname") or "" for entry in at(obj, "status", "loadBalancer", "ingress") or ()
    )
    return ",".join(address for address in addresses if address)


def _external_ip(service: Object) -> str:
    spec = service.get("spec") or {}
    type, external = spec.get("type") or "ClusterIP", spec.get("externalIPs") or []
    if type == "ExternalName":
        return spec.get("externalName") or ""
    if type == "LoadBalancer":
        addresses = [address for address in (_balancer(service), *external) if address]
        return ",".join(addresses) or "<pending>"
    if type not in ("ClusterIP", "NodePort"):
        return UNKNOWN
    return ",".join(external) or NONE


def _ports(service: Object) -> str:
    def one(port: Object) -> str:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port['port']}{node}/{port.get('protocol') or 'TCP'}"

    return ",".join(one(port) for port in at(service, "spec", "ports") or ()) or NONE


def _cluster_ip(service: Object) -> str:
    ips = at(service, "spec", "clusterIPs") or ()
    return (ips[0] if ips else at(service, "spec", "clusterIP")) or NONE


def _endpoints(obj: Object) -> str:
    pairs: list[str] = []
    for subset in obj.get("subsets") or ():
        addresses = [address.get("ip") or "" for address in subset.get("addresses") or ()]
        ports = [port["port"] for port in subset.get("ports") or ()]
        pairs += [f"{ip}:{port}" for port in ports for ip in addresses] if ports else addresses
    return limited(pairs) or NONE


def _slice_ports(obj: Object) -> str:
    named = [(port.get("port"), port.get("name")) for port in obj.get("ports") or ()]
    numbers = [str(number) if number is not None else "*" if name is None else name for number, name in named]
    return limited(numbers) or UNSET


def _slice_endpoints(obj: Object) -> str:
    return limited(ip for endpoint in obj.get("endpoints") or () for ip in endpoint.get("addresses") or ()) or UNSET


def _hosts(ingress: Object) -> str:
    return limited(rule["host"] for rule in at(ingress, "spec", "rules") or () if rule.get("host")) or "*"


def _ingress_class(ingress: Object) -> str:
    annotation = (ingress["metadata"].get("annotations") or {}).get("kubernetes.io/ingress.class")
    return at(ingress, "spec", "ingressClassName") or annotation or NONE


def _parameters(ingress_class: Object) -> str:
    parameters = at(ingress_class, "spec", "parameters")
    if not parameters:
        return NONE
    group = f".{parameters['apiGroup']}" if parameters.get("apiGroup") else ""
    return f"{parameters.get('kind')}{group}/{parameters.get('name')}"


COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "Service"): (
        NAME,
        Column("Type", text("spec", "type", default="ClusterIP")),
        Column("Cluster-IP", _cluster_ip),
        Column("External-IP", _external_ip),
        Column("Port(s)", _ports),
        AGE,
        wide("Selector", lambda obj: labels_text(at(obj, "spec", "selector"))),
    ),
    ("", "Endpoints"): (NAME, Column("Endpoints", _endpoints), AGE),
    ("discovery.k8s.io", "EndpointSlice"): (
        NAME,
        Column("AddressType", text("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        AGE,
    ),
    ("networking.k8s.io", "Ingress"): (
        NAME,
        Column("Class", _ingress_class),
        Column("Hosts", _hosts),
        Column("Address", _balancer),
        Column("Ports", lambda obj: "80, 443" if at(obj, "spec", "tls") else "80"),
        AGE,
    ),
    ("networking.k8s.io", "IngressClass"): (
        NAME,
        Column("Controller", text("spec", "controller")),
        Column("Parameters", _parameters),
        AGE,
    ),
    ("networking.k8s.io", "NetworkPolicy"): (
        NAME,
        Column("Pod-Selector", lambda obj: selector_text(at(obj, "spec", "podSelector"))),
        AGE,
    ),
    ("networking.k8s.io", "ServiceCIDR"): (
        NAME,
        Column("CIDRs", lambda obj: ",".join(at(obj, "spec", "cidrs") or ())),
        AGE,
    ),
    ("networking.k8s.io", "IPAddress"): (
        NAME,
        Column(
            "ParentRef",
            lambda obj: (
                "/".join(
                    str(part)
                    for part in (
                        at(obj, "spec", "parentRef", key) for key in ("group", "resource", "namespace", "name")
                    )
                    if part
                )
                or NONE
            ),
        ),
        AGE,
    ),
}
