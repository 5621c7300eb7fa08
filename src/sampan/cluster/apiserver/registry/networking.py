"""Ingress, IngressClass, NetworkPolicy and EndpointSlice."""

from __future__ import annotations

import ipaddress
from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.addresses import Network, family_of, ip_problem, read_cidr
from sampan.cluster.apiserver.registry.balancers import status_causes
from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import (
    DNS_LABEL,
    DNS_SUBDOMAIN,
    Faults,
    maps,
    port_name_problems,
    port_or_name,
    sub,
    wildcard_domain,
)
from sampan.cluster.apiserver.registry.services import address
from sampan.cluster.apiserver.strategy import Context
from sampan.kube.errors import Cause
from sampan.kube.names import path_segment
from sampan.kube.objects import Object


def _backend(faults: Faults, backend: Object, path: str) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        faults.invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        for key in ("kind", "name"):
            if not resource.get(key):
                faults.required(f"{path}.resource.{key}")
    elif service is None:
        faults.invalid(path, "", "resource or service backend is required")
    else:
        if not service.get("name"):
            faults.required(f"{path}.service.name")
        else:
            faults.name(f"{path}.service.name", service["name"], DNS_LABEL)
        port = sub(service, "port")
        if port.get("name") and port.get("number"):
            faults.invalid(path, "", "cannot set both port name & port number")
        elif port.get("name"):
            for message in port_name_problems(port["name"]):
                faults.invalid(f"{path}.service.port.name", port["name"], message)
        elif port.get("number"):
            faults.port(f"{path}.service.port.number", port["number"])
        else:
            faults.required(path, "port name or number is required")


def _host(faults: Faults, host: str, path: str) -> None:
    try:
        ipaddress.ip_address(host)
        faults.invalid(path, host, "must be a DNS name, not an IP address")
        return
    except ValueError:
        pass
    faults.name(path, host, wildcard_domain if "*" in host else DNS_SUBDOMAIN)


def _rule_path(faults: Faults, entry: Object, path: str) -> None:
    type, text = entry.get("pathType"), entry.get("path") or ""
    if type is None:
        faults.required(f"{path}.pathType", "pathType must be specified")
        return
    if type in ("Exact", "Prefix"):
        if not text.startswith("/"):
            faults.invalid(f"{path}.path", text, "must be an absolute path")
        for bad in ("//", "/./", "/../", "%2f", "%2F"):
            if bad in text:
                faults.invalid(f"{path}.path", text, f"must not contain '{bad}'")
        for bad in ("/..", "/."):
            if text.endswith(bad):
                faults.invalid(f"{path}.path", text, f"cannot end with '{bad}'")
    elif type == "ImplementationSpecific":
        if text and not text.startswith("/"):
            faults.invalid(f"{path}.path", text, "must be an absolute path")
    else:
        faults.one_of(f"{path}.pathType", type, ("Exact", "ImplementationSpecific", "Prefix"), required=None)
    _backend(faults, sub(entry, "backend"), f"{path}.backend")


_CLASS = "kubernetes.io/ingress.class"


class Ingress(TableStrategy):
    optional = frozenset({"spec.rules[].http.paths[].backend.service.name"})  # not asked for without a type of the path

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["status"] = {"loadBalancer": {}}

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        return super().validate_update(new, old) + status_causes(new, old, service=False)

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        if old is None and _CLASS in (new["metadata"].get("annotations") or {}):
            return [f"annotation \"{_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"]
        return []

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        rules = maps(spec.get("rules"))
        if not rules and spec.get("defaultBackend") is None:
            faults.invalid("spec", None, "either `defaultBackend` or `rules` must be specified")
        if spec.get("defaultBackend") is not None:
            _backend(faults, spec["defaultBackend"], "spec.defaultBackend")
        faults.name_given("spec.ingressClassName", spec.get("ingressClassName"), DNS_SUBDOMAIN)
        for index, rule in enumerate(rules):
            where = f"spec.rules[{index}]"
            if rule.get("host"):
                _host(faults, rule["host"], f"{where}.host")
            if rule.get("http") is not None:
                paths = maps(rule["http"].get("paths"))
                if not paths:
                    faults.required(f"{where}.http.paths")
                for position, entry in enumerate(paths):
                    _rule_path(faults, entry, f"{where}.http.paths[{position}]")
        for index, tls in enumerate(maps(spec.get("tls"))):
            for position, host in enumerate(tls.get("hosts") or ()):
                named = wildcard_domain if "*" in (host or "") else DNS_SUBDOMAIN
                faults.name_given(f"spec.tls[{index}].hosts[{position}]", host or "", named)
            faults.name(f"spec.tls[{index}].secretName", tls.get("secretName"), DNS_SUBDOMAIN, required=False)


