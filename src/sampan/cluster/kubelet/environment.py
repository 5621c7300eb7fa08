"""A container's environment: env, envFrom, the downward API, `$(VAR)`."""

from __future__ import annotations

import math
import os
import re
from typing import Any

from sampan.cluster.kubelet.source import ConfigError, Source
from sampan.kube.objects import Object
from sampan.kube.quantity import parse as parse_quantity

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_INDEXED = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def expand(text: str, values: dict[str, str]) -> str:
    """`$(NAME)` becomes its value, `$$` a dollar; an unknown name stays as written."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return values.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


async def build(pod: Object, container: Object, source: Source, base: dict[str, str]) -> dict[str, str]:
    """The environment in the order the API defines: `base`, envFrom, env. Raises ConfigError."""
    namespace = pod["metadata"]["namespace"]
    values = dict(base)
    for entry in container.get("envFrom") or ():
        prefix = entry.get("prefix") or ""
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if reference := entry.get(field):
                found = await source.data(kind, namespace, reference["name"], bool(reference.get("optional")))
                values |= {prefix + key: data.decode(errors="replace") for key, data in (found or {}).items()}
    for entry in container.get("env") or ():
        value = await _value(pod, container, entry, source, values)
        if value is not None:
            values[entry["name"]] = value
    return values


async def _value(
    pod: Object, container: Object, entry: dict[str, Any], source: Source, known: dict[str, str]
) -> str | None:
    origin = entry.get("valueFrom")
    if not origin:
        return expand(entry.get("value") or "", known)
    if reference := origin.get("fieldRef"):
        return field_value(pod, reference["fieldPath"])
    if reference := origin.get("resourceFieldRef"):
        return resource_value(pod, reference, container)
    for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if reference := origin.get(field):
            optional = bool(reference.get("optional"))
            data = await source.data(kind, pod["metadata"]["namespace"], reference["name"], optional)
            if data is None:
                return None
            if reference["key"] not in data:
                if optional:
                    return None
                raise ConfigError(f"couldn't find key {reference['key']} in {kind} {reference['name']}")
            return data[reference["key"]].decode(errors="replace")
    return None


def field_value(pod: Object, path: str) -> str:
    """The value of a downward API `fieldPath`; the whole map, one `key="value"` a line, for labels and annotations."""
    if match := _INDEXED.fullmatch(path):
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    node: Any = pod
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if path == "status.podIPs":
        return ",".join(entry["ip"] for entry in node or ())
    if isinstance(node, dict):
        return "\n".join(f'{key}="{_escape(value)}"' for key, value in sorted(node.items()))
    return "" if node is None else str(node)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(pod: Object, reference: dict[str, Any], container: Object | None) -> str:
    """The value of a `resourceFieldRef`: limits without one are the machine's capacity."""
    if name := reference.get("containerName"):
        container = next((c for c in pod["spec"]["containers"] if c["name"] == name), container)
    side, _, resource = reference["resource"].partition(".")
    amounts = ((container or {}).get("resources") or {}).get(side) or {}
    if resource in amounts:
        amount = parse_quantity(amounts[resource])
    elif side == "limits":
        capacity = {"cpu": str(os.cpu_count() or 1), "memory": str(total_memory())}
        amount = parse_quantity(capacity.get(resource, "0"))
    else:
        amount = parse_quantity("0")
    divisor = parse_quantity(str(reference.get("divisor") or "1"))
    return str(math.ceil(amount / (divisor or 1)))


def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
