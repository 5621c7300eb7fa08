"""Warnings of pod specs that are accepted although they hardly mean what they say: what is given twice, or is old."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.kube import names, quantity
from sampan.kube.objects import Object


def pod_spec_advice(spec: Any, path: str) -> list[str]:
    """What to tell a client about the pod spec at `path`."""
    if not isinstance(spec, dict):
        return []
    found = _places(spec, path) + _volumes(spec, path) + _repeated(spec, path)
    found += broken_bytes({"overhead": spec.get("overhead")}, path, _BYTES, ("overhead",))
    groups = [(group, maps(spec.get(group))) for group in ("initContainers", "containers")]
    for group, containers in groups:
        for index, container in enumerate(containers):
            found += _environment(container, f"{path}.{group}[{index}]")
    for group, containers in groups:
        for index, container in enumerate(containers):
            found += broken_bytes(container.get("resources"), f"{path}.{group}[{index}].resources", _BYTES)
    found += _ports(_visited(groups, path))
    if isinstance(grace := spec.get("terminationGracePeriodSeconds"), int) and grace < 0:
        place = f"{path}.terminationGracePeriodSeconds"
        found.append(f"{place}: must be >= 0; negative values are invalid and will be treated as 1")
    return found


_BYTES = ("memory", "ephemeral-storage")


_LABELS = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
    "app.kubernetes.io/created-by": "deprecated since v1.9",
    "scheduler.alpha.kubernetes.io/preferAvoidPods": "deprecated since v1.22; use Taints and Tolerations instead",
    "node-role.kubernetes.io/master": 'use "node-role.kubernetes.io/control-plane" instead',
}
_OLD_VOLUMES = {
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "gitRepo": "deprecated in v1.11, and disabled by default in v1.33+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
}
_NO_POD = "a null labelSelector results in matching no pod"


def node_term_advice(term: Object, path: str, *, valued: bool = False) -> list[str]:
    """What to tell of a term that chooses nodes; `valued`: of values that no label can have, too."""
    found: list[str] = []
    for index, expression in enumerate(maps(term.get("matchExpressions"))):
        where, key = f"{path}.matchExpressions[{index}]", expression.get("key")
        if key in _LABELS:
            found.append(f"{where}.key: {key} is {_LABELS[key]}")
        for position, value in enumerate(expression.get("values") or () if valued else ()):
            faults = names.label_value(value)
            found += [f"{where}.values[{position}]: {value} is invalid, {fault}" for fault in faults]
    return found


def label_advice(keys: Iterable[Any], path: str) -> list[str]:
    """What to tell of labels of nodes that are old."""
    return [f"{path}: {_LABELS[key]}" for key in keys if key in _LABELS]


def _places(spec: Object, path: str) -> list[str]:
    """Where a pod may run: labels of nodes that are old, terms that match no pod."""
    found = [f"{path}.nodeSelector[{key}]: {_LABELS[key]}" for key in sub(spec, "nodeSelector") if key in _LABELS]
    nodes, where = sub(spec, "affinity", "nodeAffinity"), f"{path}.affinity.nodeAffinity"
    name = "requiredDuringSchedulingIgnoredDuringExecution"
    for index, term in enumerate(maps(sub(nodes, name).get("nodeSelectorTerms"))):
        found += node_term_advice(term, f"{where}.{name}.nodeSelectorTerms[{index}]")
    name = "preferredDuringSchedulingIgnoredDuringExecution"
    for index, wish in enumerate(maps(nodes.get(name))):
        found += node_term_advice(sub(wish, "preference"), f"{where}.{name}[{index}].preference", valued=True)
    for index, constraint in enumerate(maps(spec.get("topologySpreadConstraints"))):
        where, key = f"{path}.topologySpreadConstraints[{index}]", constraint.get("topologyKey")
        if key in _LABELS:
            found.append(f"{where}.topologyKey: {key} is {_LABELS[key]}")
        if constraint.get("labelSelector") is None:
            found.append(f"{where}.labelSelector: {_NO_POD}")
    for kind in ("podAffinity", "podAntiAffinity"):
        affinity, where = sub(spec, "affinity", kind), f"{path}.affinity.{kind}"
        needed = maps(affinity.get(name := "requiredDuringSchedulingIgnoredDuringExecution"))
        places = [f"{where}.{name}[{i}]" for i, term in enumerate(needed) if term.get("labelSelector") is None]
        wished = maps(affinity.get(name := "preferredDuringSchedulingIgnoredDuringExecution"))
        terms = [sub(weighted, "podAffinityTerm") for weighted in wished]
        places += [
            f"{where}.{name}[{i}].podAffinityTerm" for i, t in enumerate(terms) if t.get("labelSelector") is None
        ]
        found += [f"{place}.labelSelector: {_NO_POD}" for place in places]
    return found


def name_advice(new: Object, old: Object | None, whose: str = "Pod names and hostnames") -> list[str]:
    """What to tell of the name of a new object that becomes part of others."""
    faults = names.dns1123_label(str(new["metadata"].get("name") or "")) if old is None else []
    surprise = f"this is used in {whose}, which can result in surprising behavior; a DNS label is recommended"
    return [f"metadata.name: {surprise}: [{' '.join(faults)}]"] if faults else []


def claim_advice(spec: Object, path: str) -> list[str]:
    """What to tell of the spec of a claim."""
    return broken_bytes(spec.get("resources"), f"{path}.resources", ("storage",))


def _volumes(spec: Object, path: str) -> list[str]:
    claims = [
        advice
        for index, volume in enumerate(maps(spec.get("volumes")))
        for advice in claim_advice(
            sub(volume, "ephemeral", "volumeClaimTemplate", "spec"),
            f"{path}.volumes[{index}].ephemeral.volumeClaimTemplate.spec",
        )
    ]
    return claims + [
        f"{path}.volumes[{index}].{source}: {said}"
        for index, volume in enumerate(maps(spec.get("volumes")))
        for source, said in _OLD_VOLUMES.items()
        if volume.get(source) is not None
    ]


def _repeated(spec: Object, path: str) -> list[str]:
    """Addresses of hosts and names of secrets that are given twice, or are empty."""
    found: list[str] = []
    for field, name, noun in (("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")):
        values = [item.get(name) or "" for item in maps(spec.get(field))]
        found += [
            f'{path}.{field}[{index}].{name}: duplicate {noun} "{value}"'
            for index, value in enumerate(values)
            if value in values[:index]
        ]
        if field == "imagePullSecrets":
            found += [
                f'{path}.{field}[{index}].{name}: invalid empty name ""'
                for index, value in enumerate(values)
                if not value
            ]
    return found


def broken_bytes(
    resources: Any, path: str, kinds: tuple[str, ...], parts: tuple[str, ...] = ("limits", "requests")
) -> list[str]:
    """Amounts of `kinds` that are no whole number of bytes."""
    found: list[str] = []
    for part in parts:
        for name in kinds:
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


def _visited(groups: list[tuple[str, list[Object]]], path: str) -> list[tuple[str, Object]]:
    """(place, port) of all containers."""
    return [
        (f"{path}.{group}[{index}].ports[{position}]", port)
        for group, containers in groups
        for index, container in enumerate(containers)
        for position, port in enumerate(maps(container.get("ports")))
    ]


def _ports(ports: list[tuple[str, Object]]) -> list[str]:
    found: list[str] = []
    for number, (where, port) in enumerate(ports):
        if port.get("hostIP") and not port.get("hostPort"):
            found.append(f"{where}: hostIP set without hostPort: {_go(port)}")
        for at, other in ports[:number]:
            if fault := _conflict(port, other):
                found.append(f"{where}: {fault} port definition with {at}")
    names: dict[str, str] = {}
    for where, port in ports:
        name = port.get("name") or ""
        if name in names:
            first = names[name]
            found.append(
                f'{where}: duplicate port name "{name}" with {first}, services and probes that select ports by name'
                f" will use {first}"
            )
        elif name:
            names[name] = where
    return found


def _conflict(port: Object, other: Object) -> str:
    """How two ports of a pod get into each other's way; empty where they do not."""
    if any((port.get(key) or 0) != (other.get(key) or 0) for key in ("containerPort", "protocol")):
        return ""
    numbers = [one.get("hostPort") or 0 for one in (port, other)]
    addresses = [one.get("hostIP") or "" for one in (port, other)]
    if len({*numbers}) == len({*addresses}) == 1:
        return "duplicate"
    if 0 in numbers:
        return "overlapping"
    return "dangerously ambiguous" if len({*numbers}) == 1 and "" in addresses else ""


def _go(port: Object) -> str:
    rows = (("Name", "name", ""), ("HostPort", "hostPort", 0), ("ContainerPort", "containerPort", 0),
            ("Protocol", "protocol", ""), ("HostIP", "hostIP", ""))  # fmt: skip
    return "{" + " ".join(f"{go}:{port.get(name) or zero}" for go, name, zero in rows) + "}"
