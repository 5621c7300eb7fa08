"""Server-side apply: the applied object states what its manager wants; the rest stays with whoever owns it.

Semantics of Kubernetes' structured merge: fields the manager applied before and now leaves out are removed unless
somebody else owns them; a field that another manager owns with another value is a conflict, unless forced.
"""

from __future__ import annotations

from typing import Any

from sampan.kube.errors import ApiError, bad_request
from sampan.kube.objects import Object
from sampan.kube.patch import fields as sets
from sampan.kube.patch import last_applied
from sampan.kube.patch import managed_fields as managed
from sampan.kube.patch.fields import Fields, Path
from sampan.kube.patch.managed_fields import APPLY, UPDATE, Entry, Manager, Managers, View
from sampan.kube.schema import ANYTHING, Schema

_GONE: Any = object()


def apply(
    live: Object | None,
    applied: Object,
    schema: Schema | None,
    *,
    manager: str,
    force: bool = False,
    subresource: str | None = None,
    now: str,
    view: View | None = None,
) -> Object:
    """The object that results, with its `managedFields`; `live` itself when nothing changes.

    `view` is how the object is seen in other versions of its kind, which other managers may have written in.

    `applied` has passed decoding and `schema.canonical`, and holds no field this endpoint may not set (no status on the
    main resource). Raises ApiError 409 with a cause per conflicting field, 400 for an object that cannot be applied.
    """
    schema = schema or ANYTHING
    if applied["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    entries = live["metadata"].get("managedFields") if live else None
    managers = managed.load(entries)
    if live is not None and not managers and not entries:
        owned = managed.changes(schema, None, live)[0]
        if subresource is None:
            owned = {name: part for name, part in owned.items() if name != "f:status"}
        version = live.get("apiVersion", "")
        created = live["metadata"].get("creationTimestamp")
        managers[Manager("before-first-apply", UPDATE, version, subresource or "")] = Entry(
            owned, created or now, version
        )
    who = Manager(manager, APPLY, "", subresource or "")
    version = applied.get("apiVersion", "")
    before = managers.get(who)
    _check_views(managers, live, version, view)
    mine = sets.field_set(schema, managed.unmanaged(applied))
    merged: Object = merge(schema, live or {}, applied)
    if before is not None:
        _check_views({who: before}, merged, version, view, _PRUNING)
        everyone = sets.union(mine, {"f:metadata": {"f:name": {}}})  # which is applied, too, if nobody's
        for other, entry in managers.items():
            if other != who:
                everyone = sets.union(everyone, entry.fields)
        left = _prune(schema, merged, before.fields, everyone)
        merged = left if left is not _GONE else {}
        merged = {**{key: applied[key] for key in ("apiVersion", "kind") if key in applied}, **merged}
        merged.setdefault("metadata", applied["metadata"])
    if live is not None and "managedFields" in live["metadata"]:
        merged = {**merged, "metadata": {**merged["metadata"], "managedFields": live["metadata"]["managedFields"]}}
    seen = managed.Changes(version, schema, live, merged, view)
    changed, removed = seen.at(version) or ({}, {})
    try:
        conflicts = _conflicts(managers, who, seen)
    except managed.Unconvertible as error:
        raise bad_request(str(error)) from None
    if conflicts and not force and manager == last_applied.MANAGER and live is not None:
        own = last_applied.fields_of(live, schema)
        conflicts = [(other, path) for other, path in conflicts if not sets.contains(own, path)]
    if conflicts and not force:
        raise conflict_error(conflicts)
    same = live is not None and not changed and not removed
    if same and before is not None and before.fields == mine and before.api_version == version:
        assert live is not None
        return live
    seen.take_away(managers, who)
    if mine:
        keep_time = before is not None and same and before.fields == mine
        managers[who] = Entry(mine, before.time if keep_time and before else now, version)
    else:
        managers.pop(who, None)
    managed.cap(managers)
    return managed.with_entries(merged, managed.dump(managers))


_PRUNING = "failed to prune fields: failed to convert merged object to last applied version: "


def _check_views(managers: Managers, obj: Object | None, version: str, view: View | None, word: str = "") -> None:
    """Raises ApiError 400 where `obj` cannot be seen as its managers saw it."""
    try:
        if obj is not None:
            managed.check_readable(managers, obj, version, view)
    except managed.Unconvertible as error:
        raise bad_request(f"{word}{error}") from None


def _conflicts(managers: Managers, who: Manager, seen: managed.Changes) -> list[tuple[Manager, Path]]:
    found = []
    paths: dict[str, list[Path]] = {}
    for other in sorted(managers, key=lambda manager: (manager.name, manager.operation, manager.subresource)):
        version = managers[other].api_version
        if other != who and (changes := seen.at(version)) is not None:
            if version not in paths:
                paths[version] = list(sets.paths_of(changes[0]))
            found += [(other, path) for path in sets.intersection(paths[version], managers[other].fields)]
    return found


def conflict_error(conflicts: list[tuple[Manager, Path]]) -> ApiError:
    """409, in upstream's words, with a cause of type FieldManagerConflict for each field."""
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": sets.text_of(path)}
        for manager, path in conflicts
    ]
    if len(conflicts) == 1:
        message = f"Apply failed with 1 conflict: conflict with {conflicts[0][0]}: {causes[0]['field']}"
    else:
        lines = []
        for manager in dict.fromkeys(manager for manager, _ in conflicts):
            lines.append(f"conflicts with {manager}:")
            lines += [f"- {sets.text_of(path)}" for other, path in conflicts if other == manager]
        message = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", message, {"causes": causes})


