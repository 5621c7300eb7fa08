"""What keeps a body from being decoded or applied as a built-in kind, in upstream's words."""

from __future__ import annotations

import json
import re
from typing import Any

from sampan.kube import numbers, quantity
from sampan.kube.errors import ApiError
from sampan.kube.patch import fields
from sampan.kube.plain import is_plain
from sampan.kube.quantity import QuantityError
from sampan.kube.schema import Schema
from sampan.kube.validation import GO_TYPES, fits, join
from sampan.kube.wrong_types import json_type


def _go_type(node: Schema) -> str:
    """The Go type of a built-in field, as decoding names it: `v1.PodSpec`, `[]v1.Container`, `map[string]string`."""
    if node.definition:
        return ".".join(node.definition.split(".")[-2:])
    if node.type == "array":
        return f"[]{_go_type(node.items)}"
    if node.type == "object" and node.values is not None:
        return f"map[string]{_go_type(node.values)}"
    return node.format or GO_TYPES.get(node.type, node.type)


def json_word(value: Any) -> str:
    """The type of a JSON value as Go's decoder calls it."""
    found = json_type(value)
    return {"integer": "number", "boolean": "bool"}.get(found, found)


def _fits_bits(value: int, form: str) -> bool:
    bits = 31 if form == "int32" else 63
    return bool(-(2**bits) <= value < 2**bits)


_BASE64 = re.compile(r"[A-Za-z0-9+/]*")


def _not_base64(text: str) -> str | None:
    text = text.replace("\n", "").replace("\r", "")
    body = text.rstrip("=")
    sound = _BASE64.match(text)
    at = sound.end() if sound else 0
    if at < len(body):
        return f"illegal base64 data at input byte {at}"
    if len(text) % 4 or len(text) - len(body) > 2:
        at = len(text) // 4 * 4 if text == body else min(at, len(text))
        return f"illegal base64 data at input byte {at}"
    return None


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_LAYOUTS = {"date-time": "2006-01-02T15:04:05Z07:00", "micro-time": "2006-01-02T15:04:05.000000Z07:00"}


def _not_a_time(text: str, form: str) -> str | None:
    found = _TIME.fullmatch(text)
    fraction = (found[1] or "") if found else ""
    if found and (form == "date-time" or len(fraction) == len(".000000")):
        return None
    shown = json.dumps(text, ensure_ascii=False)
    rest, wanted = shown, "2006"
    if found and len(fraction) > len(".000000"):
        rest, wanted = json.dumps(fraction[7:] + found[2]), "Z07:00"
    elif found:
        rest, wanted = json.dumps(fraction + found[2]), ".000000"
    return f'parsing time {shown} as "{_LAYOUTS[form]}": cannot parse {rest} as "{wanted}"'


_QUANTITY = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def _typed(name: str) -> str:
    """A type of a schema, as an apply names it."""
    return {"object": "map", "array": "list", "integer": "numeric (int or float)"}.get(name, name)


def _found(value: Any, wanted: str) -> str:
    """The type of a value, as an apply names it where another is wanted."""
    if isinstance(value, bool) and wanted in {"integer", "number"}:
        return "bool"
    return {dict: "map", list: "list", bool: "boolean", str: "string"}.get(type(value), f"&{{{value}}}")


_SCALARS = frozenset({"quantity", *_LAYOUTS})
"""Formats of text that an apply takes for any scalar."""

_NO_ELEMENTS: dict[type, str] = {
    dict: "associative list without keys has an element that's a map type",
    list: "not supported: associative list with lists as elements",
    type(None): "associative list without keys has an element that's an explicit null",
}
"""What keeps a value from being an element of a set."""


def typed_fault(schema: Schema, obj: Any, *, repeats: bool = False) -> str | None:
    """What keeps an object from being applied: wrong types, fields of no schema, elements that are given twice, unless
    it may have `repeats`."""
    faults: list[str] = []

    def walk(node: Schema, value: Any, path: str) -> None:
        scalar = node.format in _SCALARS and not node.structural
        if isinstance(value, dict | list if scalar else dict) and (scalar or (node.int_or_string and node.structural)):
            faults.append(f"{path}: expected any scalar, got {json_word(value)}")
            return
        if value is not None and node.open and node.structural and node.type and not fits(value, node.type):
            faults.append(f"{path}: expected {_typed(node.type)}, got {_found(value, node.type)}")
        if value is None or node.open or scalar or node.int_or_string or not node.type:
            return
        if node.type == "integer" and isinstance(value, float):
            return  # a number, if not one that goes into the field: `decode_fault` says so
        if not fits(value, node.type):
            faults.append(f"{path}: expected {_typed(node.type)}, got {_found(value, node.type)}")
        elif isinstance(value, dict):
            for key in sorted(value):
                child = node.child(key)
                if child is None:
                    faults.append(f"{path}.{key}: field not declared in schema")
                else:
                    walk(child, value[key], f"{path}.{key}")
        elif isinstance(value, list):
            elements(node, value, path)

    def elements(node: Schema, items: list[Any], path: str) -> None:
        seen: set[str] = set()
        for index, item in enumerate(items):
            where = str(index)
            if node.list_type == "map":
                if not isinstance(item, dict):
                    wrong = "a null element" if item is None else "non-map elements"
                    faults.append(f"{path}: element {index}: associative list with keys may not have {wrong}")
                    continue
                try:
                    element = fields.element_of(node, item)
                except ApiError as error:  # without its keys
                    faults.append(f"{path}: element {index}: {error.message}")
                    return
            elif node.list_type == "set":
                if unfit := _NO_ELEMENTS.get(type(item)):
                    faults.append(f"{path}: element {index}: {unfit}")
                    return
                element = fields.element_of(node, item)
            else:
                walk(node.items, item, f"{path}[{where}]")
                continue
            place = fields.text_of((element,))
            if element in seen and not repeats:
                faults.append(f"{path}: duplicate entries for key {place}")
            seen.add(element)
            walk(node.items, item, path + place)

    walk(schema, obj, "")
    if len(faults) > 1:
        return "errors:\n" + "\n".join(f"  {fault}" for fault in faults)
    return faults[0] if faults else None


