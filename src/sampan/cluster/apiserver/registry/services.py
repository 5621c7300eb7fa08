"""Service, with its cluster IP and node ports, and Endpoints."""

from __future__ import annotations

import ipaddress
from typing import Any, ClassVar

from sampan.cluster.address import SLICES
from sampan.cluster.apiserver.registry import addresses, balancers
from sampan.cluster.apiserver.registry.allocation import (
    DEFAULT_CIDR,
    ClusterIPs,
    Exhausted,
    allocate_port,
    check_port,
    taken_ips,
    taken_ports,
)
from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import (
    DNS_LABEL,
    DNS_SUBDOMAIN,
    Faults,
    maps,
    port_or_name,
    sub,
)
from sampan.cluster.apiserver.strategy import Context
from sampan.kube import kinds
from sampan.kube.errors import Cause, bad_request, internal, invalid
from sampan.kube.objects import Object

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_WITH_NODE_PORTS = ("LoadBalancer", "NodePort")


def _type(obj: Object) -> str:
    return sub(obj, "spec").get("type") or "ClusterIP"


def _port_key(port: Object) -> tuple[Any, ...]:
    return (port.get("port"), port.get("protocol") or "TCP")


_HINTS = "service.kubernetes.io/topology-aware-hints"


class Service(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec", {}),
        ("spec.type", "ClusterIP"),
        ("spec.sessionAffinity", "None"),
        ("spec.ports[].protocol", "TCP"),
    )
    fields: ClassVar[dict[str, str]] = {"spec.clusterIP": "", "spec.type": ""}

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        return super().validate_update(new, old) + balancers.status_causes(new, old, service=True)

    def default(self, obj: Object) -> None:
        super().default(obj)
        balancers.default_modes(obj)
        spec = obj.get("spec")
        if not isinstance(spec, dict):
            return
        type = spec["type"]
        if spec.get("sessionAffinity") == "ClientIP" and not spec.get("sessionAffinityConfig"):
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": 10800}}
        elif spec.get("sessionAffinity") == "None":
            spec.pop("sessionAffinityConfig", None)
        for port in maps(spec.get("ports")):
            if port.get("targetPort") in (None, 0, "") and "port" in port:
                port["targetPort"] = port["port"]
        if type in _WITH_NODE_PORTS and not spec.get("externalTrafficPolicy"):
            spec["externalTrafficPolicy"] = "Cluster"
        if type == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is None:
            spec["allocateLoadBalancerNodePorts"] = True
        if type in ("ClusterIP", *_WITH_NODE_PORTS) and not spec.get("internalTrafficPolicy"):
            spec["internalTrafficPolicy"] = "Cluster"

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        obj["status"] = {"loadBalancer": {}}
        if ctx.subresource != "status":  # by which it gets no address
            addresses.fill(sub(obj, "spec"), None)
            self._allocate(obj, None, ctx)

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        if ctx.subresource is not None:
            return
        addresses.fill(sub(new, "spec"), sub(old, "spec"))
        self._carry_over(new, old)
        self._allocate(new, old, ctx)
        self._drop_type_dependent(new, old)

    def _drop_type_dependent(self, new: Object, old: Object) -> None:
        """Fields that the old type needed and the new one forbids go, unless the client changed them itself."""
        spec, before = sub(new, "spec"), sub(old, "spec")
        after_type, before_type = _type(new), _type(old)
        addresses.drop(spec, before)
        if after_type == "ExternalName" and spec.get("internalTrafficPolicy") == before.get("internalTrafficPolicy"):
            spec.pop("internalTrafficPolicy", None)
        if before_type in _WITH_NODE_PORTS and after_type not in _WITH_NODE_PORTS:
            old_ports = {port.get("nodePort") for port in maps(before.get("ports"))}
            for port in maps(spec.get("ports")):
                if port.get("nodePort") in old_ports:
                    port.pop("nodePort", None)
            if spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy"):
                spec.pop("externalTrafficPolicy", None)
        if before_type == "LoadBalancer" and after_type != "LoadBalancer":
            for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
                if spec.get(key) == before.get(key):
                    spec.pop(key, None)

    def _carry_over(self, new: Object, old: Object) -> None:
        """Node ports stay where the client leaves them out: those of ports by name."""
        spec, before = sub(new, "spec"), sub(old, "spec")
        if _type(new) in _WITH_NODE_PORTS and _type(old) in _WITH_NODE_PORTS:
            used = {port.get("nodePort") for port in maps(spec.get("ports"))}
            known = {port.get("name") or "": port.get("nodePort") for port in maps(before.get("ports"))}
            for port in maps(spec.get("ports")):
                kept = known.get(port.get("name") or "")
                if not port.get("nodePort") and kept and kept not in used:
                    port["nodePort"] = kept

    def _allocate(self, obj: Object, old: Object | None, ctx: Context) -> None:
        spec = obj.get("spec")
        if not isinstance(spec, dict):
            return
        name, namespace = obj["metadata"].get("name") or "", ctx.namespace
        others = [
            service
            for service in ctx.list(kinds.SERVICE, None)
            if (service["metadata"].get("namespace"), service["metadata"]["name"]) != (namespace, name)
        ]
        faults, key = Faults(), f"{namespace}/{name}"
        try:
            if _type(obj) != "ExternalName":
                addresses.settle(faults, spec, None if old is None else sub(old, "spec"))
                if not faults.causes and (old is None or _type(old) == "ExternalName"):
                    ips = ClusterIPs(ctx.settings.get("service_cidr") or DEFAULT_CIDR)
                    addresses.allocate(faults, spec, ips, taken_ips(others), key)
            ported = _type(obj) in _WITH_NODE_PORTS and spec.get("allocateLoadBalancerNodePorts") is not False
            if ported and not faults.causes:
                self._node_ports(faults, spec, others, key, fresh=old is None)
        except Exhausted as error:
            raise internal(f"failed to allocate for service {key}: {error}") from error
        if faults.causes:
            raise invalid("Service", name, faults.causes)

    def _node_ports(self, faults: Faults, spec: Object, others: list[Object], key: str, *, fresh: bool) -> None:
        """Ports of one number share a node port where the service is `fresh`, as those of two protocols do."""
        taken = taken_ports(others)
        ports = maps(spec.get("ports"))
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                check_port(faults, f"spec.ports[{index}].nodePort", port["nodePort"], taken)
        if not fresh:
            _refuse_shared(ports)
        mine = {port["nodePort"] for port in ports if port.get("nodePort")}
        shared = (
            {port.get("port"): port["nodePort"] for port in reversed(ports) if port.get("nodePort")} if fresh else {}
        )
        for port in ports:
            if not port.get("nodePort"):
                port["nodePort"] = shared.get(port.get("port")) or allocate_port(
                    f"{key}/{_port_key(port)}", taken | mine
                )
                mine.add(port["nodePort"])
            if fresh:
                shared.setdefault(port.get("port"), port["nodePort"])

    def validate(self, faults: Faults, obj: Object) -> None:
        spec, type = sub(obj, "spec"), _type(obj)
        headless = addresses.is_headless(spec)
        faults.one_of("spec.type", type, _TYPES)
        ports = maps(spec.get("ports"))
        if not ports and not headless and type != "ExternalName":
            faults.required("spec.ports")
        if headless and type in _WITH_NODE_PORTS:
            faults.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {type} services")
        if type == "ExternalName":
            addresses.forbidden(faults, spec)
            if not spec.get("externalName"):
                faults.required("spec.externalName")
            else:
                faults.name("spec.externalName", spec["externalName"].removesuffix("."), DNS_SUBDOMAIN)
        else:
            addresses.related(faults, spec, spec)  # new ones have been looked at before
        _ports(faults, ports, type)
        faults.labels("spec.selector", spec.get("selector"))
        faults.one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
        timeout = sub(spec, "sessionAffinityConfig", "clientIP").get("timeoutSeconds")
        if isinstance(timeout, int) and not 0 < timeout <= 86400:
            faults.invalid(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                timeout,
                "must be greater than 0 and less than 86400",
            )
        if type not in _WITH_NODE_PORTS and spec.get("externalTrafficPolicy") and not spec.get("externalIPs"):
            faults.invalid(
                "spec.externalTrafficPolicy",
                spec["externalTrafficPolicy"],
                "may only be set for externally-accessible services",
            )
        ranges, where = spec.get("loadBalancerSourceRanges") or (), "spec.LoadBalancerSourceRanges"  # as upstream says
        if ranges and type != "LoadBalancer":
            faults.forbidden(where, "may only be used when `type` is 'LoadBalancer'")
        for index, text in enumerate(ranges):
            if problem := addresses.read_cidr(text.strip())[1]:
                faults.invalid(f"{where}[{index}]", text.strip(), problem)
        for key in ("externalTrafficPolicy", "internalTrafficPolicy"):
            faults.one_of(f"spec.{key}", spec.get(key), ("Cluster", "Local"), required=False)
        for index, ip in enumerate(spec.get("externalIPs") or ()):
            address(faults, f"spec.externalIPs[{index}]", ip)

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        found = [f"annotation {_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"]
        found = found if _HINTS in (new["metadata"].get("annotations") or {}) else []
        if sub(new, "spec").get("externalName") and _type(new) != "ExternalName":
            return [*found, 'spec.externalName is ignored when spec.type is not "ExternalName"']
        if sub(new, "spec").get("clusterIP") == "None" and sub(new, "spec").get("sessionAffinity") == "ClientIP":
            return [*found, "spec.SessionAffinity is ignored for headless services"]
        return found

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        addresses.changed(faults, sub(new, "spec"), sub(old, "spec"))