class IngressClass(TableStrategy):
    rows: ClassVar[Rows] = (("spec.parameters.scope", "Cluster"),)
    immutable = ("spec.controller",)

    def validate(self, faults: Faults, obj: Object) -> None:
        controller = sub(obj, "spec").get("controller") or ""
        if not controller:
            faults.required("spec.controller")
        elif "/" not in controller:
            faults.invalid("spec.controller", controller, 'must be a domain-prefixed path (such as "acme.io/foo")')
        if not isinstance(sub(obj, "spec").get("parameters"), dict):
            return
        parameters = sub(obj, "spec", "parameters")
        faults.name_given("spec.parameters.apiGroup", parameters.get("apiGroup"), DNS_SUBDOMAIN)
        for key in ("kind", "name"):
            faults.name(f"spec.parameters.{key}", parameters.get(key), path_segment)
        faults.one_given("spec.parameters.scope", parameters.get("scope"), ("Cluster", "Namespace"))
        namespace = parameters.get("namespace")
        if parameters.get("scope") == "Namespace" and namespace is None:
            faults.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'")
        elif parameters.get("scope") == "Namespace":
            faults.name_given("spec.parameters.namespace", namespace, DNS_LABEL)
        elif parameters.get("scope") == "Cluster" and namespace is not None:
            faults.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'")


