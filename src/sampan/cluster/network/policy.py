"""NetworkPolicies -> what each pod may be reached by and may reach (networking.k8s.io/v1, "Network Policies"). Pure.

A pod that no policy of a direction selects is not in the result: everything is allowed to it. Policies add up. Pods
selected as peers are named by their present addresses, so the result is good until a pod, a label or a policy changes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from sampan.kube import selectors
from sampan.kube.objects import Object, namespace_of

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_ALL_PORTS = (0, 65535)


class Pod(Struct, frozen=True):
    """A pod with an address of its own."""

    ip: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[tuple[int, str], int] = {}  # (protocol, name) -> number


class Block(Struct, frozen=True):
    cidr: str
    excepted: tuple[str, ...] = ()


class Ports(Struct, frozen=True, order=True):
    protocol: int
    first: int
    last: int


class Allow(Struct, frozen=True):
    """Traffic with these peers, on these ports. `addresses` None: with everybody; `ports` None: on every port."""

    addresses: frozenset[str] | None
    blocks: tuple[Block, ...] = ()
    ports: tuple[Ports, ...] | None = None

    def peer(self, ip: str) -> bool:
        return self.addresses is None or ip in self.addresses or any(_within(ip, block) for block in self.blocks)

    def port(self, protocol: int, number: int) -> bool:
        return self.ports is None or any(p.protocol == protocol and p.first <= number <= p.last for p in self.ports)


Allowed = tuple[Allow, ...]


class Isolation(Struct, frozen=True):
    """The isolated pods, by what they are allowed: allowances -> addresses of the pods that have exactly these."""

    ingress: dict[Allowed, frozenset[str]]
    egress: dict[Allowed, frozenset[str]]


def pod_of(obj: Object, ip: str) -> Pod:
    ports = {
        (PROTOCOLS.get(port.get("protocol") or "TCP", 0), port["name"]): int(port["containerPort"])
        for container in obj["spec"].get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("name")
    }
    return Pod(ip, namespace_of(obj) or "", obj["metadata"].get("labels") or {}, ports)


def isolate(policies: Iterable[Object], namespaces: Mapping[str, Mapping[str, str]], pods: Iterable[Pod]) -> Isolation:
    """`namespaces`: name -> labels."""
    everybody = list(pods)
    found: dict[str, dict[str, dict[Allow, None]]] = {"Ingress": {}, "Egress": {}}
    for policy in policies:
        spec, home = policy["spec"], namespace_of(policy) or ""
        chosen = selectors.from_label_selector(spec.get("podSelector") or {})
        selected = [pod for pod in everybody if pod.namespace == home and chosen.matches(pod.labels)]
        types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
        for direction, rows, peers in (("Ingress", "ingress", "from"), ("Egress", "egress", "to")):
            if direction not in types or not selected:
                continue
            for pod in selected:
                found[direction].setdefault(pod.ip, {})
            for rule in spec.get(rows) or ():
                others, blocks = _peers(rule.get(peers), home, namespaces, everybody)
                if direction == "Egress":
                    allows = _towards(others, blocks, rule.get("ports"), everybody)
                    for pod in selected:
                        found[direction][pod.ip].update(dict.fromkeys(allows))
                    continue
                addresses = None if others is None else frozenset(other.ip for other in others)
                for pod in selected:
                    ports = _ports(rule.get("ports"), pod)
                    if ports is None or ports:
                        found[direction][pod.ip][Allow(addresses, blocks, ports)] = None
    return Isolation(_grouped(found["Ingress"]), _grouped(found["Egress"]))


def may(isolation: Isolation, source: str, target: str, protocol: int, port: int) -> bool:
    """Whether `source` reaches `target` (addresses)."""
    for direction, subject, peer in ((isolation.egress, source, target), (isolation.ingress, target, source)):
        for allowed, members in direction.items():
            if subject in members and not permits(allowed, peer, protocol, port):
                return False
    return True


def permits(allowed: Allowed, peer: str, protocol: int, port: int) -> bool:
    return any(allow.port(protocol, port) and allow.peer(peer) for allow in allowed)


def _grouped(found: dict[str, dict[Allow, None]]) -> dict[Allowed, frozenset[str]]:
    groups: dict[Allowed, set[str]] = {}
    for ip, allows in found.items():
        groups.setdefault(tuple(allows), set()).add(ip)
    return {allowed: frozenset(members) for allowed, members in groups.items()}


def _peers(
    entries: list[Any] | None, home: str, namespaces: Mapping[str, Mapping[str, str]], everybody: list[Pod]
) -> tuple[list[Pod] | None, tuple[Block, ...]]:
    """The pods meant, None for everybody; and the blocks of addresses."""
    if not entries:
        return None, ()
    pods: dict[str, Pod] = {}
    blocks = []
    for entry in entries:
        if block := entry.get("ipBlock"):
            blocks.append(Block(block["cidr"], tuple(block.get("except") or ())))
            continue
        inside = _namespace_test(entry.get("namespaceSelector"), home, namespaces)
        chosen = selectors.from_label_selector(entry.get("podSelector") or {})
        pods |= {pod.ip: pod for pod in everybody if inside(pod.namespace) and chosen.matches(pod.labels)}
    return list(pods.values()), tuple(blocks)


def _namespace_test(
    selector: Object | None, home: str, namespaces: Mapping[str, Mapping[str, str]]
) -> Callable[[str], bool]:
    if selector is None:
        return lambda name: name == home
    wanted = selectors.from_label_selector(selector)
    return lambda name: wanted.matches(namespaces.get(name) or {"kubernetes.io/metadata.name": name})


def _ports(entries: list[Any] | None, pod: Pod | None) -> tuple[Ports, ...] | None:
    """Ports of `pod`, whose names they may use; None for all. Names that it does not have are nothing."""
    if not entries:
        return None
    found = set()
    for entry in entries:
        protocol = PROTOCOLS.get(entry.get("protocol") or "TCP", 0)
        port = entry.get("port")
        if port is None:
            found.add(Ports(protocol, *_ALL_PORTS))
        elif isinstance(port, int):
            found.add(Ports(protocol, port, int(entry.get("endPort") or port)))
        elif pod is not None and (number := pod.ports.get((protocol, port))) is not None:
            found.add(Ports(protocol, number, number))
    return tuple(sorted(found))


def _towards(
    others: list[Pod] | None, blocks: tuple[Block, ...], entries: list[Any] | None, everybody: list[Pod]
) -> list[Allow]:
    """Allowances of an egress rule: a named port means another number at each pod that has it."""
    addresses = None if others is None else frozenset(other.ip for other in others)
    numbered = [entry for entry in entries or () if not isinstance(entry.get("port"), str)]
    named = [entry for entry in entries or () if isinstance(entry.get("port"), str)]
    found = []
    if not entries or numbered:
        found.append(Allow(addresses, blocks, _ports(numbered, None) if entries else None))
    by_ports: dict[tuple[Ports, ...], set[str]] = {}
    for other in everybody if others is None else others:
        if named and (ports := _ports(named, other)):
            by_ports.setdefault(ports, set()).add(other.ip)
    found += [Allow(frozenset(members), (), ports) for ports, members in by_ports.items()]
    return found


def _within(ip: str, block: Block) -> bool:
    address = ipaddress.ip_address(ip)
    inside = [address in ipaddress.ip_network(cidr, strict=False) for cidr in (block.cidr, *block.excepted)]
    return inside[0] and not any(inside[1:])
