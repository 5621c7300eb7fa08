"""Warnings of pod specs that are accepted although they hardly mean what they say: names and ports given twice."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.kube import quantity
from sampan.kube.objects import Object


def pod_spec_advice(spec: Any, path: str) -> list[str]:
    """What to tell a client about the pod spec at `path`."""
    if not isinstance(spec, dict):
        return []
    groups = [(group, maps(spec.get(group))) for group in ("initContainers", "containers")]
    found: list[str] = []
    for group, containers in groups:
        for index, container in enumerate(containers):
            found += _environment(container, f"{path}.{group}[{index}]")
    for group, containers in groups:
        for index, container in enumerate(containers):
            found += broken_bytes(container.get("resources"), f"{path}.{group}[{index}].resources", _BYTES)
    for group, containers in groups:
        found += _ports(containers, f"{path}.{group}")
    return found


_BYTES = ("memory", "ephemeral-storage")


def broken_bytes(resources: Any, path: str, names: tuple[str, ...]) -> list[str]:
    """Amounts of `names` that are no whole number of bytes."""
    found: list[str] = []
    for part in ("limits", "requests"):
        for name in names:
            value = sub(resources, part).get(name)
            try:
                whole = value is None or quantity.parse(str(value)) % 1 == 0
            except ValueError:  # which is refused
                continue
            if not whole:
                shown = quantity.canonical(value)
                found.append(f'{path}.{part}[{name}]: fractional byte value "{shown}" is invalid, must be an integer')
    return found


def _environment(container: Object, path: str) -> list[str]:
    found: list[str] = []
    seen: set[Any] = set()
    for index, variable in enumerate(maps(container.get("env"))):
        name, value = variable.get("name"), str(variable.get("value") or "")
        # a value made from the former one hides nothing
        if name in seen and not (variable.get("valueFrom") is None and f"$({name})" in value):
            found.append(
                f'{path}.env[{index}]: hides previous definition of "{name}", which may be dropped when using apply'
            )
        seen.add(name)
    return found


def _ports(containers: list[Object], path: str) -> list[str]:
    found: list[str] = []
    names: dict[str, str] = {}
    numbers: list[tuple[Object, str]] = []
    for index, container in enumerate(containers):
        own: set[str] = set()
        for position, port in enumerate(maps(container.get("ports"))):
            where, name = f"{path}[{index}].ports[{position}]", port.get("name") or ""
            if name and name in names and name not in own:
                found.append(
                    f'{where}: duplicate port name "{name}" with {names[name]}, services and probes that select ports'
                    f" by name will use {names[name]}"
                )
            elif name:
                names.setdefault(name, where)
                own.add(name)
            for other, at in numbers:
                if _same(port, other):
                    found.append(f"{where}: duplicate port definition with {at}")
                    break
            numbers.append((port, where))
    return found


def _same(port: Object, other: Object) -> bool:
    key = ("containerPort", "protocol", "hostPort", "hostIP")
    return all((port.get(name) or 0) == (other.get(name) or 0) for name in key)
