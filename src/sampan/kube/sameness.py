"""Whether two objects mean the same: amounts may be written in several ways."""

from __future__ import annotations

from typing import Any

from sampan.kube import quantity
from sampan.kube.objects import exactly
from sampan.kube.schema import Schema


def same(schema: Schema | None, one: Any, other: Any) -> bool:
    """Whether two values of a schema are equal, where amounts of a built-in kind count by what they are."""
    if exactly(one, other):
        return True
    if schema is None or schema.structural or schema.open:
        return False
    if schema.format == "quantity":
        try:
            return quantity.parse(one) == quantity.parse(other)
        except (ValueError, TypeError):
            return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(schema.child(key), one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(schema.items, a, b) for a, b in zip(one, other, strict=True))
    return False
