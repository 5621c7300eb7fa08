"""Decoding `application/vnd.kubernetes.protobuf` bodies into objects of JSON shape.

Clients of Kubernetes 1.32 and later send bodies so; answers are always JSON, so nothing is encoded here. The names are
data (`data/protobuf-*.json.gz`, by `tools/extract_protobuf.py`). Fields that are not known are left out.
"""

from __future__ import annotations

import base64
import gzip
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from sampan.kube.objects import Object

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
DEPTH = 64
"""Messages nested deeper are refused."""

_DATA = Path(__file__).parent / "data"
_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
_CRD = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1."
_ZERO = ("", 0, False, 0.0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ProtobufError(ValueError):
    """A body that is not well formed; the message says how."""


class _Field(msgspec.Struct, array_like=True):
    name: str
    type: str
    shape: str
    keep_zero: int


class _Table(msgspec.Struct):
    kinds: dict[str, str]
    messages: dict[str, msgspec.Raw]


@cache
def _table() -> _Table:
    text = gzip.decompress((_DATA / "protobuf-1.36.json.gz").read_bytes())
    return msgspec.json.decode(text, type=_Table)


@cache
def _message(name: str) -> tuple[dict[int, _Field], bool]:
    """The fields of a message by number, and whether it stands for a list."""
    raw = msgspec.json.decode(_table().messages[name])
    is_list = raw.pop("list", None) is not None
    return {int(number): msgspec.convert(row, _Field) for number, row in raw.items()}, is_list


# -- the wire --------------------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ProtobufError("unexpected end of data")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ProtobufError("a varint is too long")


def _wire(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, raw value): an int for varints, bytes for the rest."""
    at, size = 0, len(data)
    while at < size:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise ProtobufError("a field has the number 0")
        if kind == 0:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ProtobufError(f"wire type {kind} is not supported")
        if at + length > size:
            raise ProtobufError("unexpected end of data")
        yield number, kind, data[at : at + length]
        at += length


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _scalar(kind: str, wire: int, value: Any) -> Any:
    expected = {"string": 2, "bytes": 2, "double": 1, "float": 5}.get(kind, 0)
    if wire != expected:
        raise ProtobufError(f"wire type {wire} where {kind} is expected")
    match kind:
        case "string":
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise ProtobufError("a string is not UTF-8") from error
        case "bytes":
            return base64.b64encode(value).decode()
        case "bool":
            return bool(value)
        case "double":
            return struct.unpack("<d", value)[0]
        case "float":
            return struct.unpack("<f", value)[0]
        case "uint32" | "uint64":
            return value
    number = _signed(value)
    return ((number + 2**31) & 0xFFFFFFFF) - 2**31 if kind == "int32" else number


def _decode(kind: str, wire: int, value: Any, depth: int) -> Any:
    if kind in _table().messages:
        if wire != 2:
            raise ProtobufError(f"wire type {wire} where a message is expected")
        return _decode_message(kind, value, depth + 1)
    return _scalar(kind, wire, value)


def _decode_message(name: str, data: bytes, depth: int) -> Any:
    if depth > DEPTH:
        raise ProtobufError("messages are nested too deep")
    special = _SPECIAL.get(name)
    if special is not None:
        return special(data, depth)
    fields, is_list = _message(name)
    result: dict[str, Any] = {}
    for number, wire, value in _wire(data):
        field = fields.get(number)
        if field is None:
            continue
        shape = field.shape
        if shape == "r":
            items = result.setdefault(field.name, [])
            if wire == 2 and field.type in ("int32", "int64", "bool", "uint32", "uint64"):
                at = 0
                while at < len(value):  # packed
                    item, at = _varint(value, at)
                    items.append(_scalar(field.type, 0, item))
            else:
                items.append(_decode(field.type, wire, value, depth))
        elif shape == "m":
            key, item = _entry(field.type, value, depth)
            result.setdefault(field.name, {})[key] = item
        else:
            item = _decode(field.type, wire, value, depth)
            if shape == "i":
                result.update(item)
            elif item is not None and (field.keep_zero or item not in _ZERO):
                result[field.name] = item
    return result.get("items", []) if is_list else result


def _entry(kind: str, data: bytes, depth: int) -> tuple[str, Any]:
    if not isinstance(data, bytes):
        raise ProtobufError("a map entry is not a message")
    key = ""
    item: Any = None
    for number, wire, value in _wire(data):
        if number == 1:
            key = _scalar("string", wire, value)
        elif number == 2:
            item = _decode(kind, wire, value, depth)
    if item is None:
        item = _decode(kind, 2, b"", depth) if kind in _table().messages or kind in ("string", "bytes") else 0
    return key, item


# -- messages whose JSON is not an object of their fields -----------------------------------------------------------


def _values(data: bytes) -> dict[int, Any]:
    return {number: value for number, _, value in _wire(data)}


def _time(data: bytes, _: int, *, micro: bool = False) -> str | None:
    if not data:
        return None  # the zero time
    values = _values(data)
    try:
        moment = _EPOCH + timedelta(seconds=_signed(values.get(1, 0)), microseconds=values.get(2, 0) // 1000)
    except (OverflowError, TypeError) as error:
        raise ProtobufError("a time is out of range") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _text(data: bytes, _: int) -> str:
    value = _values(data).get(1, b"")
    return str(_scalar("string", 2, value))


def _quantity(data: bytes, depth: int) -> str:
    return _text(data, depth) or "0"


def _int_or_string(data: bytes, _: int) -> int | str:
    values = _values(data)
    if values.get(1, 0) == 1:
        return str(_scalar("string", 2, values.get(3, b"")))
    return int(_scalar("int32", 0, values.get(2, 0)))


def _raw_json(data: bytes, _: int) -> Any:
    raw = _values(data).get(1, b"")
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, TypeError) as error:
        raise ProtobufError("embedded JSON is not well formed") from error


def _duration(data: bytes, _: int) -> str:
    return f"{_signed(_values(data).get(1, 0)) / 1e9:g}s"


def _schema(data: bytes, depth: int) -> Any:
    return _decode_message(_CRD + "JSONSchemaProps", data, depth + 1)


def _schema_or_array(data: bytes, depth: int) -> Any:
    several = [_schema(value, depth) for number, _, value in _wire(data) if number == 2]
    one = _values(data).get(1)
    return _schema(one, depth) if one is not None else several


def _schema_or_bool(data: bytes, depth: int) -> Any:
    values = _values(data)
    return _schema(values[2], depth) if 2 in values else bool(values.get(1, 0))


def _schema_or_strings(data: bytes, depth: int) -> Any:
    values = _values(data)
    if 1 in values:
        return _schema(values[1], depth)
    return [_scalar("string", wire, value) for number, wire, value in _wire(data) if number == 2]


_SPECIAL: dict[str, Callable[[bytes, int], Any]] = {
    _META + "Time": _time,
    _META + "MicroTime": lambda data, depth: _time(data, depth, micro=True),
    _META + "Duration": _duration,
    _META + "FieldsV1": _raw_json,
    "k8s.io.apimachinery.pkg.api.resource.Quantity": _quantity,
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
    "k8s.io.apimachinery.pkg.runtime.RawExtension": _raw_json,
    _CRD + "JSON": _raw_json,
    _CRD + "JSONSchemaPropsOrArray": _schema_or_array,
    _CRD + "JSONSchemaPropsOrBool": _schema_or_bool,
    _CRD + "JSONSchemaPropsOrStringArray": _schema_or_strings,
}


# -- bodies ----------------------------------------------------------------------------------------------------------


def decode(body: bytes) -> Object:
    """The object of a body. Raises ProtobufError for one that is malformed, or of a kind that is not known."""
    if not body.startswith(MAGIC):
        raise ProtobufError("the body does not start with the mark of Kubernetes protobuf")
    api_version = kind = content_type = ""
    raw = b""
    for number, wire, value in _wire(body[len(MAGIC) :]):
        if number > 4:
            continue
        if wire != 2:
            raise ProtobufError("the envelope is malformed")
        if number == 1:
            values = _values(value)
            api_version, kind = (_scalar("string", 2, values.get(key, b"")) for key in (1, 2))
        elif number == 2:
            raw = value
        elif number == 4:
            content_type = _scalar("string", wire, value)
    if content_type == "application/json":
        obj = msgspec.json.decode(raw)
        return {"apiVersion": api_version, "kind": kind, **obj}
    message = message_of(api_version, kind)
    if message is None:
        raise ProtobufError(f'no kind "{kind}" is registered for version "{api_version}"')
    try:
        obj = _decode_message(message, raw, 0)
    except (TypeError, AttributeError) as error:
        raise ProtobufError("a field has the wrong wire type") from error
    return {"apiVersion": api_version, "kind": kind, **obj}


def message_of(api_version: str, kind: str) -> str | None:
    """The name of the message of a kind; options (DeleteOptions...) are known under every API version."""
    kinds = _table().kinds
    return kinds.get(f"{api_version}/{kind}") or kinds.get(f"*/{kind}")
