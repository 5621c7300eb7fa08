"""Netlink, as much as pods need (rtnetlink(7)): attributes, requests with their answers, links, addresses, routes."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

ROUTE, NETFILTER = 0, 12
_REQUEST, _ACK, _CREATE, _EXCLUSIVE = 1, 4, 0x400, 0x200
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE = 16, 17, 20, 21, 24
_NESTED = 0x8000
_UP = 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_IFLA_ADDRESS_FAMILIES, _IFLA_NAME, _IFLA_INFO, _IFLA_NET_NS_FD, _IFLA_MTU = 26, 3, 18, 28, 4
# devconf numbers of ip-sysctl's settings
FORWARDING, RP_FILTER, ROUTE_LOCALNET = 1, 8, 26


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """A 32-bit integer of the host's byte order (rtnetlink)."""
    return attribute(kind, struct.pack("=I", value))


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


class Netlink:
    """A netlink socket of the network namespace in which it was made, whoever holds it."""

    def __init__(self, protocol: int, fd: int | None = None) -> None:
        self.socket = (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            if fd is None
            else socket.socket(fileno=fd)
        )
        self.socket.settimeout(10)
        self._sequence = 0

    def close(self) -> None:
        self.socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0, what: str = "netlink") -> None:
        """One request, confirmed. Raises OSError with what the kernel refused."""
        self._sequence += 1
        self.socket.send(message(kind, _REQUEST | _ACK | flags, self._sequence, body))
        self.confirm(self._sequence, {self._sequence: what})

    def confirm(self, last: int, what: dict[int, str]) -> None:
        """Read until the sequence number `last` is answered. Raises OSError for the first refusal of any of `what`."""
        failure: OSError | None = None
        first = min(what)  # where this one is refused, so is all that follows, without a word of its own
        done = False
        while not done:
            data = self.socket.recv(1 << 16)
            while len(data) >= _HEADER.size:
                length, kind, _, sequence, _ = _HEADER.unpack_from(data)
                if kind == 2 and sequence in what:  # NLMSG_ERROR; 0 is a confirmation
                    error = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    if error and failure is None:
                        failure = OSError(error, f"{what[sequence]}: {os.strerror(error)}")
                    done = done or sequence == last or (error != 0 and sequence == first)
                data = data[(length + 3) & ~3 :]
        if failure is not None:
            raise failure


def link(name: str = "", index: int = 0, *, up: bool = False, attributes: Iterable[bytes] = ()) -> bytes:
    """Body of a link request."""
    header = struct.pack("=BxHiII", 0, 0, index, _UP if up else 0, _UP if up else 0)
    return header + (text(_IFLA_NAME, name) if name else b"") + b"".join(attributes)


def add_veth(route: Netlink, name: str, peer: str, peer_namespace: int, mtu: int) -> None:
    """A pair of links: `name` here, `peer` in the namespace of the descriptor."""
    size = number(_IFLA_MTU, mtu)
    other = link(peer, attributes=[size, number(_IFLA_NET_NS_FD, peer_namespace)])
    info = nested(_IFLA_INFO, attribute(1, b"veth"), nested(2, attribute(1, other)))
    route.request(_NEWLINK, link(name, attributes=[size, info]), _CREATE | _EXCLUSIVE, f"veth {peer}")


def set_up(route: Netlink, index: int, settings: dict[int, int] | None = None) -> None:
    """Set the link up, with settings of net.ipv4.conf (devconf number -> value)."""
    families = b""
    if settings:
        values = b"".join(number(key, value) for key, value in settings.items())
        families = nested(_IFLA_ADDRESS_FAMILIES, nested(socket.AF_INET, nested(1, values)))
    route.request(_NEWLINK, link(index=index, up=True, attributes=[families]), 0, "link up")


def delete_link(route: Netlink, name: str) -> None:
    route.request(_DELLINK, link(name), 0, f"delete {name}")


def add_address(route: Netlink, index: int, address: str, prefix: int) -> None:
    route.request(_NEWADDR, _address(index, address, prefix), _CREATE | _EXCLUSIVE, f"address {address}")


def delete_address(route: Netlink, index: int, address: str, prefix: int) -> None:
    route.request(_DELADDR, _address(index, address, prefix), 0, f"delete address {address}")


def _address(index: int, address: str, prefix: int) -> bytes:
    raw = socket.inet_aton(address)
    scope = 254 if raw[0] == 127 else 0  # of the host alone, or universal
    return struct.pack("=BBBBI", socket.AF_INET, prefix, 0, scope, index) + attribute(2, raw) + attribute(1, raw)


def add_route(route: Netlink, index: int, destination: str, prefix: int, gateway: str = "") -> None:
    """To `destination` through the link; by way of `gateway`, which need not be in its subnet."""
    scope, flags = (0, 4) if gateway else (253, 0)  # universe and on-link, or link
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, 254, 4, scope, 1, flags)
    body += attribute(1, socket.inet_aton(destination)) if prefix else b""
    body += attribute(5, socket.inet_aton(gateway)) if gateway else b""
    route.request(_NEWROUTE, body + number(4, index), _CREATE, f"route {destination}/{prefix}")
