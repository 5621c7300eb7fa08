"""Spans and log records in the OTLP wire format, written by hand: a span of a few attributes takes some 2 us.

Every function returns bytes of one protobuf message or field; `request` joins them to an export request. The message
definitions are those of opentelemetry-proto 1.x (trace.v1, logs.v1, common.v1, resource.v1, collector).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sampan.service.telemetry.tracing import Span

ERROR: Final = b"\x7a\x02\x18\x02"  # Span.status = {code: STATUS_CODE_ERROR}
OK: Final = b"\x7a\x02\x18\x01"
_ONE: Final = tuple(bytes((number,)) for number in range(128))
_double = struct.Struct("<d").pack
_fixed64 = struct.Struct("<Q").pack
times: Final = struct.Struct("<BQBQ").pack  # the fields start and end of a span: times(57, start, 65, end)
START, END = 57, 65
SAMPLED, NOT_SAMPLED = b"\x85\x01\x01\x01\x00\x00", b"\x85\x01\x00\x01\x00\x00"  # Span.flags, the parent is local
REMOTE_SAMPLED, REMOTE_NOT_SAMPLED = b"\x85\x01\x01\x03\x00\x00", b"\x85\x01\x00\x03\x00\x00"  # the parent is remote


def varint(number: int) -> bytes:
    """Base 128, low groups first; a negative number as its 64-bit two's complement."""
    if 0 <= number < 128:
        return _ONE[number]
    if 0 <= number < 16384:
        return bytes((number & 127 | 128, number >> 7))
    number &= 0xFFFFFFFFFFFFFFFF
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def field(tag: int, body: bytes) -> bytes:
    """A length-delimited field; `tag` is its number (below 16) times 8, plus 2."""
    return _ONE[tag] + varint(len(body)) + body


def text(value: str) -> bytes:
    return value.encode("utf-8", "replace")


def value(given: Any) -> bytes:
    """An AnyValue. What is neither a number, a string, bytes, a mapping nor a sequence goes as its text."""
    match given:
        case str():
            return field(10, text(given))
        case bool():
            return b"\x10\x01" if given else b"\x10\x00"
        case int():
            return b"\x18" + varint(given) if -(2**63) <= given < 2**63 else field(10, str(given).encode())
        case float():
            return b"\x21" + _double(given)
        case bytes():
            return field(58, given)
        case Mapping():
            return field(50, b"".join(field(10, _pair(str(key), item)) for key, item in given.items()))
        case Sequence():
            return field(42, b"".join(field(10, value(item)) for item in given))
        case None:
            return b""
    return field(10, text(str(given)))


def _pair(key: str, given: Any) -> bytes:
    return field(10, text(key)) + field(18, value(given))


@functools.lru_cache(maxsize=4096, typed=True)
def _known(tag: int, key: str, given: Any) -> bytes:
    return field(tag, _pair(key, given))


def attribute(tag: int, key: str, given: Any) -> bytes:
    """One attribute as field `tag` of its message. Short values are remembered, for they come again."""
    if type(given) in _SCALARS or (type(given) is str and len(given) <= 64):
        return _known(tag, key, given)
    return field(tag, _pair(key, given))


_SCALARS: Final = frozenset({bool, int, float})


def attributes(tag: int, given: Mapping[str, Any]) -> bytes:
    return b"".join([attribute(tag, key, item) for key, item in given.items()])


def nanoseconds(moment: float) -> int:
    """Unix seconds as OTLP wants them."""
    return int(moment * 1_000_000_000)


