"""Sums of quantities that keep the form they are written in, and what a pod asks for in all. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from msgspec import Struct

from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.kube import quantity
from sampan.kube.objects import Object

POD_LEVEL = ("cpu", "memory")
"""Resources that `spec.resources` of a pod may state for all its containers."""


class Amount(Struct, frozen=True):
    """A quantity: its value, and whether it is shown with binary suffixes."""

    value: Decimal
    binary: bool = False

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.value + other.value, self.binary if self.value else other.binary)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.value - other.value, self.binary if self.value else other.binary)

    def __str__(self) -> str:
        return quantity.format_decimal(self.value, binary=self.binary)


Amounts = dict[str, Amount]
ZERO, ONE = Amount(Decimal(0)), Amount(Decimal(1))


def read(texts: Any) -> Amounts:
    """A map of quantities; what is no quantity is left to validation."""
    found: Amounts = {}
    for name, text in (texts if isinstance(texts, Mapping) else {}).items():
        try:
            found[name] = Amount(quantity.parse(str(text)), str(text).endswith("i"))
        except ValueError:
            continue
    return found


def add(left: Amounts, right: Amounts) -> Amounts:
    result = dict(left)
    for name, amount in right.items():
        result[name] = result[name] + amount if name in result else amount
    return result


def subtract(left: Amounts, right: Amounts) -> Amounts:
    result = dict(left)
    for name, amount in right.items():
        result[name] = result.get(name, ZERO) - amount
    return result


def larger(left: Amounts, right: Amounts) -> Amounts:
    result = dict(left)
    for name, amount in right.items():
        if name not in result or amount.value > result[name].value:
            result[name] = amount
    return result


def shown(amounts: Mapping[str, Amount], names: Iterable[str]) -> str:
    return ",".join(f"{name}={amounts.get(name, ZERO)}" for name in sorted(names))


def of_pod(spec: Object, what: str, *, overhead: bool = False) -> Amounts:
    """What a pod's containers ask for together; `what` is "requests" or "limits".

    Init containers run before the others, one after the other, beside the sidecars started before them.
    """
    total: Amounts = {}
    for container in maps(spec.get("containers")):
        total = add(total, read(sub(container, "resources").get(what)))
    sidecars: Amounts = {}
    highest: Amounts = {}
    for container in maps(spec.get("initContainers")):
        own = read(sub(container, "resources").get(what))
        if container.get("restartPolicy") == "Always":
            total, sidecars = add(total, own), add(sidecars, own)
            own = sidecars
        else:
            own = add(own, sidecars)
        highest = larger(highest, own)
    total = larger(total, highest)
    total |= {name: one for name, one in read(sub(spec, "resources").get(what)).items() if name in POD_LEVEL}
    if overhead:
        extra = read(spec.get("overhead"))
        total = add(total, extra if what == "requests" else {k: v for k, v in extra.items() if k in total})
    return total