class NetworkPolicy(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec", {}),
        ("spec.podSelector", {}),
        ("spec.ingress[].ports[].protocol", "TCP"),
        ("spec.egress[].ports[].protocol", "TCP"),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        spec = obj.get("spec")
        if isinstance(spec, dict) and not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        faults.label_selector("spec.podSelector", spec.get("podSelector"))
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for index, rule in enumerate(maps(spec.get(direction))):
                where = f"spec.{direction}[{index}]"
                for position, port in enumerate(maps(rule.get("ports"))):
                    _policy_port(faults, port, f"{where}.ports[{position}]")
                for position, peer in enumerate(maps(rule.get(peers))):
                    _peer(faults, peer, f"{where}.{peers}[{position}]")
        types = spec.get("policyTypes") or ()
        if len(types) > 2:
            faults.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
        for index, type in enumerate(types):
            faults.one_of(f"spec.policyTypes[{index}]", type or "", ("Ingress", "Egress"), required=None)


def _policy_port(faults: Faults, port: Object, path: str) -> None:
    faults.one_given(f"{path}.protocol", port.get("protocol"), ("TCP", "UDP", "SCTP"))
    number, end = port.get("port"), port.get("endPort")
    port_or_name(faults, f"{path}.port", number)
    if end is not None:
        if number is None or isinstance(number, str):
            faults.invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric or not specified")
        elif end < number:
            faults.invalid(f"{path}.endPort", end, "must be greater than or equal to `port`")


def _peer(faults: Faults, peer: Object, path: str) -> None:
    if not [key for key in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(key) is not None]:
        faults.required(path, "must specify a peer")
    for key in ("podSelector", "namespaceSelector"):
        faults.label_selector(f"{path}.{key}", peer.get(key))
    block = peer.get("ipBlock")
    if block is None:
        return
    if peer.get("podSelector") is not None or peer.get("namespaceSelector") is not None:
        faults.forbidden(path, "may not specify both ipBlock and another peer")
    outer = _cidr(faults, f"{path}.ipBlock.cidr", block.get("cidr"), required=True)
    if outer is None:
        return
    for index, text in enumerate(block.get("except") or ()):
        inner = _cidr(faults, f"{path}.ipBlock.except[{index}]", text)
        if inner and (inner.version != outer.version or not inner.subnet_of(outer) or inner == outer):  # type: ignore[arg-type]
            faults.invalid(f"{path}.ipBlock.except[{index}]", text, "must be a strict subset of `cidr`")


def _cidr(faults: Faults, path: str, text: Any, *, required: bool = False) -> Network | None:
    if required and not text:
        faults.required(path)
        return None
    network, problem = read_cidr(str(text))
    if problem:
        faults.invalid(path, text, problem)
    return network


class EndpointSlice(TableStrategy):
    rows: ClassVar[Rows] = (("ports[].name", ""), ("ports[].protocol", "TCP"))
    immutable = ("addressType",)

    def validate(self, faults: Faults, obj: Object) -> None:
        type = obj.get("addressType")
        faults.one_of("addressType", type, ("FQDN", "IPv4", "IPv6"))
        endpoints = maps(obj.get("endpoints"))
        if len(endpoints) > 1000:
            faults.too_many("endpoints", len(endpoints), 1000)
        for index, endpoint in enumerate(endpoints):
            where = f"endpoints[{index}].addresses"
            faults.name_given(f"endpoints[{index}].nodeName", endpoint.get("nodeName"), DNS_SUBDOMAIN)
            faults.name_given(f"endpoints[{index}].hostname", endpoint.get("hostname"), DNS_LABEL)
            if not endpoint.get("addresses"):
                faults.required(where, "must contain at least 1 address")
            for position, text in enumerate(endpoint.get("addresses") or ()):
                if type in ("IPv4", "IPv6"):
                    _address(faults, where, position, text or "", type)
                elif type == "FQDN":
                    _domain(faults, f"{where}[{position}]", text or "")
        names: set[str] = set()
        for index, port in enumerate(maps(obj.get("ports"))):
            name = port.get("name") or ""
            if name in names:
                faults.duplicate(f"ports[{index}].name", name)
            names.add(name)
            faults.name(f"ports[{index}].name", name, DNS_LABEL, required=False)
            faults.one_given(f"ports[{index}].protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"), required=True)

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        deprecated = old is None and new.get("addressType") == "FQDN"
        return ["spec.addressType: FQDN endpoints are deprecated"] if deprecated else []


def _address(faults: Faults, where: str, position: int, text: str, family: str) -> None:
    """An address of the family of its slice; of IPv6 there is one way to write it."""
    path = f"{where}[{position}]"
    if ip_problem(text) is None:
        shown = str(ipaddress.ip_address(text))
        if family == "IPv6" and shown != text:
            faults.invalid(path, text, f'must be in canonical form ("{shown}")')
            return
        if family_of(text) != family:
            faults.invalid(where, text, f"must be an {family} address")
    address(faults, path, text)


def _domain(faults: Faults, path: str, name: str) -> None:
    """A domain of at least two segments."""
    name = name.removesuffix(".")
    if not name:
        faults.required(path)
    elif problems := DNS_SUBDOMAIN(name):
        faults.invalid(path, name, ",".join(problems))
    elif "." not in name:
        faults.invalid(path, name, "should be a domain with at least two segments separated by dots")


_NETWORKING = "networking.k8s.io"
STRATEGIES = {
    (_NETWORKING, "Ingress"): Ingress(),
    (_NETWORKING, "IngressClass"): IngressClass(),
    (_NETWORKING, "NetworkPolicy"): NetworkPolicy(),
    ("discovery.k8s.io", "EndpointSlice"): EndpointSlice(),
}
