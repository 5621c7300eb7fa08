"""Allocation of cluster IPs and node ports.

Nothing is kept here: what is taken is read from the stored services every time, so that a restart needs no repair and
deleting a service releases what it held.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Iterable

from sampan.cluster.apiserver.registry.faults import Faults, maps, sub
from sampan.kube.objects import Object

NODE_PORTS = range(30000, 32768)
DEFAULT_CIDR = "127.64.128.0/17"


class Exhausted(Exception):
    """Every address or port of the range is taken."""


class ClusterIPs:
    """Addresses of one IPv4 range, without its first (the network) and last (broadcast)."""

    def __init__(self, cidr: str = DEFAULT_CIDR) -> None:
        self.network = ipaddress.IPv4Network(cidr)

    def problem(self, text: str, taken: set[str]) -> str | None:
        """Why `text` cannot be handed out, None when it can."""
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            return f"failed to allocate IP {text}: the provided IP is not a valid IPv4 address"
        if address not in self.network:
            return f"failed to allocate IP {text}: the provided network does not match the current range"
        if address in (self.network.network_address, self.network.broadcast_address):
            return (
                f"failed to allocate IP {text}: the provided IP ({text}) is not in the valid range."
                f" The range of valid IPs is {self.network}"
            )
        return f"failed to allocate IP {text}: provided IP is already allocated" if text in taken else None

    def allocate(self, key: str, taken: set[str]) -> str:
        """A free address. It depends on `key`, so that a service made again tends to get the address it had."""
        base, size = int(self.network.network_address), self.network.num_addresses - 2
        start = zlib.crc32(key.encode()) % size
        for step in range(size):
            address = str(ipaddress.IPv4Address(base + 1 + (start + step) % size))
            if address not in taken:
                return address
        raise Exhausted(f"range {self.network} is full")


def allocate_port(key: str, taken: set[int]) -> int:
    """A free node port, depending on `key`."""
    start = zlib.crc32(key.encode()) % len(NODE_PORTS)
    for step in range(len(NODE_PORTS)):
        port = NODE_PORTS[(start + step) % len(NODE_PORTS)]
        if port not in taken:
            return port
    raise Exhausted("range is full")


def taken_ips(services: Iterable[Object]) -> set[str]:
    found: set[str] = set()
    for service in services:
        spec = sub(service, "spec")
        found.update(ip for ip in [spec.get("clusterIP"), *(spec.get("clusterIPs") or ())] if ip and ip != "None")
    return found


def taken_ports(services: Iterable[Object]) -> set[int]:
    return {
        port["nodePort"]
        for service in services
        for port in maps(sub(service, "spec").get("ports"))
        if port.get("nodePort")
    }


def check_port(faults: Faults, path: str, port: int, taken: set[int]) -> None:
    if port not in NODE_PORTS:
        faults.invalid(path, port, "provided port is not in the valid range. The range of valid ports is 30000-32767")
    elif port in taken:
        faults.invalid(path, port, "provided port is already allocated")
