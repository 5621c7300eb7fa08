"""What makes the schema of a definition structural, and what it may not hold; its rules in CEL are checked here too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from sampan.kube.errors import Cause
from sampan.kube.patterns import PatternError, compiled
from sampan.kube.schema import Schema
from sampan.kube.validation import shown, validate

TYPES = ("array", "boolean", "integer", "number", "object", "string")
RULES = "x-kubernetes-validations"
_MAP_LIST = "must not be empty if x-kubernetes-list-type is map"
_ONE_ITEM_TYPE = "must be object if parent array's x-kubernetes-list-type is map"


def causes(raw: dict[str, Any], path: str) -> list[Cause]:
    """Every fault of an `openAPIV3Schema`."""
    found = list(_node(raw, path, root=True))
    if not found and RULES.encode() in msgspec.json.encode(raw):
        from sampan.cluster.apiserver.cel.rules import definition_causes

        found = definition_causes(raw, path)
    return found


def _forbidden(path: str, detail: str) -> Cause:
    return Cause(path, f"Forbidden: {detail}", "FieldValueForbidden")


def _required(path: str, detail: str) -> Cause:
    return Cause(path, f"Required value: {detail}", "FieldValueRequired")


def _node(raw: Any, path: str, *, root: bool = False, inside: str = "object fields") -> Iterator[Cause]:
    if not isinstance(raw, dict):
        return
    kind = raw.get("type")
    if raw.get("$ref"):
        yield _forbidden(f"{path}.$ref", "$ref is not supported")
        return
    if kind and kind not in TYPES:
        choices = ", ".join(f'"{name}"' for name in TYPES)
        text = f"Unsupported value: {shown(kind)}: supported values: {choices}"
        yield Cause(f"{path}.type", text, "FieldValueNotSupported")
        return
    free = raw.get("x-kubernetes-int-or-string") or raw.get("x-kubernetes-preserve-unknown-fields")
    if not kind and not free and not root:
        yield _required(f"{path}.type", f"must not be empty for specified {inside}")
    if raw.get("x-kubernetes-preserve-unknown-fields") is False:
        yield Cause(f"{path}.x-kubernetes-preserve-unknown-fields", "Invalid value: false: must be true or undefined")
    if raw.get("uniqueItems"):
        detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield _forbidden(f"{path}.uniqueItems", detail)
    if raw.get("properties") and raw.get("additionalProperties"):
        detail = "additionalProperties and properties are mutual exclusive"
        yield _forbidden(f"{path}.additionalProperties", detail)
    yield from _pattern(raw, path)
    yield from _list(raw, path)
    yield from _default(raw, path)
    for word in ("allOf", "anyOf", "oneOf"):
        for index, part in enumerate(raw.get(word) or ()):
            yield from _value_only(part, f"{path}.{word}[{index}]", bool(raw.get("x-kubernetes-int-or-string")))
    yield from _value_only(raw.get("not"), f"{path}.not", False)
    for name, part in (raw.get("properties") or {}).items():
        yield from _node(part, f"{path}.properties[{name}]", root=root and name == "metadata")
    yield from _node(raw.get("additionalProperties"), f"{path}.additionalProperties")
    yield from _node(raw.get("items"), f"{path}.items", inside="array items")


def _pattern(raw: dict[str, Any], path: str) -> Iterator[Cause]:
    pattern = raw.get("pattern")
    if not isinstance(pattern, str) or not pattern:
        return
    try:
        compiled(pattern)
    except PatternError as error:
        said = f"Invalid value: {shown(pattern)}: must be a valid regular expression, but isn't: {error}"
        yield Cause(f"{path}.pattern", said)


def _list(raw: dict[str, Any], path: str) -> Iterator[Cause]:
    if raw.get("type") != "array":
        return
    items = raw.get("items")
    if items is None:
        yield _required(f"{path}.items", "must be specified")
        return
    if raw.get("x-kubernetes-list-type") != "map":
        return
    if isinstance(items, dict) and items.get("type") != "object":
        yield Cause(f"{path}.items.type", f"Invalid value: {shown(items.get('type') or '')}: {_ONE_ITEM_TYPE}")
    if not raw.get("x-kubernetes-list-map-keys"):
        yield _required(f"{path}.x-kubernetes-list-map-keys", _MAP_LIST)


def _default(raw: dict[str, Any], path: str) -> Iterator[Cause]:
    if "default" not in raw:
        return
    for fault in validate(Schema(raw), raw["default"]):
        where = f"{path}.default.{fault.field}" if fault.field else f"{path}.default"
        yield Cause(where, fault.message, fault.reason)


def _value_only(raw: Any, path: str, numbers_or_text: bool) -> Iterator[Cause]:
    """Within allOf, anyOf, oneOf and not a structural schema says nothing of types."""
    if not isinstance(raw, dict):
        return
    if raw.get("type") and not numbers_or_text:
        yield _forbidden(f"{path}.type", "must be empty to be structural")
    for word in ("default", "description", "nullable", "title"):
        if raw.get(word):
            yield _forbidden(f"{path}.{word}", "must be undefined to be structural")
    yield from _pattern(raw, path)
    for name, part in (raw.get("properties") or {}).items():
        yield from _value_only(part, f"{path}.properties[{name}]", False)
    yield from _value_only(raw.get("items"), f"{path}.items", False)
    for word in ("allOf", "anyOf", "oneOf"):
        for index, part in enumerate(raw.get(word) or ()):
            yield from _value_only(part, f"{path}.{word}[{index}]", numbers_or_text)
