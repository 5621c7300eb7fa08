"""The status of what a load balancer leads to: its addresses and names."""

from __future__ import annotations

import ipaddress
from typing import Any

from sampan.cluster.apiserver.registry.addresses import ip_problem
from sampan.cluster.apiserver.registry.base import lookup
from sampan.cluster.apiserver.registry.faults import DNS_SUBDOMAIN, Faults, maps
from sampan.kube.errors import Cause
from sampan.kube.objects import Object

_PATH = "status.loadBalancer.ingress"
_MODES = ("Proxy", "VIP")


def default_modes(obj: Object) -> None:
    """An address of a load balancer is its own unless it says otherwise."""
    if lookup(obj, "spec.type") == "LoadBalancer":
        for row in maps(lookup(obj, _PATH)):
            if row.get("ip") and row.get("ipMode") is None:
                row["ipMode"] = "VIP"


def status_causes(new: Object, old: Object, *, service: bool) -> list[Cause]:
    """Faults of a status that a write changes; one of a `service` is of a certain type, and tells of modes."""
    rows, before = maps(lookup(new, _PATH)), maps(lookup(old, _PATH))
    if rows == before:
        return []
    faults = Faults()
    if service and rows and lookup(new, "spec.type") != "LoadBalancer":
        faults.forbidden(_PATH, "may only be used when `spec.type` is 'LoadBalancer'")
        return faults.causes
    known = {row.get("ip") for row in before}
    for index, row in enumerate(rows):
        path, address, mode = f"{_PATH}[{index}]", row.get("ip"), row.get("ipMode")
        if address and address not in known and (problem := ip_problem(address)):
            faults.invalid(f"{path}.ip", address, problem)
        if service and mode is not None and not address:
            faults.forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set")
        elif service and mode is not None:
            faults.one_of(f"{path}.ipMode", mode, _MODES, required=None)
        if name := row.get("hostname"):
            faults.name(f"{path}.hostname", name, DNS_SUBDOMAIN)
            if _is_address(name):
                faults.invalid(f"{path}.hostname", name, "must be a DNS name, not an IP address")
    return faults.causes


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
