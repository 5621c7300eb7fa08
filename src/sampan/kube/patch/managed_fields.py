"""`metadata.managedFields`: who owns which field, kept up to date on every write.

`track_update` runs on each write that is not an apply: the writer comes to own what it changed, and others lose it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from sampan.kube import zeros
from sampan.kube.objects import Object, exactly
from sampan.kube.patch import fields as sets
from sampan.kube.patch.fields import Fields
from sampan.kube.schema import ANYTHING, Schema

APPLY, UPDATE = "Apply", "Update"
LIMIT = 10
"""The most Update entries kept; older ones are folded into `ancient-changes`."""

_UNMANAGED = frozenset((
    "creationTimestamp", "generation", "managedFields", "name",
    "namespace", "resourceVersion", "selfLink", "uid",
))  # fmt: skip


class Manager(Struct, frozen=True):
    """Who writes: entries are one per manager, operation, subresource and, for updates, API version."""

    name: str
    operation: str
    api_version: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.api_version}" if self.operation == UPDATE else text


class Entry(Struct):
    fields: Fields
    time: str | None
    api_version: str


Managers = dict[Manager, Entry]


def load(entries: Iterable[dict[str, Any]] | None) -> Managers:
    """The entries of an object. One of another format than FieldsV1 is left out; nobody owns the whole object."""
    found: Managers = {}
    for entry in entries or ():
        if entry.get("fieldsType", "FieldsV1") != "FieldsV1" or "operation" not in entry:
            continue
        operation, version = entry["operation"], entry.get("apiVersion", "")
        manager = Manager(
            entry.get("manager", ""), operation, version if operation == UPDATE else "", entry.get("subresource", "")
        )
        fields = entry.get("fieldsV1") or {}
        if "." in fields:
            fields = {element: child for element, child in fields.items() if element != "."}
        found[manager] = Entry(fields, entry.get("time"), version)
    return found


def dump(managers: Managers) -> list[dict[str, Any]]:
    """The entries as they are stored: applies first, then updates by age."""
    rows = [(manager, entry) for manager, entry in managers.items() if entry.fields]
    rows.sort(key=_order)
    entries = []
    for manager, entry in rows:
        out: dict[str, Any] = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": entry.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.fields,
        }
        if not manager.name:
            del out["manager"]
        if entry.time:
            out["time"] = entry.time
        if manager.subresource:
            out["subresource"] = manager.subresource
        entries.append(out)
    return entries


def _order(row: tuple[Manager, Entry]) -> tuple[str, ...]:
    manager, entry = row
    return manager.operation, entry.time or "", manager.name, entry.api_version, manager.subresource


def unmanaged(obj: Any) -> Any:
    """A shallow copy without the fields nobody owns."""
    body = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    if isinstance(metadata := body.get("metadata"), dict):
        body["metadata"] = {key: value for key, value in metadata.items() if key not in _UNMANAGED}
        if not body["metadata"]:
            del body["metadata"]
    return body


def changes(schema: Schema, before: Object | None, after: Object) -> tuple[Fields, Fields]:
    """(set, removed) between two objects, as far as fields are owned at all."""
    empty: Object = {"metadata": {}}  # there from the start
    return sets.compare(schema, {**empty, **unmanaged(before or _zero(schema))}, {**empty, **unmanaged(after)})


_ZEROS: dict[int, tuple[Schema, Object]] = {}


def _zero(schema: Schema) -> Object:
    """`zeros.of` a root schema, made once. Never changed."""
    found = _ZEROS.get(id(schema))
    if found is None or found[0] is not schema:
        found = _ZEROS[id(schema)] = (schema, zeros.of(schema))
    return found[1]


def is_reset(entries: Any) -> bool:
    """Whether a write asks that ownership be forgotten: `managedFields: [{}]`, or an empty list."""
    return isinstance(entries, list) and (not entries or (len(entries) == 1 and not entries[0]))


def _as_told(entries: Any) -> list[dict[str, Any]]:
    """The entries a write brings, in which sets are sets; none where one of them cannot be read."""
    told = []
    for entry in entries if isinstance(entries, list) else ():
        known = entry.get("operation") in (APPLY, UPDATE) and entry.get("fieldsType") == "FieldsV1"
        try:
            told.append({**entry, "fieldsV1": sets.cleaned(entry.get("fieldsV1") or {})})
        except ValueError:
            known = False
        if not known or not entry.get("apiVersion"):
            return []
    return told


def _take_from(managers: Managers, other: Manager, paths: Fields) -> None:
    entry = managers[other]
    left = sets.difference(entry.fields, paths)
    if left is entry.fields:
        return
    if left:
        managers[other] = Entry(left, entry.time, entry.api_version)
    else:
        del managers[other]


def cap(managers: Managers) -> None:
    """Folds the oldest Update entries of a version into one when there are too many, in place."""
    updates = [manager for manager in managers if manager.operation == UPDATE]
    left = len(updates)
    if left <= LIMIT:
        return
    updates.sort(key=lambda manager: (managers[manager].time or "", manager.name, manager.api_version))
    first: dict[str, Manager] = {}
    for manager in updates:
        if left <= LIMIT:
            return
        entry = managers[manager]
        version = entry.api_version
        if version not in first:
            first[version] = manager
            continue
        ancient = Manager("ancient-changes", UPDATE, version)
        if ancient not in managers:
            managers[ancient] = managers.pop(first[version])
        managers[ancient] = Entry(sets.union(entry.fields, managers[ancient].fields), entry.time, version)
        if manager != ancient:
            del managers[manager]
        left -= 1


def with_entries(obj: Object, entries: list[dict[str, Any]]) -> Object:
    """A copy of `obj` with these entries; without any, the field is absent."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    if entries:
        metadata["managedFields"] = entries
    return {**obj, "metadata": metadata}