def _refuse_shared(ports: list[Object]) -> None:
    """ApiError 400 for an update that gives two ports of a protocol one node port, if only by their one name."""
    given: set[tuple[Any, ...]] = set()
    for port in ports:
        used = (port.get("protocol") or "TCP", port.get("nodePort"))
        if used[1] and used in given:
            raise bad_request(f"duplicate nodePort: {{{used[0]} {used[1]}}}")
        given.add(used)


def _ports(faults: Faults, ports: list[Object], type: str) -> None:
    names: set[str] = set()
    numbers: set[tuple[Any, ...]] = set()
    given: set[tuple[Any, ...]] = set()
    for index, port in enumerate(ports):
        where, name = f"spec.ports[{index}]", port.get("name") or ""
        if not name and len(ports) > 1:
            faults.required(f"{where}.name")
        elif name:
            faults.name(f"{where}.name", name, DNS_LABEL)
            if name in names:
                faults.duplicate(f"{where}.name", name)
            names.add(name)
        faults.port(f"{where}.port", port.get("port") or 0)
        faults.one_of(f"{where}.protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"))
        port_or_name(faults, f"{where}.targetPort", 0 if port.get("targetPort") is None else port["targetPort"])
        if _port_key(port) in numbers:
            faults.duplicate(where, {"protocol": port.get("protocol"), "port": port.get("port")})
        numbers.add(_port_key(port))
        if port.get("nodePort") and type not in _WITH_NODE_PORTS:
            faults.forbidden(f"{where}.nodePort", f"may not be used when `type` is '{type}'")
        elif port.get("nodePort"):
            if (used := (port.get("protocol"), port["nodePort"])) in given:
                faults.duplicate(f"{where}.nodePort", port["nodePort"])
            given.add(used)


