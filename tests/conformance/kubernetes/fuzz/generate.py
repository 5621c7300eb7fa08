"""Random operations, valid and nearly valid, from a seed. An operation is data: it reads the same on both sides.

What only one side knows is written as a word that the runner replaces: `$UID`, `$VERSION` and `$STALE` are the uid, the
resourceVersion and an earlier one of the object at the operation's path, as that side last saw it.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.kubernetes.fuzz.kinds import KINDS, Object, labels
from tests.conformance.kubernetes.wire import APPLY, JSON, JSON_PATCH, MERGE, STRATEGIC

NAMES = ("a", "b", "c")
GENERATED = "gen-"
MANAGERS = ("m1", "m2", "m3")
STRANGE: tuple[Any, ...] = (None, "", "x", 0, -1, 1, 1.5, True, [], {}, ["x"], {"x": "y"}, "1", "A_b", 2**40)
YAML, TABLE = "application/yaml", "application/json;as=Table;v=v1;g=meta.k8s.io"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass
class Operation:
    """`base`: what an update starts from - the object as this side last read it - before the body is laid over it.

    `pages`: a list is read to its end, page by page.
    """

    method: str
    path: str
    body: Any = None
    content_type: str = JSON
    query: dict[str, str] = field(default_factory=dict)
    base: bool = False
    pages: bool = False
    accept: str = JSON

    def __str__(self) -> str:
        query = "&".join(f"{k}={v}" for k, v in self.query.items())
        return f"{self.method} {self.path}?{query} {self.content_type} {str(self.body)[:1500]}"


def root(kind: str) -> str:
    version, _, _ = kind.rpartition("/")
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = KINDS[kind].namespace
    return f"{prefix}/namespaces/{namespace}/{KINDS[kind].path}" if namespace else f"{prefix}/{KINDS[kind].path}"


def whole(rng: random.Random, kind: str, name: str) -> Object:
    version, _, word = kind.rpartition("/")
    made: Object = {"apiVersion": version, "kind": word, "metadata": {"name": name}, **KINDS[kind].make(rng)}
    metadata = made["metadata"]
    if rng.random() < 0.4:
        metadata["labels"] = labels(rng)
    if rng.random() < 0.2:
        metadata["annotations"] = {"note": rng.choice(["1", "2"])}
    if rng.random() < 0.06:
        metadata["finalizers"] = [rng.choice(["example.com/f", "bad finalizer", "example.com/g"])]
    if rng.random() < 0.05:
        owner: Object = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u1"}
        more: list[Object] = [{}, {"controller": True}, {"blockOwnerDeletion": False}]
        metadata["ownerReferences"] = [{**owner, **rng.choice(more)}]
        if rng.random() < 0.2:
            metadata["ownerReferences"].append({**owner, **rng.choice([{"uid": "u2"}, {"controller": True}, {}])})
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
        parent["unheardOf"] = copy.deepcopy(rng.choice(STRANGE))
    else:
        parent[path[-1]] = copy.deepcopy(rng.choice(STRANGE))
    return made


def repeated(rng: random.Random, obj: Object) -> str:
    """`obj` as text in which one field is named twice."""
    text = json.dumps(obj)
    starts = [place for place, sign in enumerate(text) if sign == "{" and text[place + 1] == '"']
    place = rng.choice(starts) + 1
    name = text[place : text.index('":', place) + 2]
    return f"{text[:place]}{name} {json.dumps(rng.choice(STRANGE[:6]))}, {text[place:]}"


# -- the operations: each makes one of an object of `kind`; what cannot be asked of the kind is None


def create(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    if rng.random() < 0.06:
        obj["metadata"].pop("name", None)
        obj["metadata"]["generateName"] = GENERATED
    return Operation("POST", root(kind), obj, rng.choice([JSON] * 9 + [YAML]))


def create_as_kubectl(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    """What `kubectl apply` does first: the object with itself noted down."""
    _note(obj)
    return Operation("POST", root(kind), obj, query={"fieldManager": "kubectl-client-side-apply"})


def patch_as_kubectl(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    _note(obj)
    form = MERGE if KINDS[kind].custom else STRATEGIC
    return Operation("PATCH", path, obj, form, {"fieldManager": "kubectl-client-side-apply"})


def apply_as_kubectl(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    """`kubectl apply --server-side` over what `kubectl apply` made."""
    if rng.random() < 0.3:
        obj = {key: obj[key] for key in ("apiVersion", "kind", "metadata")}
        _note(obj)
        return Operation("PATCH", path, obj, APPLY, {"fieldManager": "kubectl-last-applied"})
    return Operation("PATCH", path, obj, APPLY, {"fieldManager": "kubectl", **_forced(rng)})


def _note(obj: Object) -> None:
    annotations = obj["metadata"].get("annotations")
    obj["metadata"]["annotations"] = annotations if isinstance(annotations, dict) else {}
    obj["metadata"]["annotations"][LAST_APPLIED] = json.dumps(obj, separators=(",", ":")) + "\n"


def _forced(rng: random.Random) -> dict[str, str]:
    return {"force": "true"} if rng.random() < 0.4 else {}


def update(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    if rng.random() < 0.12:
        obj["metadata"] |= rng.choice(
            [{"resourceVersion": "$VERSION"}, {"resourceVersion": "$STALE"}, {"uid": "$UID"}, {"uid": "none"}]
        )
        return Operation("PUT", path, obj)
    return Operation("PUT", path, obj, rng.choice([JSON] * 9 + [YAML]), base=rng.random() < 0.85)


def merge_patch(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    return Operation("PATCH", path, _partial(rng, obj), MERGE)


def strategic_patch(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    part = _partial(rng, obj)
    if rng.random() < 0.15:
        _direct(rng, part)
    return Operation("PATCH", path, part, STRATEGIC)


def json_patch(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    return Operation("PATCH", path, _json_patch(rng, obj), JSON_PATCH)


def apply(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    return Operation("PATCH", path, obj, APPLY, {"fieldManager": rng.choice(MANAGERS), **_forced(rng)})


def apply_part(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    """What one of several managers has to say of an object: some of its fields; some emptied, some null."""
    part = {key: obj[key] for key in ("apiVersion", "kind", "metadata")} | _reduced(rng, obj, 8)
    return Operation("PATCH", path, part, APPLY, {"fieldManager": rng.choice(MANAGERS), **_forced(rng)})


def update_part(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    """A patch of a few fields by one who applies, too."""
    form = MERGE if KINDS[kind].custom or rng.random() < 0.5 else STRATEGIC
    query = {"fieldManager": rng.choice(MANAGERS)}
    return Operation("PATCH", path, {"metadata": {"labels": labels(rng)}} | _reduced(rng, obj, 6), form, query)


def tell_owners(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    """A patch that says who owns what: in this version and others, of fields that are there and are not."""
    names = [key for key in obj if key not in ("apiVersion", "kind", "metadata")]
    places: list[Object] = [
        {"f:metadata": {"f:labels": {"f:app": {}}}},
        {"f:spec": {".": {}, "f:nope": {}}},
        {},
        {"x:y": {}},
    ]
    places += [{f"f:{name}": {}} for name in names]
    entries: list[Object] = [
        {
            "manager": rng.choice(MANAGERS),
            "operation": rng.choice(
                ["Apply", "Update", "Update", "Odd"] if rng.random() < 0.1 else ["Apply", "Update"]
            ),
            "apiVersion": rng.choice([obj["apiVersion"]] * 8 + ["v9", ""]),
            "fieldsType": "FieldsV1",
            "fieldsV1": rng.choice(places),
            **rng.choice([{}, {}, {"subresource": "status"}]),
        }
        for _ in range(rng.randint(1, 3))
    ]
    entries = rng.choice([entries, entries, entries, [], [{}]])
    return Operation("PATCH", path, {"metadata": {"managedFields": entries, "labels": labels(rng)}}, MERGE)


def _reduced(rng: random.Random, obj: Object, most: int) -> Object:
    """An object without its metadata and up to `most` of its fields; some are emptied or null instead."""
    part = copy.deepcopy({key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")})
    for _ in range(rng.randint(0, most)):
        path = rng.choice(places(part) or [()])
        if not path or path[-1] == "name":
            break
        parent: Any = part
        for key in path[:-1]:
            parent = parent[key]
        present = parent[path[-1]]
        if rng.random() < 0.75:
            del parent[path[-1]]
        else:
            parent[path[-1]] = type(present)() if isinstance(present, (dict, list)) and rng.random() < 0.7 else None
    return part


def subresource(rng: random.Random, kind: str, path: str, obj: Object) -> Operation | None:
    """A write to /status, /scale or /finalize: by any of the verbs, and by managers of their own."""
    if not KINDS[kind].subresources:
        return None
    name = rng.choice(KINDS[kind].subresources)
    base: Object = {key: obj[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": path.rpartition("/")[2]}}
    how = rng.random()
    if name == "finalize":
        finalizers: list[Any] = [["kubernetes"], [], ["kubernetes", "x.io/f"], ["bad f"]]
        return Operation("PUT", f"{path}/finalize", base | {"spec": {"finalizers": rng.choice(finalizers)}})
    if name == "scale":
        spec = {"spec": {"replicas": rng.choice([0, 1, 2, -1, "x"])}}
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": base["metadata"], **spec}
        if how < 0.2:
            return Operation("GET", f"{path}/scale")
        if how < 0.35:
            return Operation("PUT", f"{path}/scale", scale)
        if how < 0.55:
            query = {"fieldManager": rng.choice(MANAGERS), **_forced(rng)}
            return Operation("PATCH", f"{path}/scale", scale, APPLY, query)
        return Operation("PATCH", f"{path}/scale", spec, MERGE)
    status: Object = rng.choice(
        [
            {"observedGeneration": 1}, {"replicas": 1}, {"conditions": []}, {"phase": "Running"}, {"size": 3}, {},
            {"conditions": [{"type": rng.choice(["Ready", "Other"]), "status": "True"}]}, {"ready": True},
        ]
    )  # fmt: skip
    status_path = f"{path}/status"
    if how < 0.15:
        return Operation("PUT", status_path, {**obj, "status": status}, base=rng.random() < 0.8)
    if how < 0.4:
        query = {"fieldManager": rng.choice(MANAGERS), **_forced(rng)}
        return Operation("PATCH", status_path, base | {"status": status}, APPLY, query)
    patch = {"status": status, **rng.choice([{}, {"spec": {}}, {"metadata": {"labels": {"app": "z"}}}])}
    return Operation("PATCH", status_path, patch, STRATEGIC if how < 0.5 else MERGE)


def delete(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    return Operation("DELETE", path, _delete_options(rng))


def delete_collection(rng: random.Random, kind: str, path: str, obj: Object) -> Operation | None:
    if not KINDS[kind].namespace or kind == "v1/ServiceAccount":  # pods need the default one
        return None
    return Operation("DELETE", root(kind), _delete_options(rng), query=dict(rng.choice(SELECTORS)))


def read(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    return Operation("GET", path, accept=rng.choice([JSON, TABLE]))


def read_list(rng: random.Random, kind: str, path: str, obj: Object) -> Operation:
    namespaced = bool(KINDS[kind].namespace)
    chosen = rng.random()
    if chosen < 0.25 and namespaced:
        return Operation("GET", root(kind), query={"limit": rng.choice("12")}, pages=True)
    query = dict(rng.choice(SELECTORS if namespaced else SELECTORS[1:3]))
    return Operation("GET", root(kind), query=query, accept=rng.choice([JSON, JSON, TABLE]) if namespaced else JSON)


SELECTORS: tuple[dict[str, str], ...] = (
    {},
    {"labelSelector": "app=x"},
    {"labelSelector": "app in (x,y),!tier"},
    {"fieldSelector": "metadata.name!=a"},
    {"fieldSelector": "metadata.name=b"},
    {"fieldSelector": "spec.nodeName=x"},
    {"labelSelector": "app in ("},
)

Maker = Callable[[random.Random, str, str, Object], Operation | None]
MIXES: dict[str, tuple[tuple[int, Maker], ...]] = {
    "all": (
        (24, create), (2, create_as_kubectl), (2, patch_as_kubectl), (3, apply_as_kubectl), (12, update),
        (10, merge_patch), (10, strategic_patch), (5, json_patch), (14, apply), (9, subresource), (8, delete),
        (1, delete_collection), (3, read), (4, read_list),
    ),
    "ownership": (
        (12, create), (4, create_as_kubectl), (5, patch_as_kubectl), (12, apply_as_kubectl), (10, update),
        (4, merge_patch), (4, strategic_patch), (2, json_patch), (20, apply), (14, subresource), (4, delete),
        (20, apply_part), (10, update_part), (3, tell_owners),
    ),
}  # fmt: skip
"""What is asked, and how often: of everything, or mostly of who owns what."""


def operation(rng: random.Random, kinds: list[str], mix: str = "all") -> Operation:
    """One operation on one of `kinds`."""
    weights, makers = [weight for weight, _ in MIXES[mix]], [maker for _, maker in MIXES[mix]]
    while True:
        kind, name = rng.choice(kinds), rng.choice(NAMES)
        obj = whole(rng, kind, name)
        if rng.random() < (0.3 if mix == "all" else 0.05) and isinstance(
            (spoilt := spoil(rng, obj)).get("metadata"), dict
        ):
            obj = spoilt
        made = rng.choices(makers, weights)[0](rng, kind, f"{root(kind)}/{name}", obj)
        if made is not None:
            break
    if made.method in ("POST", "PUT", "PATCH"):
        if rng.random() < 0.15:
            made.query["fieldValidation"] = rng.choice(["Strict", "Warn", "Ignore"])
        if isinstance(made.body, dict) and made.body and not made.base and rng.random() < 0.03:
            made.body = repeated(rng, made.body)
        if made.method != "PATCH" and rng.random() < 0.1:
            made.query["fieldManager"] = rng.choice(MANAGERS)
        if rng.random() < 0.04:
            made.query["dryRun"] = "All"
    return made


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
                {"resourceVersion": "$VERSION"},
                {"resourceVersion": "$STALE"},
                {"uid": "$UID"},
                {"managedFields": [{}]},
            ]
        )
    return part


def _direct(rng: random.Random, part: Object) -> None:
    """Add a directive of the strategic merge to one of its maps."""
    maps = [part]
    for path in places(part):
        value: Any = part
        for key in path:
            value = value[key]
        if isinstance(value, dict):
            maps.append(value)
    chosen = rng.choice(maps)
    lists = [key for key, value in chosen.items() if isinstance(value, list) and value]
    if lists and rng.random() < 0.5:
        key = rng.choice(lists)
        order = [{"name": item["name"]} if isinstance(item, dict) and "name" in item else item for item in chosen[key]]
        rng.shuffle(order)
        chosen[f"$setElementOrder/{key}"] = order
    elif rng.random() < 0.3:
        chosen["$retainKeys"] = list(chosen)
    else:
        chosen["$patch"] = rng.choice(["replace", "delete", "merge", "odd"])


def _json_patch(rng: random.Random, obj: Object) -> list[Object]:
    steps: list[Object] = []
    for path in rng.sample(found := places(obj), min(len(found), rng.randint(1, 3))):
        pointer = "/" + "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in path)
        op = rng.choice(["add", "replace", "remove", "test"])
        steps.append(
            {"op": op, "path": pointer, **({} if op == "remove" else {"value": copy.deepcopy(rng.choice(STRANGE))})}
        )
    return steps


def _delete_options(rng: random.Random) -> Object | None:
    options: list[Object | None] = [None, {}, {"gracePeriodSeconds": 0}, {"gracePeriodSeconds": 0}]
    options += [{"propagationPolicy": policy} for policy in ("Background", "Foreground", "Orphan", "Never")]
    options += [{"preconditions": {"uid": uid}} for uid in ("none", "$UID")]
    options += [{"preconditions": {"resourceVersion": version}} for version in ("$VERSION", "$STALE")]
    return rng.choice([*options, {"orphanDependents": True}, {"dryRun": ["All"]}])