class Unconvertible(Exception):
    """An object that cannot be seen in the version in which one of its managers wrote."""


View = Callable[[str], "tuple[Schema, Callable[[Object], Object]] | None"]
"""From a version to the kind's schema there and the conversion to it; None for a version there is not any more."""


Reset = Callable[[str], Fields]
"""From a version to the fields that the endpoint of a write leaves as they are, whatever is written."""


def NO_RESET(_: str) -> Fields:
    return {}


class Changes:
    """What changes between two objects, as each version sees it, but for what is `reset`. Raises Unconvertible.

    `schema` and the objects are of the version `version`; without a `view` there is no other.
    """

    def __init__(  # noqa: PLR0917
        self, version: str, schema: Schema, before: Object | None, after: Object, view: View | None, reset: Reset
    ) -> None:
        self._reset = reset
        self._found = {version: self._kept(version, changes(schema, before, after))}
        self._objects, self._view = (before, after), view

    def _kept(self, version: str, found: tuple[Fields, Fields]) -> tuple[Fields, Fields]:
        cut = self._reset(version)
        return (sets.outside(found[0], cut), sets.outside(found[1], cut)) if cut else found

    def add(self, version: str, fields: Fields) -> None:
        """Count these as set, too."""
        changed, removed = self._found[version]
        self._found[version] = self._kept(version, (sets.union(changed, fields), removed))

    def at(self, version: str) -> tuple[Fields, Fields] | None:
        """(set, removed); None for a version there is not any more."""
        if version not in self._found:
            found = self._view(version) if self._view is not None else None
            if found is None:
                return None
            schema, convert = found
            old, new = (None if obj is None else convert(obj) for obj in self._objects)
            assert new is not None
            for obj, word in ((old, ""), (new, "failed to convert new object: ")):
                readable(schema, obj, word)
            self._found[version] = self._kept(version, changes(schema, old, new))
        return self._found[version]

    def take_away(self, managers: Managers, manager: Manager) -> None:
        """Remove what changed from every manager but one, in place; managers of versions that are no more go."""
        for other, entry in list(managers.items()):
            if other == manager:
                continue
            found = self.at(entry.api_version)
            if found is None:
                del managers[other]
            else:
                _take_from(managers, other, sets.union(*found))


def readable(schema: Schema, obj: Object | None, word: str) -> None:
    """Raises Unconvertible for an object of which the schema does not know every field, or that names an element of a
    list twice."""
    from sampan.kube.decoding import typed_fault

    if obj is not None and (fault := typed_fault(schema, obj)):
        raise Unconvertible(word + fault)


def check_readable(managers: Managers, live: Object, version: str, view: View | None) -> None:
    """Raises Unconvertible where `live`, of `version`, cannot be seen as one of its managers did."""
    for entry in managers.values() if view is not None else ():
        if entry.api_version != version and view is not None and (found := view(entry.api_version)) is not None:
            readable(found[0], found[1](live), "")


def track_update(
    live: Object | None,
    new: Object,
    schema: Schema | None,
    *,
    manager: str,
    subresource: str | None = None,
    api_version: str | None = None,
    now: str,
    view: View | None = None,
    reset: Reset = NO_RESET,
    rewritten: Fields = sets.NOTHING,
) -> Object:
    """`new` with the ownership a create, update or patch by `manager` leads to.

    `live` is what is stored (None at creation). When nothing owned changes, the entries of `live` are kept as they are.
    A write that brings entries of its own has them taken instead of the stored ones; `[{}]` forgets all. Where the
    object cannot be seen in the version of one of its managers, all is forgotten, too. `rewritten` are fields of an
    update that change hands even where they look as before.
    """
    stored = live["metadata"].get("managedFields") if live else None
    brought = new["metadata"].get("managedFields") if subresource is None else stored
    if live is not None and is_reset(brought):
        return with_entries(new, [])
    told = _as_told(brought) if live is not None and brought and brought != stored else []
    base = told or stored
    if live is not None and not base:
        return with_entries(new, [])  # ownership was never kept or was forgotten: it starts with the next apply
    version = api_version or new.get("apiVersion", "")
    managers = load(base)
    who = Manager(manager, UPDATE, version, subresource or "")
    seen = Changes(version, schema or ANYTHING, live, new, view, reset)
    if rewritten and live is not None:
        seen.add(version, rewritten)
    try:
        if live is not None:
            check_readable(managers, live, version, view)
        changed, removed = seen.at(version) or ({}, {})
        before = dict(managers)
        seen.take_away(managers, who)
    except Unconvertible:
        return with_entries(new, [])
    if not told and not changed and not removed and managers == before and len(managers) == len(base or ()):
        return new if new["metadata"].get("managedFields") is base else with_entries(new, base or [])
    entry = managers.get(who)
    owned = sets.union(sets.difference(entry.fields, removed), changed) if entry else changed
    if owned:
        managers[who] = Entry(owned, now if changed or entry is None else entry.time, version)
    else:
        managers.pop(who, None)
    cap(managers)
    return with_entries(new, dump(managers))


def only_time_differs(new: Object, old: Object) -> bool:
    """Whether two versions of an object are the same but for when its managers last wrote."""

    def timeless(obj: Object) -> Object:
        metadata = obj["metadata"]
        entries = [{k: v for k, v in entry.items() if k != "time"} for entry in metadata.get("managedFields") or ()]
        return {**obj, "metadata": {**metadata, "managedFields": entries}}

    return exactly(timeless(new), timeless(old))
