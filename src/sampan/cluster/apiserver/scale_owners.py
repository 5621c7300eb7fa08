"""Who owns the number of an object's `Scale`: its owners seen from the Scale, and those of the Scale seen from it.

A Scale is tracked as an object of its own kind. Of its owners only those of its number come to own something of the
object; an owner of that number who is not one of the Scale's any more loses it. As upstream, an update of the object
itself is told from the same one seen by way of the Scale: a manager can then have two entries, and the later counts.
"""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.kind import Kind, ScalePaths
from sampan.kube.patch import fields as sets
from sampan.kube.patch import managed_fields as managed
from sampan.kube.patch.fields import Fields, Path
from sampan.kube.patch.managed_fields import UPDATE, Entry, Manager, Managers

SCALE_VERSION = "autoscaling/v1"
NUMBER: Path = ("f:spec", "f:replicas")
BUILT_IN_VERSIONS = ("v1", "v1beta1", "v1beta2")

Entries = list[dict[str, Any]]


def of_scale(kind: Kind, entries: Entries | None) -> Entries:
    """The entries of the Scale of an object with these."""
    paths = _paths(kind)
    found: Managers = {}
    for manager, entry in managed.load(entries).items():
        path = paths.get(entry.api_version)
        if path is not None and sets.contains(entry.fields, path):
            found[_in(manager, SCALE_VERSION)] = Entry(_only(NUMBER), entry.time, SCALE_VERSION)
    return managed.dump(found)


def of_object(kind: Kind, entries: Entries | None, scale: Entries | None) -> Entries:
    """The entries of an object with these, now that its Scale has `scale`."""
    paths, version = _paths(kind), kind.resource.api_version
    left = managed.load(scale)
    found: Managers = {}
    for manager, entry in managed.load(entries).items():
        if entry.api_version not in paths:
            continue
        path = paths[entry.api_version]
        if path is None or not sets.contains(entry.fields, path) or left.pop(manager, None) is not None:
            found[manager] = entry
        elif rest := sets.difference(entry.fields, _only(path)):
            found[manager] = Entry(rest, entry.time, entry.api_version)
    path = paths[version]
    assert path is not None
    for manager, entry in left.items():
        if sets.contains(entry.fields, NUMBER):
            found[manager] = Entry(_only(path), None, version)  # upstream: of no time
    return managed.dump(found)


def _in(manager: Manager, version: str) -> Manager:
    if manager.operation != UPDATE:
        return manager
    return Manager(manager.name, manager.operation, version, manager.subresource)


def _only(path: Path) -> Fields:
    return sets.from_paths([path])


def _paths(kind: Kind) -> dict[str, Path | None]:
    """API version -> where its objects have the number; None for one without a Scale."""
    group = kind.resource.group
    if kind.crd is None:
        assert kind.scale is not None
        return {f"{group}/{v}" if group else v: _path(kind.scale) for v in BUILT_IN_VERSIONS}
    found: dict[str, Path | None] = {}
    for version in kind.crd["spec"]["versions"]:
        row = (version.get("subresources") or {}).get("scale")
        found[f"{group}/{version['name']}"] = _path(ScalePaths(row["specReplicasPath"])) if row else None
    return found


def _path(paths: ScalePaths) -> Path:
    return tuple(f"f:{step}" for step in paths.spec)