def merge(schema: Schema, live: Any, applied: Any) -> Any:
    """`applied` laid over `live`: maps and associative lists merge, all else is taken from `applied`."""
    if applied is None and live and (sets.is_map(schema, live) or sets.is_list(schema, live)):
        return live  # nothing is said of what is in it
    if sets.is_map(schema, live) and sets.is_map(schema, applied):
        result = dict(live)
        for name, value in applied.items():
            result[name] = merge(sets.child_of(schema, name), live[name], value) if name in live else value
        return result
    if sets.is_list(schema, live) and sets.is_list(schema, applied):
        return _merge_list(schema, live, applied)
    return live if live == applied and live.__class__ is applied.__class__ else applied


def _merge_list(schema: Schema, live: list[Any], applied: list[Any]) -> list[Any]:
    """The order of `applied`; elements only `live` has stay before the shared element that follows them."""
    old, new = sets.elements_of(schema, live), sets.elements_of(schema, applied)
    order, wanted = list(old), list(new)
    result: list[Any] = []
    emitted: set[str] = set()
    left = right = 0
    while left < len(order) or right < len(wanted):
        if left < len(order):
            element = order[left]
            if sets.base_of(element) not in new:
                result.append(old[element])
                left += 1
                continue
            if element in emitted or element not in new:  # there already, or a repetition of what is applied
                left += 1
                continue
        element = wanted[right]
        right += 1
        emitted.add(element)
        item = new[element]
        result.append(merge(schema.items, old[element], item) if element in old else item)
    return result


def _prune(schema: Schema, value: Any, before: Fields, owned: Fields | None) -> Any:
    """`value` without the fields in `before` that nobody owns now; `_GONE` when nothing is left of it."""
    if sets.is_map(schema, value):
        kept = {}
        for name, item in value.items():
            element = "f:" + name
            rest = before.get(element)
            if rest is None:
                kept[name] = item
                continue
            node = owned.get(element) if owned else None
            if node is None and name in schema.properties:
                continue  # a field of a structure was the manager's, when what is in it was: it goes with its defaults
            result = _prune_one(sets.child_of(schema, name), item, rest, node, named=name in schema.properties)
            if result is not _GONE:
                kept[name] = result
        return kept or _GONE
    if sets.is_list(schema, value):
        items, keys = [], set(schema.list_map_keys)
        for element, item in sets.elements_of(schema, value).items():
            rest = before.get(element)
            if rest is None:
                items.append(item)
                continue
            node = owned.get(element) if owned else None
            result = _prune_one(schema.items, item, rest, node, named=False)
            if result is _GONE:
                continue
            if isinstance(result, dict) and isinstance(item, dict):
                result = {key: result.get(key, value) for key, value in item.items() if key in result or key in keys}
            items.append(result)
        return items or _GONE
    return value


def _prune_one(schema: Schema, item: Any, before: Fields, owned: Fields | None, *, named: bool) -> Any:
    """`named`: a field of a structure is somebody's when anything in it is; elements and keys are owned as such."""
    kept = owned is not None and (named or not owned or "." in owned)
    if not kept and (not before or "." in before):
        return _GONE  # with what others have inside it
    if not item or not (sets.is_map(schema, item) or sets.is_list(schema, item)) or not before.keys() - {"."}:
        return item
    result = _prune(schema, item, before, owned)
    if result is _GONE and owned is not None and (not owned or "." in owned):
        return [] if isinstance(item, list) else {}
    return result
