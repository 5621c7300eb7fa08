"""What an apply removes: what its manager applied before, does not any more, and nobody else owns.

The steps are those of Kubernetes' structured merge, since each shows where managers own something inside of what goes:
the manager's former fields are taken out, what anybody owns comes back, and then what was never the manager's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.kube.errors import ApiError
from sampan.kube.objects import Object
from sampan.kube.patch import fields as sets
from sampan.kube.patch.fields import Fields
from sampan.kube.schema import ANYTHING, Schema

Seen = Callable[[Object, str, str], "tuple[Schema, Object] | None"]
"""An object as a version shows it, with that version's schema; None for a version there is not any more. The last
argument is what an error begins with."""


def prune(merged: Object, version: str, former: tuple[str, Fields], owned: dict[str, Fields], seen: Seen) -> Object:
    """`merged`, of `version`, without what goes.

    `former`: the version and the fields of the manager's last apply. `owned`: by version, what the managers own now,
    the one who applies among them.
    """
    before_version, before = former
    found = seen(merged, before_version, "failed to convert merged object to last applied version: ")
    if found is None:
        return merged
    schema, whole = found
    last = with_named(schema, before)
    pruned: Object = remove(schema, whole, last) or {}
    order = sorted(owned, key=lambda each: each != before_version)  # what conversion needs may be owned there
    everything = whole
    for each in order:
        what = f"failed add back owned items: failed to convert {{}} object at version {each}: "
        first = seen(everything, each, what.format("merged"))
        second = seen({**pruned, **_named(everything)}, each, what.format("pruned"))
        if first is None or second is None:
            continue
        node, everything = first
        pruned = second[1]
        lost = sets.difference(_all(node, everything), sets.union(_all(node, pruned), with_named(node, owned[each])))
        pruned = remove(node, everything, lost) or {}
    what = "failed add back dangling items: failed to convert pruned object to last applied version: "
    again = seen({**pruned, **_named(everything)}, before_version, what)
    assert again is not None
    gone = sets.difference(_all(schema, whole), _all(schema, again[1]))
    left: Object = remove(schema, whole, _common(gone, last)) or {}
    back = seen({**left, **_named(whole)}, version, "")
    assert back is not None
    return back[1]


def _named(obj: Object) -> Object:
    return {key: obj[key] for key in ("apiVersion", "kind") if key in obj}


def _all(schema: Schema, obj: Object) -> Fields:
    return with_named(schema, sets.field_set(schema, obj, lenient=True))


def with_named(schema: Schema, fields: Fields) -> Fields:
    """The set and the fields of structures on the way to its members, which are nobody's by themselves."""
    found: Fields = {}
    for element, child in fields.items():
        if not child:
            found[element] = child
            continue
        kind, _, name = element.partition(":")
        named = kind == "f" and name in schema.properties
        node = sets.child_of(schema, name) if kind == "f" else schema.items if kind == "k" else ANYTHING
        inner = with_named(node, child)
        found[element] = {".": {}, **inner} if named and "." not in inner else inner
    return found


def _common(left: Fields, right: Fields) -> Fields:
    return sets.difference(left, sets.difference(left, right))


def remove(schema: Schema, value: Any, gone: Fields) -> Any:
    """`value` without the members of a set, each with all inside it; None where nothing is left, or it is one."""
    if isinstance(value, dict):
        if schema.map_type == "atomic":
            return None
        kept = {}
        for name, item in value.items():
            rest = gone.get("f:" + name)
            if rest is None:
                kept[name] = item
            elif rest and "." not in rest:
                kept[name] = remove(sets.child_of(schema, name), item, rest)
        return kept or None
    if isinstance(value, list):
        if not sets.is_list(schema, value):
            return None
        items = []
        for item in value:
            try:
                rest = gone.get(sets.element_of(schema, item))
            except ApiError:  # nobody's
                rest = None
            if rest is None:
                items.append(item)
            elif rest and "." not in rest:
                items.append(remove(schema.items, item, rest))
        return items or None
    return value
