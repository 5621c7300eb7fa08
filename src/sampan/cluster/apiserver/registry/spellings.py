"""Warnings of addresses that are not written as they should be."""

from __future__ import annotations

import ipaddress
from typing import Any


def address(path: str, text: Any) -> list[str]:
    """What to tell of an IP address that is not written as it should be."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        plain = _plain_v4(text)
        return [f'{path}: non-standard IP address "{text}" is invalid: use "{plain}"'] if plain else []
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return [f'{path}: non-standard IP address "{text}" is invalid: use "{parsed.ipv4_mapped}"']
        if str(parsed) != text:
            return [f'{path}: IPv6 address "{text}" should be in RFC 5952 canonical format ("{parsed}")']
    return []


def network(path: str, text: Any) -> list[str]:
    """As `address`, of a CIDR."""
    base, _, length = str(text).partition("/")
    plain = _plain_v4(base)
    try:
        found = ipaddress.ip_interface(f"{plain or base}/{int(length)}")
    except ValueError:
        return []
    told = []
    if found.ip != found.network.network_address:
        alone = f"{found.ip}/{found.max_prefixlen}"
        told.append(
            f'{path}: CIDR value "{text}" is ambiguous in this context (should be "{found.network}" or "{alone}"?)'
        )
    if plain or length != str(int(length)):
        told.append(f'{path}: non-standard CIDR value "{text}" is invalid: use "{found.network}"')
    if not told and found.version == 6 and str(found) != text:
        told.append(f'{path}: IPv6 CIDR value "{text}" should be in RFC 5952 canonical format ("{found}")')
    return told


def _plain_v4(text: Any) -> str:
    """An IPv4 address written with leading zeros, without them; empty for what is none."""
    parts = str(text).split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        return ""
    plain = ".".join(str(int(part)) for part in parts)
    return plain if plain != text else ""
