"""Values that JSON does not have, equality between all of them, and the fault of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from urllib.parse import SplitResult


class EvaluationFault(Exception):
    """An expression that has no value; the message is what the API tells."""


class UInt(int):
    """An unsigned integer: a type of its own in CEL."""


class SetList(list[Any]):
    """A list of `x-kubernetes-list-type: set`: its order does not matter to equality."""


class MapList(list[Any]):
    """A list of `x-kubernetes-list-type: map`, compared by its keys."""

    keys: tuple[str, ...] = ()


class Structure(dict[str, Any]):
    """An object written out, such as `Object.spec{replicas: 1}`; `name` is that of its type."""

    name: str = ""


@dataclass(frozen=True)
class Optional:
    present: bool
    value: Any = None


@dataclass(frozen=True)
class Quantity:
    value: Decimal


@dataclass(frozen=True)
class Url:
    parts: SplitResult


@dataclass(frozen=True)
class IP:
    address: IPv4Address | IPv6Address


@dataclass(frozen=True)
class CIDR:
    network: IPv4Network | IPv6Network
    address: IPv4Address | IPv6Address


@dataclass(frozen=True)
class Semver:
    release: tuple[int, int, int]
    pre: tuple[tuple[int, int, str], ...]
    text: str

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.release, not self.pre, self.pre)


@dataclass(frozen=True)
class Format:
    name: str


_NAMES: dict[type, str] = {
    bool: "bool", int: "int", UInt: "uint", float: "double", str: "string", bytes: "bytes", type(None): "null_type",
    list: "list", SetList: "list", MapList: "list", dict: "map", datetime: "google.protobuf.Timestamp",
    timedelta: "google.protobuf.Duration", Optional: "optional_type", Quantity: "kubernetes.Quantity",
    Url: "kubernetes.URL", IP: "net.IP", CIDR: "net.CIDR", Semver: "kubernetes.Semver",
}  # fmt: skip


def type_name(value: Any) -> str:
    return _NAMES.get(type(value), "map")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(one: Any, other: Any) -> bool:
    """Equality of CEL: numbers by value, nothing else across types."""
    if is_number(one) and is_number(other):
        return bool(one == other)
    if isinstance(one, list) and isinstance(other, list):
        return _equal_lists(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, Optional) and isinstance(other, Optional):
        return one.present == other.present and equal(one.value, other.value)
    return type(one) is type(other) and bool(one == other)


def _equal_lists(one: list[Any], other: list[Any]) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, SetList | MapList):
        return all(any(equal(item, present) for present in other) for item in one)
    return all(equal(a, b) for a, b in zip(one, other, strict=True))
