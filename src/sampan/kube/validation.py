"""Walks of an object along its schema: types and rules, unknown fields, pruning, defaults, canonical forms.

Paths are upstream's: `spec.containers[0].name`, `metadata.labels[app]`. Rules in CEL (`x-kubernetes-validations`) are
not evaluated here; they stay in `Schema.raw`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import UNSET

from sampan.kube import quantity
from sampan.kube.errors import Cause
from sampan.kube.plain import MICRO, is_plain
from sampan.kube.wrong_types import FLOATS, INTEGERS, form_of, in_body, json_type, unfit, wrong_type

if TYPE_CHECKING:
    from sampan.kube.schema import Schema

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
GO_TYPES = {"object": "map[string]interface {}", "array": "[]interface {}", "boolean": "bool", "string": "string"}
_RESOURCE_FIELDS = ("apiVersion", "kind", "metadata")


_NOTHING = {"string": "", "integer": 0, "boolean": False}
_SCALARS = frozenset({str, int, float, bool})


def fits(value: Any, wanted: str) -> bool:
    found = json_type(value)
    return found == wanted or (found == "integer" and wanted == "number")


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _under(schema: Schema, path: str, name: str) -> str:
    """A named field is `.name`, a key of a map `[key]`."""
    return join(path, name) if name in schema.properties else f"{path}[{name}]"


def shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


# -- formats ---------------------------------------------------------------------------------------------------------


def _is_time(text: str) -> bool:
    if not MICRO.fullmatch(text):
        return False
    datetime.fromisoformat(text)
    return True


def _is_base64(text: str) -> bool:
    base64.b64decode(text, validate=True)
    return True


_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*"
)
_URI = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*:[^\s]*|/[^\s]*)")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_DURATION = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h|d|w))+|0")

FORMATS: dict[str, Callable[[str], object]] = {
    "date-time": _is_time,
    "micro-time": _is_time,
    "byte": _is_base64,
    "date": lambda text: datetime.strptime(text, "%Y-%m-%d"),  # noqa: DTZ007 - a date has no zone
    "ipv4": lambda text: ip_address(text).version == 4,
    "ipv6": lambda text: ip_address(text).version == 6,
    "cidr": lambda text: ip_network(text, strict=False),
    "uuid": UUID,
    "hostname": _HOST.fullmatch,
    "uri": _URI.fullmatch,
    "email": _EMAIL.fullmatch,
    "duration": _DURATION.fullmatch,
}


def _format_fault(schema: Schema, value: str) -> str | None:
    check = FORMATS.get(schema.format)
    if check is None:
        return None
    try:
        if check(value):
            return None
    except (ValueError, binascii.Error):
        pass
    return f"must be of type {schema.format}: {shown(value)}"


# -- validation ------------------------------------------------------------------------------------------------------


def validate(schema: Schema, obj: Any, path: str = "") -> list[Cause]:
    """Every fault of a value: types, required fields, enumerations, formats, patterns, limits, unique list elements."""
    causes: list[Cause] = []
    if path or not is_plain(schema, obj):
        _validate(schema, obj, path, causes)
    return causes


def _validate(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    if value is None:
        if schema.structural and schema.type and not schema.nullable:
            message = f'Invalid value: "null": {path} in body must be of type {schema.type}: "null"'
            causes.append(Cause(path, message, "FieldValueTypeInvalid"))
            _one_of_another_type(schema, value, path, causes)
        return
    if schema.format == "quantity":
        _check_quantity(value, path, causes)
        return
    if schema.int_or_string:
        if not isinstance(value, int | str) or isinstance(value, bool):
            wrong_type(value, "integer,string", path, causes)
            return
    elif schema.type and not fits(value, schema.type):
        wrong_type(value, schema.type, path, causes, form_of(schema))
        _one_of_another_type(schema, value, path, causes)
        return
    raw = schema.raw
    if schema.enum is not None and value not in schema.enum:
        supported = ", ".join(shown(str(item) if schema.structural else item) for item in schema.enum)
        message = f"Unsupported value: {shown(value)}: supported values: {supported}"
        causes.append(Cause(path, message, "FieldValueNotSupported"))
    if isinstance(value, dict):
        _validate_object(schema, value, path, causes)
    elif isinstance(value, list):
        _validate_list(schema, value, path, causes)
    elif isinstance(value, str):
        if schema.format and (fault := _format_fault(schema, value)):
            reason = "FieldValueTypeInvalid" if schema.structural else "FieldValueInvalid"
            causes.append(Cause(path, f"Invalid value: {shown(value)}: {in_body(path)} {fault}", reason))
        if schema.structural:
            _limits(raw, _STRING_LIMITS, len(value), value, path=path, causes=causes)
            pattern = raw.get("pattern")
            if pattern and not _matches(pattern, value):
                message = f"Invalid value: {shown(value)}: {in_body(path)} should match '{pattern}'"
                causes.append(Cause(path, message))
    elif not isinstance(value, bool):
        _validate_number(schema, value, path, causes)
    if schema.structural:
        _validate_combined(raw, value, path, causes)


def _check_quantity(value: Any, path: str, causes: list[Cause]) -> None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        wrong_type(value, "string", path, causes)
        return
    try:
        quantity.parse(value)
    except quantity.QuantityError as error:
        causes.append(Cause(path, f"Invalid value: {shown(value)}: {error}"))


def _matches(pattern: str, value: str) -> bool:
    from sampan.kube.patterns import PatternError, compiled

    try:
        return compiled(pattern).search(value) is not None
    except PatternError:  # stored before patterns were checked
        return True


# keyword -> (fails when, words); `{0}` is the limit
_Limit = tuple[str, Callable[[float, float], bool], str, str]
_STRING_LIMITS: tuple[_Limit, ...] = (
    ("minLength", lambda n, limit: n < limit, "should be at least {0} chars long", "FieldValueInvalid"),
    ("maxLength", lambda n, limit: n > limit, "may not be more than {0} bytes", "FieldValueTooLong"),
)
_LIST_LIMITS: tuple[_Limit, ...] = (
    ("minItems", lambda n, limit: n < limit, "should have at least {0} items", "FieldValueInvalid"),
    ("maxItems", lambda n, limit: n > limit, "must have at most {0} items", "FieldValueTooMany"),
)
_OBJECT_LIMITS: tuple[_Limit, ...] = (
    ("minProperties", lambda n, limit: n < limit, "should have at least {0} properties", "FieldValueInvalid"),
    ("maxProperties", lambda n, limit: n > limit, "must have at most {0} properties", "FieldValueTooMany"),
)


def _limits(
    raw: dict[str, Any], rows: tuple[_Limit, ...], size: int, value: Any, *, path: str, causes: list[Cause]
) -> None:
    for keyword, fails, words, reason in rows:
        limit = raw.get(keyword)
        if limit is None or not fails(size, limit):
            continue
        text = words.format(limit)
        if reason == "FieldValueTooLong":
            message = f"Too long: {text}"
        elif reason == "FieldValueTooMany":
            message = f"Too many: {size}: {text}"
        else:
            message = f"Invalid value: {shown(value) if isinstance(value, str) else size}: {in_body(path)} {text}"
        causes.append(Cause(path, message, reason))


def _validate_number(schema: Schema, value: float, path: str, causes: list[Cause]) -> None:
    raw = schema.raw
    if isinstance(value, float) and not math.isfinite(value):
        causes.append(Cause(path, f"Invalid value: {value}: must be a finite number"))
        return
    bounds = INTEGERS.get(schema.format) if schema.type == "integer" else None
    if bounds and not bounds[0] <= value <= bounds[1] and schema.structural:
        causes.append(unfit(schema.format, path))
    elif bounds and not bounds[0] <= value <= bounds[1]:
        causes.append(Cause(path, f"Invalid value: {value}: {in_body(path)} must fit in {schema.format}"))
    if abs(value) > FLOATS.get(form_of(schema), math.inf):
        causes.append(unfit(schema.format, path, "number"))
    minimum, maximum = raw.get("minimum"), raw.get("maximum")
    if minimum is not None and (value < minimum or (raw.get("exclusiveMinimum") and value == minimum)):
        words = "greater than" if raw.get("exclusiveMinimum") else "greater than or equal to"
        causes.append(Cause(path, f"Invalid value: {value}: {in_body(path)} should be {words} {minimum}"))
    if maximum is not None and (value > maximum or (raw.get("exclusiveMaximum") and value == maximum)):
        words = "less than" if raw.get("exclusiveMaximum") else "less than or equal to"
        causes.append(Cause(path, f"Invalid value: {value}: {in_body(path)} should be {words} {maximum}"))
    step = raw.get("multipleOf")
    if step and not math.isclose(value / step, round(value / step), abs_tol=1e-9):
        causes.append(Cause(path, f"Invalid value: {value}: {in_body(path)} should be a multiple of {step}"))


def _one_of_another_type(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    """A value of the wrong type is none of those listed, either."""
    if schema.structural and schema.enum is not None:
        supported = ", ".join(shown(str(item) if schema.structural else item) for item in schema.enum)
        message = f"Unsupported value: {json.dumps(value)}: supported values: {supported}"
        causes.append(Cause(path, message, "FieldValueNotSupported"))


def _validate_object(schema: Schema, value: dict[str, Any], path: str, causes: list[Cause]) -> None:
    if schema.required and (schema.structural or not path.startswith("status")):  # built-in status: zeros are left out
        causes += [
            Cause(join(path, name), "Required value", "FieldValueRequired")
            for name in schema.required
            if value.get(name) is None and (name not in value or not schema.structural)
        ]
    if schema.structural:
        _limits(schema.raw, _OBJECT_LIMITS, len(value), value, path=path, causes=causes)
    if schema.embedded:
        causes += [
            Cause(
                join(path, name),
                f"Required value{': must not be empty' if name in value else ''}",
                "FieldValueRequired",
            )
            for name in ("apiVersion", "kind")
            if not value.get(name)
        ]
    properties, values = schema.properties, schema.values
    for name, item in value.items():
        child = properties.get(name)
        if child is not None:
            _validate(child, item, f"{path}.{name}" if path else name, causes)
        elif values is not None and not schema.open:
            _validate(values, item, f"{path}[{name}]", causes)


def _validate_list(schema: Schema, value: list[Any], path: str, causes: list[Cause]) -> None:
    items = schema.items
    for index, item in enumerate(value):
        _validate(items, item, f"{path}[{index}]", causes)
    if not schema.structural:
        return
    _limits(schema.raw, _LIST_LIMITS, len(value), value, path=path, causes=causes)
    if schema.list_type not in ("set", "map"):
        return
    times: Counter[str] = Counter()
    for index, item in enumerate(value):
        if schema.list_type == "map":
            if item is None:  # of which the type is said
                item = {}  # noqa: PLW2901
            if not isinstance(item, dict):
                message = f"Invalid value: {json.dumps(item)}: must be an object for an array of list-type map"
                causes.append(Cause(f"{path}[{index}]", message))
                continue
            item = {key: item.get(key, _default(items, key)) for key in schema.list_map_keys}  # noqa: PLW2901
        identity = repr(item)
        times[identity] += 1
        if times[identity] == 2:  # said once of each
            text = shown(item) if not isinstance(item, dict) else json.dumps(item, separators=(",", ":"))
            causes.append(Cause(f"{path}[{index}]", f"Duplicate value: {text}", "FieldValueDuplicate"))


def _default(schema: Schema, key: str) -> Any:
    child = schema.properties.get(key)
    return None if child is None or child.default is UNSET else child.default


def _validate_combined(raw: dict[str, Any], value: Any, path: str, causes: list[Cause]) -> None:
    """`allOf`, `anyOf`, `oneOf`, `not` of structural schemas, which carry value rules only."""
    if not any(word in raw for word in ("allOf", "anyOf", "oneOf", "not")):
        return
    from sampan.kube.schema import Schema

    def passes(part: dict[str, Any]) -> bool:
        return not validate(Schema(part), value, path)

    for part in raw.get("allOf") or ():
        causes += validate(Schema(part), value, path)
    if (parts := raw.get("anyOf")) and not raw.get("x-kubernetes-int-or-string") and not any(map(passes, parts)):
        causes.append(Cause(path, f"Invalid value: {in_body(path)} must validate at least one schema (anyOf)"))
    if (parts := raw.get("oneOf")) and sum(map(passes, parts)) != 1:
        causes.append(Cause(path, f"Invalid value: {in_body(path)} must validate one and only one schema (oneOf)"))
    if "not" in raw and passes(raw["not"]):
        causes.append(Cause(path, f"Invalid value: {in_body(path)} must not validate the schema (not)"))


# -- unknown fields, pruning, defaults, canonical form ---------------------------------------------------------------


def unknown_fields(schema: Schema, obj: Any) -> list[str]:
    """`unknown field "spec.foo"` for each field the schema does not know."""
    found: list[str] = []

    def walk(node: Schema, value: Any, path: str) -> None:
        if isinstance(value, dict):
            properties, values = node.properties, node.values
            for name, item in value.items():
                child = properties.get(name)
                if child is None:
                    child = values
                    if child is None:
                        if not (node.embedded and name in _RESOURCE_FIELDS):
                            found.append(f'unknown field "{join(path, name)}"')
                        continue
                if item.__class__ is dict or item.__class__ is list:
                    walk(child, item, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            items = node.items
            for index, item in enumerate(value):
                if item.__class__ is dict or item.__class__ is list:
                    walk(items, item, f"{path}[{index}]")

    if not is_plain(schema, obj):
        walk(schema, obj, "")
    return found


def prune(schema: Schema, obj: Any) -> Any:
    """A copy without the fields the schema does not know."""
    if isinstance(obj, dict):
        properties, values = schema.properties, schema.values
        kept = {}
        for name, item in obj.items():
            child = properties.get(name) or values
            if child is not None:
                kept[name] = prune(child, item)
            elif schema.embedded and name in _RESOURCE_FIELDS:
                kept[name] = item
        return kept
    if isinstance(obj, list):
        return [prune(schema.items, item) for item in obj]
    return obj


def apply_defaults(schema: Schema, obj: Any) -> Any:
    """A copy with the defaults of a structural schema; a null that is not `nullable` is taken as absent first."""
    if isinstance(obj, dict):
        properties, values = schema.properties, schema.values
        result = {}
        for name, item in obj.items():
            child = properties.get(name) or values
            if child is None:
                result[name] = item
            elif item is None and child.structural and not child.nullable and child.default is not UNSET:
                continue
            elif child.structural:
                result[name] = apply_defaults(child, item)
            else:
                result[name] = item
        for name, child in properties.items():
            if name not in result and child.structural and child.default is not UNSET:
                result[name] = apply_defaults(child, deepcopy(child.default))
        return result
    if isinstance(obj, list):
        return [apply_defaults(schema.items, item) for item in obj]
    return obj


def without_nulls(schema: Schema, obj: Any) -> Any:
    """A copy without the nulls a structural schema neither allows nor has a default for."""
    if isinstance(obj, dict):
        kept = {}
        for name, item in obj.items():
            child = schema.properties.get(name) or schema.values
            if child is None or not child.structural:
                kept[name] = item
            elif item is not None or child.nullable or child.default is not UNSET:
                kept[name] = without_nulls(child, item)
        return kept
    if isinstance(obj, list):
        return [without_nulls(schema.items, item) for item in obj]
    return obj


def canonical(schema: Schema, obj: Any, *, applied: bool = False) -> Any:
    """A copy in canonical form: nulls dropped (kept where `nullable`), quantities, whole floats and times as upstream
    writes them, and no field that is left out when empty. What is `applied` to a custom kind keeps its nulls.
    Raises QuantityError for a quantity that is none."""
    if obj.__class__ is dict:
        properties, values = schema.properties, schema.values
        omitted = schema.omitted
        result = {}
        for name, item in obj.items():
            if not item and name in omitted and item.__class__ in _SCALARS:
                continue
            child = properties.get(name) or values
            if child is None:
                result[name] = item
            elif item is None:
                known = child.structural and name in properties  # of such a field a null that is not nullable goes
                if (
                    child.nullable
                    or (child.structural and applied)
                    or (not known and (child.open or (child.structural and not child.type)))
                ):
                    result[name] = None
                elif name not in properties and not child.structural and child.type in _NOTHING:
                    result[name] = (
                        "0" if child.format == "quantity" else _NOTHING[child.type]
                    )  # a key of a map stays, of no value
            elif child.format == "quantity" and name not in properties:
                result[name] = quantity.in_list(item)
            else:
                result[name] = canonical(child, item, applied=applied)
        return result
    if obj.__class__ is list and schema.format != "byte":
        items = schema.items
        if items.type == "object" and not items.structural:  # a structure is there, if only empty
            return [canonical(items, {} if item is None else item) for item in obj]
        return [canonical(items, item, applied=applied) for item in obj]
    form = schema.format
    if form == "quantity":
        return quantity.canonical(obj)
    if form == "byte" and obj.__class__ is list:
        return base64.b64encode(bytes(obj)).decode()
    if form == "micro-time" and isinstance(obj, str) and (match := MICRO.fullmatch(obj)):
        return f"{match[1]}.{(match[2] or '')[:6]:0<6}{match[3]}"
    if form == "date-time" and not schema.structural and isinstance(obj, str) and (match := MICRO.fullmatch(obj)):
        return match[1] + match[3]
    if schema.type == "integer" and isinstance(obj, float) and obj.is_integer():
        return int(obj)
    return obj
