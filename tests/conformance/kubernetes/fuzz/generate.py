"""Random operations, valid and nearly valid, from a seed. An operation is data: it reads the same on both sides."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.kubernetes.fuzz.kinds import KINDS, NAMESPACE, Object, labels
from tests.conformance.kubernetes.wire import APPLY, JSON, JSON_PATCH, MERGE, STRATEGIC

NAMES = ("a", "b", "c")
MANAGERS = ("m1", "m2", "m3")
STRANGE: tuple[Any, ...] = (None, "", "x", 0, -1, 1, 1.5, True, [], {}, ["x"], {"x": "y"}, "1", "A_b", 2**40)


@dataclass
class Operation:
    """`base`: what an update starts from - the object as this side last read it - before `edit` is applied."""

    method: str
    path: str
    body: Any = None
    content_type: str = JSON
    query: dict[str, str] = field(default_factory=dict)
    base: bool = False

    def __str__(self) -> str:
        query = "&".join(f"{k}={v}" for k, v in self.query.items())
        return f"{self.method} {self.path}?{query} {self.content_type} {str(self.body)[:1500]}"


def root(kind: str) -> str:
    version = kind.rpartition("/")[0]
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{prefix}/namespaces/{NAMESPACE}/{KINDS[kind].path}"


def whole(rng: random.Random, kind: str, name: str) -> Object:
    made = {
        "apiVersion": kind.rpartition("/")[0],
        "kind": kind.rpartition("/")[2],
        "metadata": {"name": name},
        **KINDS[kind].make(rng),
    }
    if rng.random() < 0.4:
        made["metadata"]["labels"] = labels(rng)
    if rng.random() < 0.2:
        made["metadata"]["annotations"] = {"note": rng.choice(["1", "2"])}
    if rng.random() < 0.06:
        made["metadata"]["finalizers"] = [rng.choice(["example.com/f", "bad finalizer", "example.com/g"])]
    if rng.random() < 0.05:
        made["metadata"]["ownerReferences"] = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": "o",
                "uid": "u1",
                **rng.choice([{}, {"controller": True}]),
            }
        ]
    return made


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path below the top of `value`."""
    found: list[tuple[Any, ...]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found.append((*path, key))
        found += places(child, (*path, key))
    return found


def spoil(rng: random.Random, obj: Object) -> Object:
    """`obj` with one place changed: removed, doubled, or given a strange value."""
    made = copy.deepcopy(obj)
    paths = [path for path in places(made) if path[0] not in ("apiVersion", "kind") and path != ("metadata", "name")]
    if not paths:
        return made
    path = rng.choice(paths)
    parent: Any = made
    for key in path[:-1]:
        parent = parent[key]
    how = rng.random()
    if how < 0.35 and isinstance(parent, dict):
        del parent[path[-1]]
    elif how < 0.45 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[path[-1]]))
    elif how < 0.55 and isinstance(parent, dict):
        parent["unheardOf"] = rng.choice(STRANGE)
    else:
        parent[path[-1]] = rng.choice(STRANGE)
    return made


def operation(rng: random.Random) -> Operation:
    kind = rng.choice(list(KINDS))
    fuzzed, name = KINDS[kind], rng.choice(NAMES)
    path = f"{root(kind)}/{name}"
    obj = whole(rng, kind, name)
    if rng.random() < 0.3:
        obj = spoil(rng, obj)
    query: dict[str, str] = {}
    if rng.random() < 0.15:
        query["fieldValidation"] = rng.choice(["Strict", "Warn", "Ignore"])
    if rng.random() < 0.04:
        query["dryRun"] = "All"
    choice = rng.random()
    if choice < 0.26:
        return Operation("POST", root(kind), obj, JSON, query)
    if choice < 0.38:
        return Operation("PUT", path, obj, JSON, query, base=rng.random() < 0.8)
    if choice < 0.48:
        return Operation("PATCH", path, _partial(rng, obj), MERGE, query)
    if choice < 0.58:
        return Operation("PATCH", path, _partial(rng, obj), STRATEGIC, query)
    if choice < 0.63:
        return Operation("PATCH", path, _json_patch(rng, obj), JSON_PATCH, query)
    if choice < 0.78:
        manager = {"fieldManager": rng.choice(MANAGERS), **({"force": "true"} if rng.random() < 0.4 else {})}
        return Operation("PATCH", path, obj, APPLY, {**query, **manager})
    if choice < 0.84 and fuzzed.subresources:
        return _subresource(rng, kind, path, obj, query)
    if choice < 0.93:
        return Operation("DELETE", path, _delete_options(rng), JSON, {})
    if choice < 0.97:
        return Operation("GET", path)
    selector = rng.choice(
        [
            {},
            {"labelSelector": "app=x"},
            {"labelSelector": "app in (x,y),!tier"},
            {"fieldSelector": "metadata.name!=a"},
            {"limit": "1"},
        ]
    )
    return Operation("GET", root(kind), query=dict(selector))


def _partial(rng: random.Random, obj: Object) -> Object:
    """Part of an object as a patch; some values become null."""
    part = copy.deepcopy({key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")})
    for path in rng.sample(found := places(part), min(len(found), rng.randint(0, 4))):
        parent: Any = part
        try:
            for key in path[:-1]:
                parent = parent[key]
            if isinstance(parent, dict) and path[-1] in parent:
                if rng.random() < 0.6:
                    del parent[path[-1]]
                else:
                    parent[path[-1]] = None
        except (KeyError, IndexError, TypeError):
            continue
    if rng.random() < 0.3:
        part["metadata"] = rng.choice(
            [
                {"labels": labels(rng)},
                {"labels": None},
                {"annotations": {"note": None}},
                {"finalizers": None},
                {"labels": {"app": None}},
            ]
        )
    return part


def _json_patch(rng: random.Random, obj: Object) -> list[Object]:
    steps: list[Object] = []
    for path in rng.sample(found := places(obj), min(len(found), rng.randint(1, 3))):
        pointer = "/" + "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in path)
        op = rng.choice(["add", "replace", "remove", "test"])
        steps.append({"op": op, "path": pointer, **({} if op == "remove" else {"value": rng.choice(STRANGE)})})
    return steps


def _subresource(rng: random.Random, kind: str, path: str, obj: Object, query: dict[str, str]) -> Operation:
    name = rng.choice(KINDS[kind].subresources)
    if name == "scale":
        return Operation("PATCH", f"{path}/scale", {"spec": {"replicas": rng.choice([0, 1, 2, -1, "x"])}}, MERGE, query)
    status = rng.choice(
        [{"observedGeneration": 1}, {"replicas": 1}, {"conditions": []}, {"phase": "Running"}, {"size": 3}, {}]
    )
    patch = {"status": status, **rng.choice([{}, {"spec": {}}, {"metadata": {"labels": {"app": "z"}}}])}
    return Operation("PATCH", f"{path}/status", patch, MERGE, query)


def _delete_options(rng: random.Random) -> Object | None:
    options: list[Object | None] = [None, {}, {"gracePeriodSeconds": 0}, {"gracePeriodSeconds": 0}]
    options += [{"propagationPolicy": policy} for policy in ("Background", "Foreground", "Orphan", "Never")]
    return rng.choice([*options, {"preconditions": {"uid": "none"}}, {"dryRun": ["All"]}])