def span(record: Span) -> bytes:
    """A field `spans` of ScopeSpans. ValueError when its ids are no hexadecimal numbers."""
    context = record.context
    assert context is not None, "a span outside a trace"
    parts = [b"\x0a\x10", bytes.fromhex(context.trace_id), b"\x12\x08", bytes.fromhex(context.span_id)]
    if context.tracestate:
        parts.append(field(26, text(context.tracestate)))
    if context.parent_id:
        parts += (b"\x22\x08", bytes.fromhex(context.parent_id))
    parts += (
        field(42, text(record.name)),
        b"\x30",
        _ONE[record.kind],
        times(START, nanoseconds(record.start), END, nanoseconds(record.end)),
        attributes(74, record.attributes),
        extras(record),
        status(record),
        SAMPLED if context.sampled else NOT_SAMPLED,
    )
    return field(18, b"".join(parts))


def status(record: Span) -> bytes:
    """Span.status with, where it failed, why; also the attribute error.type."""
    if not record.error:
        return OK if record.ok else b""
    described = field(18, text(record.description)) if record.description else b""
    known = b"" if "error.type" in record.attributes else attribute(74, "error.type", record.error)
    return known + field(122, described + b"\x18\x02")


def extras(record: Span) -> bytes:
    """The fields `events` and `links` of a span."""
    parts = [
        field(90, b"\x09" + _fixed64(nanoseconds(moment)) + field(18, text(name)) + attributes(26, given))
        for moment, name, given in record.events
    ]
    parts += [
        field(106, b"\x0a\x10" + bytes.fromhex(link[0]) + b"\x12\x08" + bytes.fromhex(link[1]))
        if len(link) == 2
        else field(
            106, b"\x0a\x10" + bytes.fromhex(link[0]) + b"\x12\x08" + bytes.fromhex(link[1]) + attributes(34, link[2])
        )
        for link in record.links
    ]
    return b"".join(parts)


def log_record(
    moment: int, severity: tuple[int, str], body: str, given: Mapping[str, Any], ids: tuple[str, str]
) -> bytes:
    """A field `log_records` of ScopeLogs. `moment` in ns; `ids` are trace and span, or empty."""
    parts = [
        b"\x09" + _fixed64(moment),
        b"\x10" + varint(severity[0]),
        field(26, text(severity[1])),
        field(42, field(10, text(body))),
        attributes(50, given),
    ]
    if ids[0]:
        parts += (b"\x4a\x10", bytes.fromhex(ids[0]), b"\x52\x08", bytes.fromhex(ids[1]))
    parts.append(b"\x59" + _fixed64(moment))
    return field(18, b"".join(parts))


def resource(given: Mapping[str, Any]) -> bytes:
    """A field `resource` of ResourceSpans and ResourceLogs."""
    return field(10, attributes(10, given))


@functools.lru_cache(maxsize=256)
def scope(name: str, version: str = "") -> bytes:
    """A field `scope` of ScopeSpans and ScopeLogs."""
    return field(10, field(10, text(name)) + (field(18, text(version)) if version else b""))


def request(resource: bytes, scoped: Mapping[bytes, Iterable[bytes]]) -> bytes:
    """An ExportTraceServiceRequest or ExportLogsServiceRequest, which have the same shape."""
    return field(10, resource + b"".join(field(18, named + b"".join(entries)) for named, entries in scoped.items()))


