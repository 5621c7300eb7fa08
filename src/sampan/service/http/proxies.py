"""Which connections come from proxies of ours, and what may be believed of the forwarded headers they bear.

Only a peer that is trusted may say who the client is, and of the addresses it lists the last one that is not itself a
trusted proxy counts: what stands further left was written by the client.
"""

from __future__ import annotations

import functools
import ipaddress
import os
from collections.abc import Iterable
from typing import Final

from sampan.service.bindings import BindingError

# A pod is reached through the proxies of its cluster, and those have private addresses.
PRIVATE: Final = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
    *("::1/128", "fc00::/7", "fe80::/10"),
)
_SCHEMES: Final = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}


class Proxies:
    """A set of networks. ValueError for a text that is neither an address nor a network."""

    def __init__(self, networks: Iterable[str]) -> None:
        self.networks = tuple(ipaddress.ip_network(text, strict=False) for text in networks)
        self.trusts = functools.lru_cache(maxsize=1024)(self._trusts)

    def _trusts(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in self.networks)

    def client(self, forwarded_for: str) -> tuple[str, int] | None:
        """The client that `x-forwarded-for` tells of, None when the header holds no address."""
        last: tuple[str, int] | None = None
        for text in reversed(forwarded_for.split(",")):
            address = _address(text.strip())
            if address is None:
                return last
            last = address
            if not self.trusts(address[0]):
                return address
        return last


def _address(text: str) -> tuple[str, int] | None:
    """An address, alone or with a port: 192.0.2.1, 192.0.2.1:80, [2001:db8::1]:80."""
    host, port = text, "0"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "0"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return str(ipaddress.ip_address(host)), int(port) if port.isdigit() and len(port) < 6 else 0
    except ValueError:
        return None


def scheme(forwarded_proto: bytes) -> str | None:
    return _SCHEMES.get(forwarded_proto.strip().lower())


def from_environment() -> Proxies:
    """FORWARDED_ALLOW_IPS: addresses and networks, "*" for all; without it private networks. BindingError."""
    text = os.environ.get("FORWARDED_ALLOW_IPS", "")
    if text.strip() == "*":
        return Proxies(("0.0.0.0/0", "::/0"))
    try:
        return Proxies([part.strip() for part in text.split(",") if part.strip()] or PRIVATE)
    except ValueError as error:
        raise BindingError(f"FORWARDED_ALLOW_IPS={text}: {error}") from error
