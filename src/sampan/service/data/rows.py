"""Rows of a driver into what the user asked for: a decoder made once for a statement, a type and its columns.

Types are checked by msgspec, strictly: a text is no number. What an engine has no type for is read from what it keeps
instead: booleans from 0 and 1, times from text, JSON from text, UUIDs from text or bytes.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import ValidationError, convert

from sampan.model.data import RowError

Row = tuple[Any, ...]
_SCALARS: Final = frozenset({int, float, str, bytes, bool, Decimal, object, Any})
_DATES: Final = frozenset({"datetime", "date", "time"})
_PATH: Final = re.compile(r"`\$(?:\.(\w+)|\[(\d+)\])")


class Decoder:
    """`one` decodes a row, `many` all of them. `columns` are those it was made for."""

    __slots__ = ("columns", "many", "one")

    def __init__(self, columns: Sequence[str], one: Callable[[Row], Any], many: Callable[[Sequence[Row]], Any]) -> None:
        self.columns, self.one, self.many = columns, one, many


def decoder(type_: Any, columns: Sequence[str], engine: str) -> Decoder:
    """RowError when rows of `columns` can never become `type_`."""
    if type_ is tuple:
        return Decoder(columns, tuple, list)
    if type_ is dict or typing.get_origin(type_) is dict:
        _unique(columns, type_)
        return Decoder(columns, lambda row: dict(zip(columns, row, strict=True)), _each(columns))
    fields = _fields(type_)
    if fields is None and typing.get_origin(type_) is not tuple:
        return _scalar(type_, columns)
    if fields is None:
        wanted = [argument for argument in typing.get_args(type_) if argument is not Ellipsis]
        repeated = Ellipsis in typing.get_args(type_)
        hints = wanted * len(columns) if repeated else wanted
        if len(hints) != len(columns) and not repeated:
            raise RowError(f"{_name(type_)} has {len(hints)} parts, the row {len(columns)} columns")
        return _checked(type_, columns, tuple(hints), lambda row: row)
    _unique(columns, type_)
    lacking = [name for name, (_, required) in fields.items() if required and name not in columns]
    if lacking:
        raise RowError(f"{_name(type_)} needs {', '.join(lacking)}; the columns are {', '.join(columns)}")
    given = tuple(columns)
    hints = [fields[column][0] if column in fields else Any for column in columns]
    return _checked(type_, columns, tuple(hints), lambda row: dict(zip(given, row, strict=True)))


def _checked(type_: Any, columns: Sequence[str], hints: tuple[Any, ...], shape: Callable[[Row], Any]) -> Decoder:
    coercions = [(index, coerce) for index, hint in enumerate(hints) if (coerce := _coercion(hint)) is not None]

    def coerced(row: Row) -> Row:
        values = list(row)
        for index, coerce in coercions:
            if values[index] is not None:
                try:
                    values[index] = coerce(values[index])
                except (ValueError, TypeError, msgspec.MsgspecError):
                    raise _refused(type_, columns[index], row[index], hints[index]) from None
        return tuple(values)

    def one(row: Row) -> Any:
        values = coerced(row) if coercions else row
        try:
            return convert(shape(values), type_)
        except ValidationError as error:
            raise _explained(error, type_, columns, hints, values) from None

    def many(rows: Sequence[Row]) -> Any:
        every = [shape(coerced(row)) for row in rows] if coercions else [shape(row) for row in rows]
        try:
            return convert(every, whole)
        except ValidationError:
            for row in rows:
                one(row)
            raise

    whole = list[type_]
    return Decoder(columns, one, many)


def _scalar(type_: Any, columns: Sequence[str]) -> Decoder:
    if len(columns) != 1:
        raise RowError(f"{_name(type_)} is one value; the statement gives the columns {', '.join(columns)}")
    if type_ in (Any, object):
        return Decoder(columns, lambda row: row[0], lambda rows: [row[0] for row in rows])
    coerce = _coercion(type_)

    def one(row: Row) -> Any:
        value = row[0]
        if value.__class__ is type_:
            return value
        try:
            return convert(value if coerce is None or value is None else coerce(value), type_)
        except (ValidationError, ValueError, TypeError):
            raise _refused(type_, columns[0], value, type_) from None

    return Decoder(columns, one, lambda rows: [one(row) for row in rows])


def _each(columns: Sequence[str]) -> Callable[[Sequence[Row]], Any]:
    return lambda rows: [dict(zip(columns, row, strict=True)) for row in rows]


def _fields(type_: Any) -> dict[str, tuple[Any, bool]] | None:
    """Column name -> (type, required); None for what has no fields."""
    base = typing.get_origin(type_) or type_
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        described = msgspec.structs.fields(type_)
        return {field.encode_name: (field.type, field.required) for field in described}
    hints: dict[str, Any]
    if dataclasses.is_dataclass(base):
        hints = typing.get_type_hints(base, include_extras=True)
        missing = dataclasses.MISSING
        return {
            field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
            for field in dataclasses.fields(base)
            if field.init
        }
    if typing.is_typeddict(base):
        hints = typing.get_type_hints(base, include_extras=True)
        return {name: (hint, name in base.__required_keys__) for name, hint in hints.items()}
    return None


def _coercion(hint: Any) -> Callable[[Any], Any] | None:
    """How a value of a column becomes what msgspec takes for `hint`; None where it takes the driver's."""
    aware = False
    if typing.get_origin(hint) is typing.Annotated:
        hint, *more = typing.get_args(hint)
        aware = any(isinstance(meta, msgspec.Meta) and meta.tz is True for meta in more)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        return _coercion(inner[0]) if len(inner) == 1 else None
    if aware and hint is datetime:
        return _aware
    if hint is bool:
        return _boolean
    if hint is UUID:
        return _uuid
    if hint is timedelta or hint in _SCALARS or not isinstance(hint, type):
        return None if typing.get_origin(hint) not in (dict, list, tuple, set) else _json
    if issubclass(hint, (msgspec.Struct, dict, list, tuple, set)) or dataclasses.is_dataclass(hint):
        return _json
    return None