def fields(message: bytes) -> Iterable[tuple[int, int, Any]]:
    """(number, wire type, value) of each field: an int for a varint, else bytes. ValueError when it is cut short."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _read_varint(message, at)
        wire = tag & 7
        if wire == 0:
            number, at = _read_varint(message, at)
            yield tag >> 3, wire, number
            continue
        if wire == 2:
            length, at = _read_varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > end:
            raise ValueError(f"{length} bytes announced at byte {at}, {end - at} there")
        yield tag >> 3, wire, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"no number at byte {at}")
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


def rejected(reply: bytes) -> tuple[int, str]:
    """How many entries an Export...ServiceResponse says were not taken, and why."""
    count, reason = 0, ""
    for number, wire, partial in fields(reply):
        if number == 1 and wire == 2:
            for inner, _, found in fields(partial):
                if inner == 1:
                    count = int(found)
                elif inner == 2:
                    reason = bytes(found).decode("utf-8", "replace")
    return count, reason


def _string(found: bytes) -> str:
    return found.decode("utf-8", "replace")


def _unsigned(found: bytes) -> str:
    return str(int.from_bytes(found, "little"))


def _signed(found: int) -> str:
    return str(found - 2**64 if found >= 2**63 else found)


def _real(found: bytes) -> float | str:
    number: float = struct.unpack("<d", found)[0]
    return number if number - number == 0 else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(number), "NaN")


def _base64(found: bytes) -> str:
    import base64

    return base64.b64encode(found).decode()


# message -> field number -> (its name in JSON, the message it is or how to read it); names ending in [] are lists
_Kind = str | Callable[[Any], Any]
_JSON: Final[dict[str, dict[int, tuple[str, _Kind]]]] = {
    "traces": {1: ("resourceSpans[]", "ResourceSpans")},
    "logs": {1: ("resourceLogs[]", "ResourceLogs")},
    "ResourceSpans": {1: ("resource", "Resource"), 2: ("scopeSpans[]", "ScopeSpans")},
    "ResourceLogs": {1: ("resource", "Resource"), 2: ("scopeLogs[]", "ScopeLogs")},
    "Resource": {1: ("attributes[]", "KeyValue")},
    "ScopeSpans": {1: ("scope", "Scope"), 2: ("spans[]", "Span")},
    "ScopeLogs": {1: ("scope", "Scope"), 2: ("logRecords[]", "LogRecord")},
    "Scope": {1: ("name", _string), 2: ("version", _string)},
    "Span": {
        1: ("traceId", bytes.hex),
        2: ("spanId", bytes.hex),
        3: ("traceState", _string),
        4: ("parentSpanId", bytes.hex),
        5: ("name", _string),
        6: ("kind", int),
        7: ("startTimeUnixNano", _unsigned),
        8: ("endTimeUnixNano", _unsigned),
        9: ("attributes[]", "KeyValue"),
        11: ("events[]", "Event"),
        13: ("links[]", "Link"),
        15: ("status", "Status"),
        16: ("flags", lambda found: int.from_bytes(found, "little")),
    },
    "Event": {1: ("timeUnixNano", _unsigned), 2: ("name", _string), 3: ("attributes[]", "KeyValue")},
    "Link": {1: ("traceId", bytes.hex), 2: ("spanId", bytes.hex), 4: ("attributes[]", "KeyValue")},
    "Status": {2: ("message", _string), 3: ("code", int)},
    "LogRecord": {
        1: ("timeUnixNano", _unsigned),
        2: ("severityNumber", int),
        3: ("severityText", _string),
        5: ("body", "AnyValue"),
        6: ("attributes[]", "KeyValue"),
        9: ("traceId", bytes.hex),
        10: ("spanId", bytes.hex),
        11: ("observedTimeUnixNano", _unsigned),
    },
    "KeyValue": {1: ("key", _string), 2: ("value", "AnyValue")},
    "AnyValue": {
        1: ("stringValue", _string),
        2: ("boolValue", bool),
        3: ("intValue", _signed),
        4: ("doubleValue", _real),
        5: ("arrayValue", "ArrayValue"),
        6: ("kvlistValue", "KeyValueList"),
        7: ("bytesValue", _base64),
    },
    "ArrayValue": {1: ("values[]", "AnyValue")},
    "KeyValueList": {1: ("values[]", "KeyValue")},
}


def as_json(message: bytes, kind: str) -> dict[str, Any]:
    """The OTLP/JSON form of a request made here; `kind` is "traces" or "logs"."""
    found: dict[str, Any] = {}
    for number, _, raw in fields(message):
        name, reader = _JSON[kind][number]
        item = as_json(raw, reader) if isinstance(reader, str) else reader(raw)
        if name.endswith("[]"):
            found.setdefault(name[:-2], []).append(item)
        else:
            found[name] = item
    return found
