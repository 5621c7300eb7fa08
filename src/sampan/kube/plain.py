"""Whether an object is plain: every field known and of its type, nothing null, all values in their canonical form.

Nearly every object is, and one quick walk then stands for five slow ones: nothing of it is unknown, wrong, to be pruned
or to be rewritten. What is not plain need not be wrong; the walks of `sampan.kube.validation` and `decoding` say.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sampan.kube import quantity

if TYPE_CHECKING:
    from sampan.kube.schema import Schema

MICRO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
"""A moment: (date and time, digits of the second's fraction, zone)."""

Check = Callable[[Any], bool]

_CHECKS: dict[int, tuple[Schema, Check]] = {}
"""By the identity of a root schema, which is kept with it."""
INT32, INT64 = 2**31, 2**63


def is_plain(schema: Schema, obj: Any) -> bool:
    """Only for built-in kinds: any object of a structural schema is said not to be."""
    if schema.structural:
        return False
    found = _CHECKS.get(id(schema))
    if found is None or found[0] is not schema:
        found = _CHECKS[id(schema)] = (schema, _check_of(schema, {}))
    return found[1](obj)


def _never(_: Any) -> bool:
    return False


def _always(_: Any) -> bool:
    return True


def _text(value: Any) -> bool:
    return value.__class__ is str


def _flag(value: Any) -> bool:
    return value.__class__ is bool


def _int32(value: Any) -> bool:
    return value.__class__ is int and -INT32 <= value < INT32


def _int64(value: Any) -> bool:
    return value.__class__ is int and -INT64 <= value < INT64


def _number(value: Any) -> bool:
    return value.__class__ is int or (value.__class__ is float and math.isfinite(value))


def _int_or_text(value: Any) -> bool:
    return value.__class__ is str or _int32(value)


def _mapping(value: Any) -> bool:
    return value.__class__ is dict


def _base64(value: Any) -> bool:
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError, TypeError):
        return False
    return value.__class__ is str


def _quantity(value: Any) -> bool:
    try:
        # in a list of resources there is nothing below a thousandth
        return value.__class__ is str and quantity.in_list(value) == quantity.canonical(value) == value
    except quantity.QuantityError:
        return False


@lru_cache(maxsize=4096)
def _moment(text: str, digits: int) -> bool:
    match = MICRO.fullmatch(text)
    if match is None or len(match[2] or "") != digits:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _time(value: Any) -> bool:
    return value.__class__ is str and _moment(value, 0)


def _micro_time(value: Any) -> bool:
    return value.__class__ is str and _moment(value, 6)


_SCALARS: dict[tuple[str, str], Check] = {
    ("string", ""): _text,
    ("string", "byte"): _base64,
    ("string", "quantity"): _quantity,
    ("string", "date-time"): _time,
    ("string", "micro-time"): _micro_time,
    ("boolean", ""): _flag,
    ("integer", "int32"): _int32,
    ("integer", "int64"): _int64,
    ("integer", ""): _int64,
    ("number", "double"): _number,
    ("number", ""): _number,
}
_BOUNDS = ("minimum", "maximum", "pattern", "minLength", "maxLength", "enum", "multipleOf")


def _check_of(schema: Schema, made: dict[str, Check]) -> Check:
    """The check of a node. `made` holds those of definitions, some of which hold themselves."""
    if schema.open:
        return _mapping if schema.type == "object" else _always
    if schema.structural or schema.embedded or schema.nullable or any(word in schema.raw for word in _BOUNDS):
        return _never
    if schema.int_or_string:
        return _int_or_text
    if schema.type == "array":
        return _list_of(_check_of(schema.items, made))
    if schema.type != "object":
        return _SCALARS.get((schema.type, schema.format), _never)
    if schema.definition:
        if schema.definition not in made:
            made[schema.definition] = _object_of(schema, made)
        return made[schema.definition]
    return _object_of(schema, made)


def _list_of(check: Check) -> Check:
    def plain(value: Any) -> bool:
        if value.__class__ is not list:
            return False
        for item in value:  # noqa: SIM110 - half the time of a generator
            if not check(item):
                return False
        return True

    return plain


def _object_of(schema: Schema, made: dict[str, Check]) -> Check:
    checks: dict[str, Check] = {}
    required, omitted = tuple(schema.required), schema.omitted

    def child(name: str) -> Check:
        """Made when a field is first met: most of a definition's fields are never seen."""
        node = schema.properties.get(name) or schema.values
        check = _never if node is None else _check_of(node, made)
        if name in schema.properties:
            checks[name] = check
        return check

    def plain(value: Any) -> bool:
        if value.__class__ is not dict:
            return False
        for name, item in value.items():
            if not item and name in omitted and item.__class__ is not dict and item.__class__ is not list:
                return False
            check = checks.get(name)
            if check is _text:
                if item.__class__ is not str:
                    return False
            elif not (check or child(name))(item):
                return False
        for name in required:  # noqa: SIM110 - half the time of a generator
            if name not in value:
                return False
        return True

    if schema.properties or schema.values is None:
        return plain
    every = _check_of(schema.values, made)

    def plain_map(value: Any) -> bool:
        if value.__class__ is not dict:
            return False
        for item in value.values():  # noqa: SIM110 - half the time of a generator
            if not every(item):
                return False
        return True

    return plain_map
