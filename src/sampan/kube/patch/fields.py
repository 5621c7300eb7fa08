"""Sets of fields in the `fieldsV1` format, and the walks that make them.

A set is a trie of dictionaries. Its keys are path elements: `f:NAME` a field, `k:{...}` an element of a list by its
keys, `v:VALUE` an element of a set. An empty node is a member; a node with children is one itself when it holds `.`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from sampan.kube.errors import ApiError, bad_request
from sampan.kube.objects import exactly
from sampan.kube.schema import ANYTHING, UNSET, Schema

Fields = dict[str, Any]
Path = tuple[str, ...]
NOTHING: Fields = {}
"""A set without members. Never changed."""

KEY_DEFAULTS = {"protocol": "TCP"}
"""Keys of built-in list maps that have a default (`ports`)."""

_encode = msgspec.json.Encoder(order="sorted").encode


# -- tries -----------------------------------------------------------------------------------------------------------


def contains(fields: Fields, path: Path) -> bool:
    node: Any = fields
    for element in path:
        node = node.get(element)
        if node is None:
            return False
    return not node or "." in node


def insert(fields: Fields, path: Path) -> None:
    """Adds a path, in place."""
    node = fields
    for depth, element in enumerate(path):
        child = node.get(element)
        if child is None:
            if depth and not node:
                node["."] = {}  # was a member without children
            child = node[element] = {}
            if depth == len(path) - 1:
                return
            for rest in path[depth + 1 :]:
                child[rest] = child = {}
            return
        if not child and depth < len(path) - 1:
            child["."] = {}
        node = child
    if node:
        node["."] = {}


def from_paths(paths: Iterable[Path]) -> Fields:
    fields: Fields = {}
    for path in sorted(paths, key=len):
        insert(fields, path)
    return fields


def union(left: Fields, right: Fields) -> Fields:
    """Members of either. Shares with its arguments."""
    if not right:
        return left
    if not left:
        return right
    return _union(left, right, top=True)


def _union(left: Fields, right: Fields, *, top: bool = False) -> Fields:
    result = dict(left)
    for element, child in right.items():
        present = result.get(element)
        if present is None:
            result[element] = child
        elif element != ".":
            result[element] = _union(present, child)
    if not top and result and (not left or not right):
        result["."] = {}
    return result


def difference(left: Fields, right: Fields) -> Fields:
    """Members of `left` that are not in `right`; `left` itself when none is."""
    return _difference(left, right, top=True) or {}


def _difference(left: Fields, right: Fields, *, top: bool = False) -> Fields | None:
    """None when nothing is left."""
    member = not top and (not left or "." in left)
    if member and (not right or "." in right):
        member = False
        changed = True
    else:
        changed = False
    children: Fields = {}
    for element, child in left.items():
        if element == ".":
            continue
        other = right.get(element)
        if other is None:
            children[element] = child
            continue
        rest = _difference(child, other)
        if rest is not child:
            changed = True
        if rest is not None:
            children[element] = rest
    if not changed:
        return left
    if member:
        return {".": {}, **children} if children else {}
    return children or None


def outside(fields: Fields, cut: Fields) -> Fields:
    """`fields` without the members of `cut` and all inside them; `fields` itself when there are none."""
    changed, kept = False, {}
    for element, child in fields.items():
        rest = cut.get(element)
        left: Fields | None = child
        if rest is not None and element != ".":
            left = None if not rest or "." in rest else outside(child, rest) or (child if not child else None)
        changed = changed or left is not child
        if left is not None:
            kept[element] = left
    return kept if changed else fields


def paths_of(fields: Fields, prefix: Path = ()) -> Iterator[Path]:
    """All members."""
    if prefix and (not fields or "." in fields):
        yield prefix
    for element, child in fields.items():
        if element != ".":
            yield from paths_of(child, (*prefix, element))


def intersection(paths: Iterable[Path], fields: Fields) -> list[Path]:
    return [path for path in paths if contains(fields, path)]


def text_of(path: Path) -> str:
    """A path as conflicts show it: `.spec.containers[name="web"].image`."""
    parts = []
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            parts.append(f".{rest}")
        elif kind == "k":
            keys = json.loads(rest)
            parts.append(f"[{_entries(keys)}]")
        else:
            parts.append(f"[={rest}]")
    return "".join(parts)


def _entries(values: dict[str, Any]) -> str:
    return ",".join(f"{key}={_shown(values[key])}" for key in sorted(values))


def _shown(value: Any) -> str:
    return _entries(value) if isinstance(value, dict) else json.dumps(value)


def cleaned(fields: Any) -> Fields:
    """A set as it was given, without path elements of unknown kinds. Raises ValueError for what is no set."""
    if not isinstance(fields, dict):
        raise ValueError("a set of fields is an object")
    kept = {}
    for key, child in fields.items():
        kind, _, rest = key.partition(":")
        if kind in _JSON and not isinstance(json.loads(rest), _JSON[kind]):
            raise ValueError(f"no path element: {key}")
        inner = cleaned(child)
        if key == "." or kind == "f" or kind in _JSON:
            kept[key] = inner
    return kept


_JSON: dict[str, type] = {"k": dict, "v": object, "i": int}
"""Kinds of path elements that hold JSON."""


# -- walks over objects ----------------------------------------------------------------------------------------------


def is_map(schema: Schema, value: Any) -> bool:
    """Whether the fields of a map are owned one by one."""
    return isinstance(value, dict) and schema.map_type != "atomic"


def is_list(schema: Schema, value: Any) -> bool:
    """Whether the elements of a list are owned one by one."""
    return isinstance(value, list) and schema.list_type in ("map", "set")


def element_of(schema: Schema, item: Any) -> str:
    """The path element of an element of an associative list. Raises ApiError 400 for one without its keys."""
    if schema.list_type == "set":
        return "v:" + _encode(item).decode()
    if not isinstance(item, dict):
        raise bad_request("failed to create typed patch object: an element of an associative list is not an object")
    keys = {}
    for key in schema.list_map_keys:
        if key in item:
            keys[key] = item[key]
            continue
        known = schema.items.properties.get(key)
        if known is not None and known.default is not UNSET:
            keys[key] = known.default
        elif not schema.structural and key in KEY_DEFAULTS:
            keys[key] = KEY_DEFAULTS[key]
    if not keys:
        names = " ".join(json.dumps(key) for key in schema.list_map_keys)
        raise bad_request(
            "associative list with keys has an element that omits all key fields"
            f" [{names}] (and doesn't have default values for any key fields)"
        )
    return "k:" + _encode(keys).decode()


def elements_of(schema: Schema, items: list[Any]) -> dict[str, Any]:
    """Elements by their path element. An element without its keys is told apart by place (`i:3`), one that repeats
    another by a mark that `base_of` takes off again: stored objects may hold both."""
    found: dict[str, Any] = {}
    for index, item in enumerate(items):
        try:
            element = element_of(schema, item)
        except ApiError:
            element = f"i:{index}"
        found[f"{element}\0{index}" if element in found else element] = item
    return found


def base_of(element: str) -> str:
    return element.partition("\0")[0]


def child_of(schema: Schema, name: str) -> Schema:
    return schema.child(name) or ANYTHING


def field_set(schema: Schema, value: Any, *, lenient: bool = False) -> Fields:
    """The fields an applied object sets: leaves, list elements, keys of maps, and what is empty.

    Raises ApiError 400 for elements that repeat others, or have no keys. `lenient`: of a stored object, those that
    repeat others are fields as a whole, and those without keys none.
    """
    paths: list[Path] = []

    def walk(node: Schema, value: Any, path: Path) -> None:
        if is_map(node, value):
            for name, item in value.items():
                inner = (*path, "f:" + name)
                walk(child_of(node, name), item, inner)
                if (
                    item == {}
                    or (item == [] and child_of(node, name).list_type == "atomic")
                    or (isinstance(item, dict | list) and name not in node.properties)
                ):
                    paths.append(inner)
        elif is_list(node, value):
            if lenient:
                stored(node, value, path)
                return
            seen = set()
            for item in value:
                element = element_of(node, item)
                if element in seen:
                    raise bad_request(
                        f"failed to create typed patch object: duplicate entries for key {text_of((*path, element))}"
                    )
                seen.add(element)
                inner = (*path, element)
                if node.list_type == "map":
                    walk(node.items, item, inner)
                paths.append(inner)
        else:
            paths.append(path)

    def stored(node: Schema, value: list[Any], path: Path) -> None:
        elements = elements_of(node, value)
        repeated = {base_of(element) for element in elements if "\0" in element}
        for element, item in elements.items():
            if element.startswith("i:"):
                continue
            inner = (*path, base_of(element))
            if node.list_type == "map" and base_of(element) not in repeated:
                walk(node.items, item, inner)
            paths.append(inner)

    walk(schema, value, ())
    return from_paths(path for path in paths if path)


def added(schema: Schema, value: Any) -> Fields:
    """Every member of a subtree that is new: leaves and containers. The root is a member itself."""
    if value.__class__ is dict and schema.map_type != "atomic":
        if not value:
            return {}
        properties, values = schema.properties, schema.values or ANYTHING
        node: Fields = {".": {}}
        for name, item in value.items():
            if item.__class__ is dict or item.__class__ is list:
                node["f:" + name] = added(properties.get(name) or values, item)
            else:
                node["f:" + name] = {}
        return node
    if is_list(schema, value) and value:
        node = {".": {}}
        elements = elements_of(schema, value)
        repeated = {base_of(element) for element in elements if "\0" in element}  # owned as a whole
        for element, item in elements.items():
            whole = schema.list_type != "map" or base_of(element) in repeated
            _join(node, base_of(element), {} if whole else added(schema.items, item))
        return node
    return {}


def _join(node: Fields, element: str, child: Fields) -> None:
    """Put a child into a node, in place; one that is there already (a repeated element) is joined with it."""
    present = node.get(element)
    node[element] = child if present is None else _union(present, child)


def compare(schema: Schema, before: Any, after: Any) -> tuple[Fields, Fields]:
    """(set, removed): the fields whose value is new or other in `after`, and those that are gone."""
    changed, removed = _compare(schema, before, after)
    return changed or {}, difference(removed, changed) if removed and changed else removed or {}


def _compare(node: Schema, old: Any, new: Any) -> tuple[Fields | None, Fields | None]:
    """As `compare`; None where nothing is, since an empty set is a member."""
    if old is new or (old.__class__ is new.__class__ and exactly(old, new)):
        return None, None
    if node.map_type != "atomic" and _are(dict, old, new):
        if not old and not new:
            return {}, None
        properties, values = node.properties, node.values or ANYTHING
        return _both(old or {}, new or {}, "f:", lambda name: properties.get(name) or values)
    if node.list_type in ("map", "set") and _are(list, old, new):
        if not old and not new:
            return {}, None
        return _lists(node, old or [], new or [])
    return added(node, new), None if old is None else added(node, old)


def _are(kind: type, old: Any, new: Any) -> bool:
    """Whether two values are of a kind, or null, which is nothing of any kind."""
    return (old is None or old.__class__ is kind) and (new is None or new.__class__ is kind)


def _lists(node: Schema, old: list[Any], new: list[Any]) -> tuple[Fields | None, Fields | None]:
    """As `_compare`. Elements of one key are one field, whatever is in them; it is changed when any of them is."""
    before, after = elements_of(node, old), elements_of(node, new)
    if not any("\0" in key for key in (*before, *after)):
        return _both(before, after, "", lambda _: node.items)
    changed: Fields = {}
    removed: Fields = {}
    olds, news = _grouped(before), _grouped(after)
    for element in olds | news:
        one, two = olds.get(element, []), news.get(element, [])
        set_: Fields | None = None
        gone: Fields | None = None
        if len(one) == 1 and len(two) == 1:
            set_, gone = _compare(node.items, one[0], two[0])
        elif one != two:
            set_ = {} if len(two) > 1 else added(node.items, two[0]) if two else None
            if one and min(len(one), len(two)) < 2:
                gone = {} if len(one) > 1 else added(node.items, one[0])
        if set_ is not None:
            changed[element] = set_
        if gone is not None:
            removed[element] = gone
    return changed or None, removed or None


def _grouped(elements: dict[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for element, item in elements.items():
        found.setdefault(base_of(element), []).append(item)
    return found


def _both(old: Any, new: Any, prefix: str, child: Callable[[str], Schema]) -> tuple[Fields | None, Fields | None]:
    changed: Fields = {}
    removed: Fields = {}
    for name, item in new.items():
        if name not in old:
            _join(changed, base_of(prefix + name), added(child(name), item))
            continue
        present = old[name]
        if present is item:
            continue
        set_, gone = _compare(child(name), present, item)
        if set_ is not None:
            _join(changed, base_of(prefix + name), set_)
        if gone is not None:
            _join(removed, base_of(prefix + name), gone)
    for name, item in old.items():
        if name not in new:
            _join(removed, base_of(prefix + name), added(child(name), item))
    return changed or None, removed or None