_MULTICAST = {4: ipaddress.ip_network("224.0.0.0/24"), 6: ipaddress.ip_network("ff02::/16")}


def address(faults: Faults, path: str, text: Any, *, twice: bool = False) -> None:
    """An IP address that traffic can go to. `twice`: one that is none is said so in two ways."""
    try:
        if (problem := addresses.ip_problem(text or "")) is not None:
            raise ValueError(problem)
        found = ipaddress.ip_address(text or "")
    except ValueError as error:
        faults.invalid(path, text or "", str(error))
        if twice and str(error).startswith("must be"):
            faults.invalid(path, text or "", "must be a valid IP address")
        return
    if found.is_unspecified:
        faults.invalid(path, text, f"may not be unspecified ({text})")
    if found.is_loopback and not (found.version == 4 and found.packed[1] in SLICES):  # where pods have theirs
        faults.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if found.is_link_local:
        faults.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if found in _MULTICAST[found.version]:
        faults.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


class Endpoints(TableStrategy):
    rows: ClassVar[Rows] = (("subsets[].ports[].protocol", "TCP"),)

    def validate(self, faults: Faults, obj: Object) -> None:
        for index, subset in enumerate(maps(obj.get("subsets"))):
            where = f"subsets[{index}]"
            if not subset.get("addresses") and not subset.get("notReadyAddresses"):
                faults.required(where, "must specify `addresses` or `notReadyAddresses`")
            for group in ("addresses", "notReadyAddresses"):
                for position, entry in enumerate(maps(subset.get(group))):
                    at = f"{where}.{group}[{position}]"
                    address(faults, f"{at}.ip", entry.get("ip"), twice=True)
                    faults.name(f"{at}.hostname", entry.get("hostname"), DNS_LABEL, required=False)
                    faults.name(f"{at}.nodeName", entry.get("nodeName"), DNS_SUBDOMAIN, required=False)
            ports = maps(subset.get("ports"))
            for position, port in enumerate(ports):
                at = f"{where}.ports[{position}]"
                faults.name(f"{at}.name", port.get("name"), DNS_LABEL, required=len(ports) > 1)
                faults.port(f"{at}.port", port.get("port"))
                faults.one_of(f"{at}.protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"))


STRATEGIES = {("", "Service"): Service(), ("", "Endpoints"): Endpoints()}