def decode_fault(
    schema: Schema, obj: dict[str, Any], kind: str, version: str, *, strict: bool = False, earlier: Any = None
) -> str | None:
    """The message for a body whose types do not fit a built-in kind (upstream answers 400); None when they fit.
    `earlier`: the body with what was first given of fields that are given twice, which is read, too.

    Where it is `strict`, as after an apply, an empty text is no quantity. Else what a type of its own cannot read is
    said first, wherever it is.
    """
    wrong_types: list[str] = []

    def of_type(fault: str) -> str | None:
        if strict:
            return fault
        wrong_types.append(fault)
        return None

    def walk(node: Schema, value: Any, path: str, owner: str) -> str | None:
        if value is None or node.open:
            return None
        if node.format == "quantity":
            try:
                if isinstance(value, bool | dict | list):
                    raise QuantityError(_QUANTITY)
                quantity.parse(value)
            except QuantityError as error:
                return f"unmarshalerDecoder: {error}"
            return None
        if node.int_or_string and isinstance(value, bool | dict | list | float):
            found = json_word(value) + (f" {numbers.text(value)}" if isinstance(value, float) else "")
            if strict:
                return f"json: cannot unmarshal {found} into Go value of type int32"
            return f"json: cannot unmarshal {found} into Go struct field {owner}.{path} of type int32"
        if node.int_or_string and isinstance(value, int) and not _fits_bits(value, "int32"):
            return f"json: cannot unmarshal number {value} into Go value of type int32"
        if node.int_or_string or not node.type:
            return None
        if strict and node.type == "integer" and isinstance(value, float):
            return None if value.is_integer() else f"cannot convert float64 to {node.format}"
        if node.format == "byte" and isinstance(value, str) and (fault := _not_base64(value)):
            return of_type(fault)
        if node.format == "byte" and isinstance(value, list):
            wrong = [item for item in value if json_type(item) != "integer" or not 0 <= item < 256]
            if not wrong:
                return None
            found = json_word(wrong[0])
            return of_type(f"json: cannot unmarshal {found} into Go struct field {owner}.{path} of type uint8")
        if node.format in _LAYOUTS and isinstance(value, str) and (fault := _not_a_time(value, node.format)):
            return fault
        if not fits(value, node.type):
            found = json_word(value)
            if node.type == "integer" and isinstance(value, float):
                found += f" {value}"
            fault = f"json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {_go_type(node)}"
            return fault if node.format in _LAYOUTS else of_type(fault)
        if not strict and node.type == "integer" and isinstance(value, int) and not _fits_bits(value, node.format):
            said = f"json: cannot unmarshal number {value} into Go struct field {owner}.{path} of type {node.format}"
            return of_type(said)
        if isinstance(value, dict):
            name = node.definition.rpartition(".")[2] or owner
            for key, item in value.items():
                child = node.child(key)
                # a key of a map is no field of Go's
                where = join(path, key) if key in node.properties else path
                if child is not None and (fault := walk(child, item, where, name)):
                    return fault
        elif isinstance(value, list):
            for item in value:
                if fault := walk(node.items, item, path, owner):
                    return fault
        return None

    fault = None
    for each in (earlier, obj):
        if isinstance(each, dict) and not is_plain(schema, each):
            fault = fault or walk(schema, each, "", kind)
    fault = fault or next(iter(wrong_types), None)
    return f'{kind} in version "{version}" cannot be handled as a {kind}: {fault}' if fault else None


def narrow(schema: Schema, obj: dict[str, Any]) -> None:
    """Cut whole numbers that are too large for their fields, in place, to as many bits: so an apply reads them."""

    def walk(node: Schema | None, value: Any) -> Any:
        if node is None or node.open:
            return value
        if node.type == "integer" and isinstance(value, int | float) and not isinstance(value, bool):
            return value if value % 1 else numbers.cut(value, 32 if node.format == "int32" else 64)
        if isinstance(value, dict):
            value.update({key: walk(node.child(key), item) for key, item in value.items()})
        elif isinstance(value, list):
            value[:] = [walk(node.items, item) for item in value]
        return value

    if not is_plain(schema, obj):
        walk(schema, obj)
