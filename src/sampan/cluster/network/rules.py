"""Isolation -> a rule set of the router. Pure.

One chain sees every packet of a pod before any address is rewritten:

    it belongs to a connection        passes: a policy decides about new connections
    to a Service                      refused if a pod behind it could not be reached from there, else passes
    to anything else                  refused unless the sender may (egress) and the receiver may (ingress)

What does not come from a pod (kubelet, Ingress, this machine) is the node's, and passes, as in most clusters.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator

from msgspec import Struct

from sampan.cluster.network import nftables
from sampan.cluster.network.nftables import ACCEPT, AT_LEAST, AT_MOST, EQUAL, NOT_EQUAL, PREROUTING, RETURN, Batch
from sampan.cluster.network.policy import Allow, Allowed, Isolation, Ports, permits
from sampan.cluster.network.router import BASE, DNS_PORT

TABLE = BASE
_PRIORITY = -150  # after connections are known (-200), before destinations are rewritten (-100)
_SOURCE, _DESTINATION = 12, 16  # where a header has these addresses


class Service(Struct, frozen=True):
    """A port of a Service at its addresses, and the pods behind it."""

    addresses: tuple[str, ...]
    port: int
    backends: tuple[tuple[str, int], ...]
    protocol: int = 6


def compile_rules(number: int, isolation: Isolation, pods: frozenset[str], services: Iterable[Service]) -> Batch:
    """The whole rule set of the cluster whose slice is `number`; `pods` are the addresses in use."""
    batch = Batch()
    batch.replace_table(TABLE)
    batch.chain(TABLE, "services")
    batch.chain(TABLE, "pods", kind="filter", hook=PREROUTING, priority=_PRIORITY)
    router = socket.inet_aton(f"10.{number}.0.1")
    ours = socket.inet_aton(f"10.{number}.0.0")[:2]
    batch.rule(TABLE, "pods", nftables.belongs_to_a_connection(), nftables.verdict(ACCEPT))
    batch.rule(TABLE, "pods", _load(_SOURCE, 2), nftables.compare(NOT_EQUAL, ours), nftables.verdict(ACCEPT))
    for protocol in (6, 17):  # names are part of the network
        names = [_load(_DESTINATION, 4), nftables.compare(EQUAL, router), *_port(Ports(protocol, DNS_PORT, DNS_PORT))]
        batch.rule(TABLE, "pods", *names, nftables.verdict(ACCEPT))
    for low, high in ((f"127.{number}.0.2", f"127.{number}.0.254"), (f"127.{number}.128.0", f"127.{number}.255.255")):
        inside = [
            _load(_DESTINATION, 4),
            nftables.compare(AT_LEAST, socket.inet_aton(low)),
            nftables.compare(AT_MOST, socket.inet_aton(high)),
        ]
        batch.rule(TABLE, "pods", *inside, nftables.jump("services"))
    _services(batch, isolation, pods, services)
    batch.rule(TABLE, "services", nftables.verdict(ACCEPT))
    for direction, own, other, groups in (
        ("egress", _SOURCE, _DESTINATION, isolation.egress),
        ("ingress", _DESTINATION, _SOURCE, isolation.ingress),
    ):
        for index, (allowed, members) in enumerate(groups.items()):
            name = f"{direction}-{index}"
            batch.chain(TABLE, name)
            _allowances(batch, name, other, allowed)
            _refuse(batch, name)
            batch.addresses(TABLE, name, members)
            batch.rule(TABLE, "pods", _load(own, 4), nftables.in_set(name), nftables.jump(name))
    return batch


def _services(batch: Batch, isolation: Isolation, pods: frozenset[str], services: Iterable[Service]) -> None:
    for index, service in enumerate(services):
        refused = refused_sources(isolation, pods, service)
        if not refused:
            continue
        name = f"service-{index}"
        batch.addresses(TABLE, name, refused)
        for address in service.addresses:
            at = [_load(_DESTINATION, 4), nftables.compare(EQUAL, socket.inet_aton(address))]
            at += _port(Ports(service.protocol, service.port, service.port))
            _refuse(batch, "services", *at, _load(_SOURCE, 4), nftables.in_set(name))


def _refuse(batch: Batch, chain: str, *when: bytes) -> None:
    for refusal in nftables.refusals():
        batch.rule(TABLE, chain, *when, refusal)


def refused_sources(isolation: Isolation, pods: frozenset[str], service: Service) -> frozenset[str]:
    """The pods for which at least one pod behind the Service is out of reach. Envoy may choose any, and keeps its
    connections to them, so who may not reach one may not reach the Service."""
    refused: set[str] = set()
    for ip, port in service.backends:
        for allowed, members in isolation.egress.items():
            if not permits(allowed, ip, service.protocol, port):
                refused |= members
        for allowed, members in isolation.ingress.items():
            if ip in members:
                refused |= pods - _senders(allowed, pods, service.protocol, port)
    return frozenset(refused)


def _senders(allowed: Allowed, pods: frozenset[str], protocol: int, port: int) -> frozenset[str]:
    found: set[str] = set()
    for allow in allowed:
        if allow.port(protocol, port):
            if allow.addresses is None:
                return pods
            found |= allow.addresses
            if allow.blocks:
                found |= {ip for ip in pods if allow.peer(ip)}
    return frozenset(found)


def _allowances(batch: Batch, chain: str, other: int, allowed: Allowed) -> None:
    for index, allow in enumerate(allowed):
        if allow.addresses:
            batch.addresses(TABLE, f"{chain}-{index}", allow.addresses)
        for peer in _peers(allow, f"{chain}-{index}", other):
            for ports in [None] if allow.ports is None else allow.ports:
                batch.rule(TABLE, chain, *peer, *(_port(ports) if ports else ()), nftables.verdict(RETURN))


def _peers(allow: Allow, name: str, other: int) -> Iterator[list[bytes]]:
    if allow.addresses is None:
        yield []
        return
    if allow.addresses:
        yield [_load(other, 4), nftables.in_set(name)]
    for block in allow.blocks:
        network = ipaddress.ip_network(block.cidr, strict=False)
        if network.version == 4:
            yield [
                *_network(other, block.cidr, EQUAL),
                *(part for cidr in block.excepted for part in _network(other, cidr, NOT_EQUAL)),
            ]


def _network(offset: int, cidr: str, how: int) -> list[bytes]:
    network = ipaddress.ip_network(cidr, strict=False)
    return [
        _load(offset, 4),
        nftables.mask(network.netmask.packed),
        nftables.compare(how, network.network_address.packed),
    ]


def _load(offset: int, length: int) -> bytes:
    return nftables.load(1, offset, length)


def _port(ports: Ports) -> list[bytes]:
    parts = [nftables.protocol(ports.protocol)]
    if (ports.first, ports.last) != (0, 65535):
        parts.append(nftables.load(2, 2, 2))
        if ports.first == ports.last:
            parts.append(nftables.compare(EQUAL, struct.pack("!H", ports.first)))
        else:
            parts.append(nftables.compare(AT_LEAST, struct.pack("!H", ports.first)))
            parts.append(nftables.compare(AT_MOST, struct.pack("!H", ports.last)))
    return parts
