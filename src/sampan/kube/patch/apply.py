"""Server-side apply: the applied object states what its manager wants; the rest stays with whoever owns it.

Semantics of Kubernetes' structured merge: fields the manager applied before and now leaves out are removed unless
somebody else owns them; a field that another manager owns with another value is a conflict, unless forced.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sampan.kube.errors import ApiError, bad_request
from sampan.kube.objects import Object
from sampan.kube.patch import fields as sets
from sampan.kube.patch import last_applied, prune
from sampan.kube.patch import managed_fields as managed
from sampan.kube.patch.fields import Fields, Path
from sampan.kube.patch.managed_fields import APPLY, UPDATE, Entry, Manager, Managers, Reset, View
from sampan.kube.schema import ANYTHING, Schema


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
    reset: Reset = managed.NO_RESET,
) -> Object:
    """The object that results, with its `managedFields`; `live` itself when nothing changes.

    `view` is how the object is seen in other versions of its kind, which other managers may have written in; `reset`
    what this endpoint does not write, and nobody comes to own by it.

    `applied` has passed decoding and `schema.canonical`, and holds no field this endpoint may not set (no status on the
    main resource). Raises ApiError 409 with a cause per conflicting field, 400 for an object that cannot be applied.
    """
    schema = schema or ANYTHING
    if applied["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    entries = live["metadata"].get("managedFields") if live else None
    managers = managed.load(entries)
    version = applied.get("apiVersion", "")
    cut = reset(version)
    if live is not None and not managers and not entries:
        owned = sets.outside(managed.changes(schema, None, live)[0], cut)
        since = live.get("apiVersion", "")
        created = live["metadata"].get("creationTimestamp")
        if owned:
            managers[Manager("before-first-apply", UPDATE, since, subresource or "")] = Entry(
                owned, created or now, since
            )
    who = Manager(manager, APPLY, "", subresource or "")
    before = managers.get(who)
    _check_views(managers, live, version, view)
    mine = sets.outside(sets.field_set(schema, managed.unmanaged(applied)), cut)
    merged: Object = merge(schema, live or {}, applied)
    others = any(entry.api_version != version for entry in managers.values())
    if before is not None and (others or sets.difference(before.fields, mine)):  # else nothing goes
        try:
            merged = _pruned(merged, schema, before, {**managers, who: Entry(mine, None, version)}, view)
        except managed.Unconvertible as error:
            raise bad_request(f"failed to prune fields: {error}") from None
    if live is not None and "managedFields" in live["metadata"]:
        merged = {**merged, "metadata": {**merged["metadata"], "managedFields": live["metadata"]["managedFields"]}}
    seen = managed.Changes(version, schema, live, merged, view, reset)
    try:
        conflicts = _conflicts(managers, who, seen)
    except managed.Unconvertible as error:
        raise bad_request(str(error)) from None
    if conflicts and not force and manager == last_applied.MANAGER and live is not None:
        own = last_applied.fields_of(live, schema)
        conflicts = [(other, path) for other, path in conflicts if not sets.contains(own, path)]
    if conflicts and not force:
        raise conflict_error(conflicts)
    same = live is not None and merged == live
    once = len(managers) == len(entries or ())  # a Scale leaves two entries of a manager, of which the later counts
    if same and once and before is not None and before.fields == mine and before.api_version == version:
        assert live is not None
        return live
    seen.take_away(managers, who)
    if mine:
        managers[who] = Entry(mine, (before.time if before else None) if same else now, version)
    else:
        managers.pop(who, None)
    return managed.with_entries(merged, managed.dump(managers))


_ITSELF: Fields = {"f:apiVersion": {}, "f:kind": {}, "f:metadata": {"f:name": {}}}
"""What is applied, too, if nobody's."""


def _pruned(merged: Object, schema: Schema, before: Entry, managers: Managers, view: View | None) -> Object:
    version = merged.get("apiVersion", "")
    owned: dict[str, Fields] = {version: _ITSELF}
    for entry in managers.values():
        owned[entry.api_version] = sets.union(owned.get(entry.api_version, {}), entry.fields)

    def seen(obj: Object, at: str, word: str) -> tuple[Schema, Object] | None:
        if at == version and obj.get("apiVersion") == version:
            return schema, obj
        found = None if view is None else view(at)
        if found is None or at == obj.get("apiVersion"):
            return found and (found[0], obj)
        made = found[1](obj)
        managed.readable(found[0], made, word)
        return found[0], made

    return prune.prune(merged, version, (before.api_version, before.fields), owned, seen)


def _check_views(managers: Managers, obj: Object | None, version: str, view: View | None) -> None:
    """Raises ApiError 400 where `obj` cannot be seen as its managers saw it."""
    try:
        if obj is not None:
            managed.check_readable(managers, obj, version, view)
    except managed.Unconvertible as error:
        raise bad_request(str(error)) from None


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
    """The order of `applied`; elements only `live` has stay before the shared element that follows them.

    An element that `live` repeats is merged with nothing, and there once if it is applied.
    """
    old = [(sets.base_of(element), item) for element, item in sets.elements_of(schema, live).items()]
    wanted = list(sets.elements_of(schema, applied).items())
    new, known = dict(wanted), dict(old)
    repeated = {element for element, count in Counter(element for element, _ in old).items() if count > 1}
    shared = [element for element in new if element in known]
    result: list[Any] = []
    emitted: set[str] = set()

    def emit(element: str) -> None:
        emitted.add(element)
        item = new[element]
        mixes = element in known and element not in repeated
        result.append(merge(schema.items, known[element], item) if mixes else item)
        if shared and shared[0] == element:
            del shared[0]

    left = right = 0
    while left < len(old) or right < len(wanted):
        if left < len(old):
            element, item = old[left]
            if right < len(wanted) and element == wanted[right][0]:
                emit(element)
                left, right = left + 1, right + 1
                continue
            if right < len(wanted) and element in new and shared and shared[0] != element:
                left += 1  # shared, but not the one whose turn it is
                continue
            if element not in new:
                result.append(item)
                left += 1
                continue
            if element in emitted:
                left += 1
        if right < len(wanted):
            emit(wanted[right][0])
            right += 1
    return result
