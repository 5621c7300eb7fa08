"""Kubernetes' own functions: lists, strings, patterns, URLs, quantities, addresses, formats, semver, sets."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from decimal import Decimal
from ipaddress import ip_address, ip_interface
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sampan.cluster.apiserver.cel.values import (
    CIDR,
    IP,
    EvaluationFault,
    Format,
    Optional,
    Quantity,
    Semver,
    Url,
    equal,
    is_number,
)
from sampan.kube import names, quantity

Rows = dict[str, Callable[..., Any]]


def _possible(read: Callable[..., Any]) -> Callable[..., bool]:
    def check(*values: Any) -> bool:
        try:
            read(*values)
        except ValueError:
            return False
        return True

    return check


# -- lists and strings


def _sum(items: list[Any]) -> Any:
    return sum(items[1:], items[0]) if items else 0


def _extreme(choose: Callable[..., Any], word: str) -> Callable[[list[Any]], Any]:
    def run(items: list[Any]) -> Any:
        if not items:
            raise EvaluationFault(f"{word} called on empty list")
        return choose(items)

    return run


def _index(items: list[Any], item: Any) -> int:
    return next((index for index, present in enumerate(items) if equal(present, item)), -1)


def _last_index(items: list[Any], item: Any) -> int:
    return next((index for index in range(len(items) - 1, -1, -1) if equal(items[index], item)), -1)


def _distinct(items: list[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if not any(equal(item, present) for present in found):
            found.append(item)
    return found


def _flatten(items: list[Any], depth: int = 1) -> list[Any]:
    found: list[Any] = []
    for item in items:
        found += _flatten(item, depth - 1) if isinstance(item, list) and depth else [item]
    return found


def _slice(text: Any, start: int, end: int) -> Any:
    if not 0 <= start <= end <= len(text):
        raise EvaluationFault(f"index out of range: {end if 0 <= start <= len(text) else start}")
    return text[start:end]


def _char_at(text: str, index: int) -> str:
    return str(_slice(text, index, min(index + 1, len(text))))


_VERBS = re.compile(r"%(?:\.(\d+))?([sdfebxXo%])")


def _format(template: str, values: list[Any]) -> str:
    given = iter(values)

    def one(match: re.Match[str]) -> str:
        places, verb = match.groups()
        if verb == "%":
            return "%"
        try:
            value = next(given)
        except StopIteration:
            raise EvaluationFault("index out of range") from None
        if verb == "s":
            return _shown(value)
        if verb in "fe":
            return f"{float(value):.{places or 6}{verb}}"
        if not is_number(value) and verb == "d":
            raise EvaluationFault("decimal clause can only be used on integers")
        return format(value.encode().hex() if isinstance(value, str) else value, "" if isinstance(value, str) else verb)

    return _VERBS.sub(one, template)


def _shown(value: Any) -> str:
    from sampan.cluster.apiserver.cel.library import _string

    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_shown(k)}: {_shown(v)}' for k, v in sorted(value.items()))}}}"
    return "null" if value is None else _string(value)


def _find(text: str, expression: str) -> str:
    from sampan.cluster.apiserver.cel.library import pattern

    match = pattern(expression).search(text)
    return match[0] if match else ""


def _find_all(text: str, expression: str, limit: int = -1) -> list[str]:
    from sampan.cluster.apiserver.cel.library import pattern

    found = [match[0] for match in pattern(expression).finditer(text)]
    return found if limit < 0 else found[:limit]


LISTS: Rows = {
    ".isSorted(list(A)) -> bool": lambda v: all(a <= b for a, b in pairwise(v)),
    ".min(list(A)) -> A": _extreme(min, "min"), ".max(list(A)) -> A": _extreme(max, "max"),
    ".sum(list(A)) -> A": _sum, ".indexOf(list(A), A) -> int": _index, ".lastIndexOf(list(A), A) -> int": _last_index,
    ".distinct(list(A)) -> list(A)": _distinct, ".reverse(list(A)) -> list(A)": lambda v: v[::-1],
    ".sort(list(A)) -> list(A)": sorted, ".slice(list(A), int, int) -> list(A)": _slice,
    ".flatten(list(A)) -> list(dyn)": _flatten, ".flatten(list(A), int) -> list(dyn)": _flatten,
    "sets.contains(list(A), list(A)) -> bool": lambda a, b: all(_index(a, x) >= 0 for x in b),
    "sets.intersects(list(A), list(A)) -> bool": lambda a, b: any(_index(a, x) >= 0 for x in b),
    "sets.equivalent(list(A), list(A)) -> bool": lambda a, b: all(_index(a, x) >= 0 for x in b)
    and all(_index(b, x) >= 0 for x in a),
}  # fmt: skip
STRINGS: Rows = {
    ".find(string, string) -> string": _find, ".findAll(string, string) -> list(string)": _find_all,
    ".findAll(string, string, int) -> list(string)": _find_all, ".charAt(string, int) -> string": _char_at,
    ".indexOf(string, string) -> int": str.find, ".indexOf(string, string, int) -> int": str.find,
    ".lastIndexOf(string, string) -> int": str.rfind, ".lowerAscii(string) -> string": str.lower,
    ".upperAscii(string) -> string": str.upper, ".trim(string) -> string": str.strip,
    ".replace(string, string, string) -> string": str.replace,
    ".replace(string, string, string, int) -> string": str.replace,
    ".split(string, string) -> list(string)": lambda s, by: s.split(by) if by else list(s),
    ".split(string, string, int) -> list(string)": lambda s, by, n: s.split(by, n - 1 if n > 0 else -1) if n else [],
    ".join(list(string)) -> string": "".join, ".join(list(string), string) -> string": lambda v, by: by.join(v),
    ".substring(string, int) -> string": lambda s, a: _slice(s, a, len(s)),
    ".substring(string, int, int) -> string": _slice, ".format(string, list(dyn)) -> string": _format,
    "strings.quote(string) -> string": lambda s: '"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"',
    "base64.encode(bytes) -> string": lambda b: base64.b64encode(b).decode(),
    "base64.decode(string) -> bytes": base64.b64decode,
    "math.greatest(list(A)) -> A": max, "math.least(list(A)) -> A": min,
    "math.greatest(A, A) -> A": max, "math.least(A, A) -> A": min, "math.abs(int) -> int": abs,
    "math.abs(double) -> double": abs,
}  # fmt: skip


# -- URLs


def _url(text: str) -> Url:
    parts = urlsplit(text)
    if not (parts.scheme or text.startswith("/")) or any(char in text for char in " \t\n"):
        raise ValueError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
    return Url(parts)


def _url_host(url: Url) -> str:
    return url.parts.netloc.rpartition("@")[2]


URLS: Rows = {
    "url(string) -> kubernetes.URL": _url, "isURL(string) -> bool": _possible(_url),
    ".getScheme(kubernetes.URL) -> string": lambda u: u.parts.scheme, ".getHost(kubernetes.URL) -> string": _url_host,
    ".getHostname(kubernetes.URL) -> string": lambda u: u.parts.hostname or "",
    ".getPort(kubernetes.URL) -> string": lambda u: str(u.parts.port or ""),
    ".getEscapedPath(kubernetes.URL) -> string": lambda u: u.parts.path,
    ".getQuery(kubernetes.URL) -> map(string, list(string))": lambda u: parse_qs(u.parts.query, keep_blank_values=True),
}  # fmt: skip


# -- quantities


def _quantity(text: str) -> Quantity:
    return Quantity(quantity.parse(text))


def _amount(other: Any) -> Decimal:
    return other.value if isinstance(other, Quantity) else Decimal(other)


def _whole(value: Quantity) -> int:
    if value.value != value.value.to_integral_value():
        raise EvaluationFault("cannot convert value to integer")
    return int(value.value)


_Q = "kubernetes.Quantity"
QUANTITIES: Rows = {
    f"quantity(string) -> {_Q}": _quantity, "isQuantity(string) -> bool": _possible(_quantity),
    f".isInteger({_Q}) -> bool": lambda q: q.value == q.value.to_integral_value(),
    f".asInteger({_Q}) -> int": _whole, f".asApproximateFloat({_Q}) -> double": lambda q: float(q.value),
    f".sign({_Q}) -> int": lambda q: (q.value > 0) - (q.value < 0),
    f".isGreaterThan({_Q}, {_Q}) -> bool": lambda a, b: a.value > b.value,
    f".isLessThan({_Q}, {_Q}) -> bool": lambda a, b: a.value < b.value,
    f".compareTo({_Q}, {_Q}) -> int": lambda a, b: (a.value > b.value) - (a.value < b.value),
}  # fmt: skip
for _other in (_Q, "int"):
    QUANTITIES[f".add({_Q}, {_other}) -> {_Q}"] = lambda a, b: Quantity(a.value + _amount(b))
    QUANTITIES[f".sub({_Q}, {_other}) -> {_Q}"] = lambda a, b: Quantity(a.value - _amount(b))


# -- addresses


def _ip(text: str) -> IP:
    if "%" in text or text.startswith("::ffff:"):
        raise ValueError(f'IP Address "{text}" is not allowed')
    return IP(ip_address(text))


def _cidr(text: str) -> CIDR:
    if "/" not in text:
        raise ValueError(f'network address parse error during conversion from string: netip.ParsePrefix("{text}")')
    found = ip_interface(text)
    return CIDR(found.network, found.ip)


def _as_ip(value: Any) -> IP:
    return value if isinstance(value, IP) else _ip(value)


def _as_cidr(value: Any) -> CIDR:
    return value if isinstance(value, CIDR) else _cidr(value)


def _within(outer: CIDR, inner: CIDR) -> bool:
    a, b = outer.network, inner.network
    return a.version == b.version and b.prefixlen >= a.prefixlen and b.network_address in a


def _is_global(ip: IP) -> bool:
    address = ip.address
    return not (address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified)


ADDRESSES: Rows = {
    "ip(string) -> net.IP": _ip, "isIP(string) -> bool": _possible(_ip), "cidr(string) -> net.CIDR": _cidr,
    "isCIDR(string) -> bool": _possible(_cidr), "ip.isCanonical(string) -> bool": lambda s: str(_ip(s).address) == s,
    ".family(net.IP) -> int": lambda i: i.address.version,
    ".isUnspecified(net.IP) -> bool": lambda i: i.address.is_unspecified,
    ".isLoopback(net.IP) -> bool": lambda i: i.address.is_loopback,
    ".isLinkLocalMulticast(net.IP) -> bool": lambda i: str(i.address).startswith(("224.0.0.", "ff02:")),
    ".isLinkLocalUnicast(net.IP) -> bool": lambda i: i.address.is_link_local,
    ".isGlobalUnicast(net.IP) -> bool": _is_global,
    ".ip(net.CIDR) -> net.IP": lambda c: IP(c.address), ".prefixLength(net.CIDR) -> int": lambda c: c.network.prefixlen,
    ".masked(net.CIDR) -> net.CIDR": lambda c: CIDR(c.network, c.network.network_address),
}  # fmt: skip
for _other in ("net.IP", "string"):
    ADDRESSES[f".containsIP(net.CIDR, {_other}) -> bool"] = lambda c, i: _as_ip(i).address in c.network
for _other in ("net.CIDR", "string"):
    ADDRESSES[f".containsCIDR(net.CIDR, {_other}) -> bool"] = lambda c, i: _within(c, _as_cidr(i))


# -- semver

_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


def _semver(text: str, lenient: bool = False) -> Semver:
    if lenient:
        text = text.strip().removeprefix("v")
        numbers, dash, rest = text.partition("-")
        text = ".".join([*numbers.split("."), "0", "0"][:3]) + dash + rest
    match = _SEMVER.fullmatch(text)
    if match is None:
        raise ValueError(f"No Major.Minor.Patch elements found: {text}")
    pre = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in (match[4] or "").split(".") if p)
    return Semver((int(match[1]), int(match[2]), int(match[3])), pre, text)


_S = "kubernetes.Semver"
SEMVER: Rows = {
    f"semver(string) -> {_S}": _semver, f"semver(string, bool) -> {_S}": _semver,
    "isSemver(string) -> bool": _possible(_semver), "isSemver(string, bool) -> bool": _possible(_semver),
    f".major({_S}) -> int": lambda v: v.release[0], f".minor({_S}) -> int": lambda v: v.release[1],
    f".patch({_S}) -> int": lambda v: v.release[2],
    f".isGreaterThan({_S}, {_S}) -> bool": lambda a, b: a.order > b.order,
    f".isLessThan({_S}, {_S}) -> bool": lambda a, b: a.order < b.order,
    f".compareTo({_S}, {_S}) -> int": lambda a, b: (a.order > b.order) - (a.order < b.order),
}  # fmt: skip


# -- formats


def _formats() -> dict[str, Callable[[str], list[str]]]:
    from sampan.kube.validation import FORMATS

    def checked(kind: str, message: str) -> Callable[[str], list[str]]:
        def check(text: str) -> list[str]:
            try:
                return [] if FORMATS[kind](text) else [message]
            except ValueError:
                return [message]

        return check

    return {
        "dns1123Label": names.dns1123_label, "dns1123Subdomain": names.dns1123_subdomain,
        "dns1035Label": names.dns1035_label,
        "qualifiedName": names.qualified_name, "labelValue": names.label_value,
        "uri": checked("uri", "invalid URI"), "uuid": checked("uuid", "does not match the UUID format"),
        "byte": checked("byte", "invalid base64"), "date": checked("date", "invalid date"),
        "datetime": checked("date-time", "invalid datetime"),
    }  # fmt: skip


def _validated(named: Format, text: str) -> Optional:
    faults = _formats()[named.name](text)
    return Optional(True, faults) if faults else Optional(False)


_F = "kubernetes.NamedFormat"
_NAMES = (
    "dns1123Label", "dns1123Subdomain", "dns1035Label", "qualifiedName", "labelValue", "uri", "uuid", "byte", "date",
    "datetime",
)  # fmt: skip
FORMAT: Rows = {f"format.{name}() -> {_F}": lambda name=name: Format(name) for name in _NAMES}
FORMAT |= {
    f"format.named(string) -> optional_type({_F})": lambda name: Optional(name in _NAMES, Format(name)),
    f".validate({_F}, string) -> optional_type(list(string))": _validated,
}


PATCHES: Rows = {"jsonpatch.escapeKey(string) -> string": lambda key: key.replace("~", "~0").replace("/", "~1")}


def register_all(register: Callable[[Rows], None]) -> None:
    for rows in (LISTS, STRINGS, URLS, QUANTITIES, ADDRESSES, SEMVER, FORMAT, PATCHES):
        register(rows)