def _boolean(value: Any) -> Any:
    if value.__class__ is int and value in (0, 1):
        return value == 1
    return value != b"\0" if value.__class__ is bytes and len(value) == 1 else value


def _uuid(value: Any) -> Any:
    return UUID(bytes=value) if value.__class__ is bytes and len(value) == 16 else value


def _json(value: Any) -> Any:
    return msgspec.json.decode(value) if value.__class__ in (str, bytes) else value


def _aware(value: Any) -> Any:
    value = datetime.fromisoformat(value) if value.__class__ is str else value
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _unique(columns: Sequence[str], type_: Any) -> None:
    twice = sorted({name for name in columns if list(columns).count(name) > 1})
    if twice:
        raise RowError(f"{_name(type_)}: there is more than one column {', '.join(twice)}; name them apart with AS")


def _name(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) and not typing.get_args(type_) else str(type_)


def _explained(error: ValidationError, type_: Any, columns: Sequence[str], hints: Sequence[Any], row: Row) -> RowError:
    """Which column it was, from the path in msgspec's message; that message itself may quote the value."""
    place = _PATH.search(str(error))
    column = ""
    if place is not None:
        column = place[1] or (columns[int(place[2])] if place[2] else "")
    if column not in columns:
        return RowError(f"a row of {', '.join(columns)} does not fit {_name(type_)}")
    index = list(columns).index(column)
    return _refused(type_, column, row[index], hints[index])


def _refused(type_: Any, column: str, value: Any, hint: Any) -> RowError:
    kind = "NULL" if value is None else f"of type {type(value).__name__}"
    field = f"{_name(type_)}.{column}, which is {_name(hint)}" if hint is not type_ else _name(type_)
    return RowError(f"column {column!r} is {kind} and does not fit {field}")


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# type of a parameter -> how it is sent, where the driver would not, or would lose something
_COMMON: Final[dict[type, Callable[[Any], Any]]] = {dict: _json_text, list: _json_text}
ENCODERS: Final[dict[str, dict[type, Callable[[Any], Any]]]] = {
    "mysql": {**_COMMON, datetime: _utc, UUID: str, bytearray: bytes, memoryview: bytes},
    "sqlite": {
        **_COMMON,
        datetime: lambda value: _utc(value).isoformat(" ", "microseconds"),
        Decimal: str,
        UUID: str,
        bool: int,
    },
    "postgresql": {dict: _json_text},
}


class Encoders(dict[type, Callable[[Any], Any]]):
    """Grows by the subclasses it meets: Enums are sent as their value, Structs as JSON, other types as they are."""

    def __init__(self, engine: str) -> None:
        super().__init__(ENCODERS[engine])

    def get(self, kind: Any, default: Any = None) -> Any:
        found = super().get(kind, self)
        if found is not self:
            return found
        made: Any = None
        if issubclass(kind, Enum):
            made = _value
        elif issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind):
            made = _json_text
        self[kind] = made
        return made


def _value(member: Enum) -> Any:
    return member.value
