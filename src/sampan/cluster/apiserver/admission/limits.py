"""LimitRange: defaults for containers at creation, and bounds of containers, pods and claims.

Upstream's plugin LimitRanger: pods at creation and on `resize`, claims on every change.
"""

from __future__ import annotations

from collections.abc import Iterator

from sampan.cluster.apiserver.admission.amounts import ZERO, Amount, Amounts, of_pod, read
from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.kube.objects import Object

ANNOTATION = "kubernetes.io/limit-ranger"
_GROUPS = (("containers", "container"), ("initContainers", "init container"))


def applies(kind: str, subresource: str | None, *, create: bool) -> bool:
    """Whether a write of this core kind is bounded."""
    if kind == "Pod":
        return (create and subresource is None) or subresource == "resize"
    return kind == "PersistentVolumeClaim" and subresource is None


def apply_defaults(ranges: list[Object], pod: Object) -> None:
    """Fill in what containers leave out, and say so in an annotation; the last range that does is named."""
    for limit_range in ranges:
        limits: Object = {}
        requests: Object = {}
        for item in maps(sub(limit_range, "spec").get("limits")):
            if item.get("type") == "Container":
                limits |= item.get("default") or {}
                requests |= item.get("defaultRequest") or {}
        notes: list[str] = []
        for group, word in _GROUPS:
            for container in maps(sub(pod, "spec").get(group)):
                notes += _fill(container, limits, requests, word)
        if notes:
            metadata = pod["metadata"]
            annotations = {**(metadata.get("annotations") or {})}
            metadata["annotations"] = {**annotations, ANNOTATION: f"LimitRanger plugin set: {'; '.join(notes)}"}


def _fill(container: Object, limits: Object, requests: Object, word: str) -> list[str]:
    resources = container.get("resources")
    if not isinstance(resources, dict):
        resources = container["resources"] = {}
    notes = []
    for field, defaults, noun in (("requests", requests, "request"), ("limits", limits, "limit")):
        present = resources.get(field) or {}
        missing = {name: value for name, value in defaults.items() if name not in present}
        if missing:
            resources[field] = {**present, **missing}
            notes.append(f"{', '.join(sorted(missing))} {noun} for {word} {container.get('name')}")
    return notes


def faults(ranges: list[Object], kind: str, obj: Object) -> Iterator[list[str]]:
    """What is out of bounds, range by range; the first range with any refuses the write."""
    for limit_range in ranges:
        found: list[str] = []
        for item in maps(sub(limit_range, "spec").get("limits")):
            found += _claim(item, obj) if kind == "PersistentVolumeClaim" else _pod(item, sub(obj, "spec"))
        if found:
            yield list(dict.fromkeys(found))


def _pod(item: Object, spec: Object) -> list[str]:
    kind = item.get("type")
    asked: list[tuple[Amounts, Amounts]] = []
    if kind == "Container":
        for group, _ in _GROUPS:
            for container in maps(spec.get(group)):
                resources = sub(container, "resources")
                asked.append((read(resources.get("requests")), read(resources.get("limits"))))
    elif kind == "Pod":
        asked.append((of_pod(spec, "requests"), of_pod(spec, "limits")))
    found = []
    for requests, limits in asked:
        for check, field in ((_least, "min"), (_most, "max"), (_ratio, "maxLimitRequestRatio")):
            for name, bound in sorted(read(item.get(field)).items()):
                found.append(check(str(kind), name, bound, requests, limits))
    return [text for text in found if text]


def _claim(item: Object, claim: Object) -> list[str]:
    if item.get("type") != "PersistentVolumeClaim":
        return []
    requests = read(sub(claim, "spec", "resources").get("requests"))
    found = [_least(item["type"], name, one, requests, {}) for name, one in sorted(read(item.get("min")).items())]
    for name, bound in sorted(read(item.get("max")).items()):
        begin, request = f"maximum {name} usage per {item['type']} is {bound}", requests.get(name)
        if request is None:
            found.append(f"{begin}.  No request is specified")
        elif request.value > bound.value:
            found.append(f"{begin}, but request is {request}")
    return [text for text in found if text]


def _least(kind: str, name: str, bound: Amount, requests: Amounts, limits: Amounts) -> str:
    begin = f"minimum {name} usage per {kind} is {bound}"
    request, limit = requests.get(name), limits.get(name)
    if request is None:
        return f"{begin}.  No request is specified"
    if request.value < bound.value:
        return f"{begin}, but request is {request}"
    return f"{begin}, but limit is {limit}" if limit is not None and limit.value < bound.value else ""


def _most(kind: str, name: str, bound: Amount, requests: Amounts, limits: Amounts) -> str:
    begin = f"maximum {name} usage per {kind} is {bound}"
    request, limit = requests.get(name), limits.get(name)
    if limit is None:
        return f"{begin}.  No limit is specified"
    if limit.value > bound.value:
        return f"{begin}, but limit is {limit}"
    return f"{begin}, but request is {request}" if request is not None and request.value > bound.value else ""


def _ratio(kind: str, name: str, bound: Amount, requests: Amounts, limits: Amounts) -> str:
    begin = f"{name} max limit to request ratio per {kind} is {bound}"
    request, limit = requests.get(name, ZERO).value, limits.get(name, ZERO).value
    if not request:
        return f"{begin}, but no request is specified or request is 0"
    if not limit:
        return f"{begin}, but no limit is specified or limit is 0"
    return f"{begin}, but provided ratio is {float(limit / request):f}" if limit / request > bound.value else ""
