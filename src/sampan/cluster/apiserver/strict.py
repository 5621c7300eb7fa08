"""The order in which a body is told to be wrong that is read strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written: each field as often as it was named."""


def in_order(body: Any, faults: list[str]) -> list[str]:
    """`duplicate field "a.b"` and `unknown field "a.c"` as they come in a body of JSON."""
    places: dict[str, int] = {}
    for path, again in _fields(json.loads(body, object_pairs_hook=_Pairs), ""):
        places.setdefault(f'{"duplicate" if again else "unknown"} field "{path}"', len(places))
    return sorted(faults, key=lambda fault: places.get(fault, len(places)))


def _fields(value: Any, path: str) -> Iterator[tuple[str, bool]]:
    """(path, whether it has been named before) of every field, in order."""
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for name, item in value:
            where = f"{path}.{name}" if path else name
            yield where, name in seen
            seen.add(name)
            yield from _fields(item, where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _fields(item, f"{path}[{index}]")
