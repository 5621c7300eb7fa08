"""The functions of expressions, as rows: a signature and what it does. Kubernetes' own are in `kubernetes.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sampan.cluster.apiserver.cel.types import Type, parse_type
from sampan.cluster.apiserver.cel.values import (
    EvaluationFault,
    Format,
    MapList,
    Optional,
    SetList,
    UInt,
    equal,
    is_number,
    type_name,
)
from sampan.kube.patterns import Pattern, compiled

CONSTANTS: dict[str, Any] = {}
_INT, _UINT = (-(2**63), 2**63 - 1), (0, 2**64 - 1)


class Overload(NamedTuple):
    receiver: bool
    parameters: tuple[Type, ...]
    result: Type
    function: Callable[..., Any]


FUNCTIONS: dict[str, list[Overload]] = {}
_SIGNATURE = re.compile(r"(?P<name>[^()\s]+)\((?P<parameters>.*)\) -> (?P<result>.+)")


def register(rows: dict[str, Callable[..., Any]]) -> None:
    """Rows of `name(A, B) -> C`, or `.name(A, B) -> C` for a method of A."""
    for signature, function in rows.items():
        match = _SIGNATURE.fullmatch(signature)
        assert match is not None, signature
        name = match["name"]
        receiver = name.startswith(".")
        parameters = parse_type(f"x({match['parameters']})").parameters if match["parameters"] else ()
        overload = Overload(receiver, parameters, parse_type(match["result"]), function)
        FUNCTIONS.setdefault(name.removeprefix("."), []).append(overload)


def dispatcher(name: str, overloads: list[Overload]) -> Callable[..., Any]:
    """Of several overloads the one whose types the values have: for values whose types were not known before."""

    def call(*values: Any) -> Any:
        names = [type_name(value) for value in values]
        for overload in overloads:
            wanted = [SHORT.get(kind.name, kind.name) for kind in overload.parameters]
            if all(w in (n, "dyn") or len(w) == 1 for w, n in zip(wanted, names, strict=True)):
                return overload.function(*values)
        raise EvaluationFault("no such overload")

    return call


SHORT = {
    "timestamp": "google.protobuf.Timestamp", "duration": "google.protobuf.Duration", "null": "null_type",
}  # fmt: skip


# -- arithmetic


def _same(one: Any, other: Any) -> None:
    if type_name(one) != type_name(other):
        raise TypeError


def _number(value: Any, like: Any) -> Any:
    """A result in the type of its operands. Raises OverflowError."""
    if isinstance(like, float):
        return float(value)
    low, high = _UINT if isinstance(like, UInt) else _INT
    if not low <= value <= high:
        raise OverflowError("unsigned integer overflow" if isinstance(like, UInt) else "integer overflow")
    return UInt(value) if isinstance(like, UInt) else int(value)


def _add(one: Any, other: Any) -> Any:
    if isinstance(one, list) and isinstance(other, list):
        return _joined(one, other)
    if isinstance(one, datetime | timedelta) or isinstance(other, datetime | timedelta):
        return one + other
    _same(one, other)
    if is_number(one):
        return _number(one + other, one)
    if isinstance(one, str | bytes):
        return one + other
    raise TypeError


def _joined(one: list[Any], other: list[Any]) -> list[Any]:
    if isinstance(one, SetList):
        return SetList([*one, *(item for item in other if not any(equal(item, present) for present in one))])
    if isinstance(one, MapList):
        merged = {tuple(item.get(key) for key in one.keys): item for item in one}
        merged |= {tuple(item.get(key) for key in one.keys): item for item in other}
        result = MapList(merged.values())
        result.keys = one.keys
        return result
    return [*one, *other]


def _subtract(one: Any, other: Any) -> Any:
    if isinstance(one, datetime | timedelta):
        return one - other
    _same(one, other)
    return _number(one - other, one)


def _multiply(one: Any, other: Any) -> Any:
    _same(one, other)
    if not is_number(one):
        raise TypeError
    return _number(one * other, one)


def _divide(one: Any, other: Any) -> Any:
    _same(one, other)
    if isinstance(one, float):
        if other:
            return one / other
        return float("nan") if not one else float("inf") * one
    if not other:
        raise ArithmeticError("division by zero")
    quotient = abs(one) // abs(other)
    return _number(quotient if (one < 0) == (other < 0) else -quotient, one)


def _modulo(one: Any, other: Any) -> Any:
    _same(one, other)
    if not other:
        raise ArithmeticError("modulus by zero")
    rest = abs(one) % abs(other)
    return _number(-rest if one < 0 else rest, one)


def _negate(value: Any) -> Any:
    if not is_number(value) or isinstance(value, UInt):
        raise TypeError
    return _number(-value, value)


def _not(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return not value


def _compare(one: Any, other: Any) -> int:
    if not (is_number(one) and is_number(other)):
        _same(one, other)
        if isinstance(one, list | dict) or one is None:
            raise TypeError
    return bool(one > other) - bool(one < other)


def _in(item: Any, owner: Any) -> bool:
    if isinstance(owner, dict):
        return item in owner
    return any(equal(item, present) for present in owner)


_PLAIN = ("int", "uint", "double", "string", "bytes", "bool", "timestamp", "duration")
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "_<_": lambda a, b: _compare(a, b) < 0,
    "_<=_": lambda a, b: _compare(a, b) <= 0,
    "_>_": lambda a, b: _compare(a, b) > 0,
    "_>=_": lambda a, b: _compare(a, b) >= 0,
}
register({f"{name}({kind}, {kind}) -> bool": run for name, run in _ORDERED.items() for kind in _PLAIN})
register({f"_{sign}_({kind}, {kind}) -> {kind}": run for sign, run in (("+", _add), ("-", _subtract), ("*", _multiply), ("/", _divide)) for kind in ("int", "uint", "double")})  # fmt: skip  # noqa: E501
register({
    "_==_(A, A) -> bool": equal,
    "_!=_(A, A) -> bool": lambda a, b: not equal(a, b),
    "_==_(A, null) -> bool": equal, "_==_(null, A) -> bool": equal,
    "_!=_(A, null) -> bool": lambda a, b: not equal(a, b), "_!=_(null, A) -> bool": lambda a, b: not equal(a, b),
    "@in(A, list(A)) -> bool": _in, "@in(A, map(A, B)) -> bool": _in,
    "!_(bool) -> bool": _not, "-_(int) -> int": _negate, "-_(double) -> double": _negate,
    "_%_(int, int) -> int": _modulo, "_%_(uint, uint) -> uint": _modulo,
    "_+_(string, string) -> string": _add, "_+_(bytes, bytes) -> bytes": _add,
    "_+_(list(A), list(A)) -> list(A)": _add, "_+_(timestamp, duration) -> timestamp": _add,
    "_+_(duration, timestamp) -> timestamp": _add, "_+_(duration, duration) -> duration": _add,
    "_-_(timestamp, timestamp) -> duration": _subtract, "_-_(timestamp, duration) -> timestamp": _subtract,
    "_-_(duration, duration) -> duration": _subtract,
})  # fmt: skip


# -- conversions

_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def duration(text: str) -> timedelta:
    """Go's form, such as `1h30m`. Raises ValueError."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return timedelta()
    if not rest or _DURATION.sub("", rest):
        raise ValueError(f'time: invalid duration "{text}"')
    return timedelta(seconds=sign * sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(rest)))


def timestamp(text: str) -> datetime:
    if "T" not in text:
        raise ValueError(f"invalid timestamp {text}")
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _int(value: Any) -> int:
    if isinstance(value, datetime):
        return int(value.timestamp())
    return int(_number(int(value), 0))


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        return f"{int(seconds) if seconds.is_integer() else seconds}s"
    return str(value)


def _bool(text: str) -> bool:
    if text in ("true", "True", "TRUE", "t", "1"):
        return True
    if text in ("false", "False", "FALSE", "f", "0"):
        return False
    raise ValueError("type conversion error from 'string' to 'bool'")


def pattern(text: str) -> Pattern:
    """Raises ValueError."""
    return compiled(text)


def _zoned(moment: datetime, zone: str = "UTC") -> datetime:
    from zoneinfo import ZoneInfo

    if match := re.fullmatch(r"([+-]?)(\d\d):(\d\d)", zone):
        shift = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return moment.astimezone(UTC) + (-shift if match[1] == "-" else shift)
    return moment.astimezone(ZoneInfo(zone))


def _value(optional: Optional) -> Any:
    if not optional.present:
        raise EvaluationFault("optional.none() dereference")
    return optional.value


_PARTS: dict[str, Callable[[datetime], int]] = {
    "getFullYear": lambda t: t.year, "getMonth": lambda t: t.month - 1, "getDate": lambda t: t.day,
    "getDayOfMonth": lambda t: t.day - 1, "getDayOfWeek": lambda t: t.isoweekday() % 7,
    "getDayOfYear": lambda t: t.timetuple().tm_yday - 1, "getHours": lambda t: t.hour,
    "getMinutes": lambda t: t.minute, "getSeconds": lambda t: t.second,
    "getMilliseconds": lambda t: t.microsecond // 1000,
}  # fmt: skip
for _name, _part in _PARTS.items():
    register({
        f".{_name}(timestamp) -> int": lambda t, part=_part: part(_zoned(t)),
        f".{_name}(timestamp, string) -> int": lambda t, zone, part=_part: part(_zoned(t, zone)),
    })  # fmt: skip
register({
    f".{name}(duration) -> int": lambda d, unit=unit: int(d.total_seconds() * unit)
    for name, unit in (("getHours", 1 / 3600), ("getMinutes", 1 / 60), ("getSeconds", 1), ("getMilliseconds", 1000))
})  # fmt: skip
register({f"int({kind}) -> int": _int for kind in ("int", "uint", "double", "string", "timestamp")})
register({f"uint({kind}) -> uint": lambda v: _number(int(v), UInt(0)) for kind in ("int", "uint", "double", "string")})
register({f"double({kind}) -> double": float for kind in ("int", "uint", "double", "string")})
register({f"string({kind}) -> string": _string for kind in (*_PLAIN, "kubernetes.Semver", "net.IP", "net.CIDR")})
register({
    "bool(bool) -> bool": bool, "bool(string) -> bool": _bool, "dyn(A) -> dyn": lambda v: v,
    "bytes(string) -> bytes": str.encode, "bytes(bytes) -> bytes": bytes,
    "type(A) -> type": lambda v: Format(type_name(v)),
    "duration(string) -> duration": duration, "duration(duration) -> duration": lambda v: v,
    "timestamp(string) -> timestamp": timestamp, "timestamp(timestamp) -> timestamp": lambda v: v,
    "timestamp(int) -> timestamp": lambda v: datetime.fromtimestamp(v, UTC),
    ".contains(string, string) -> bool": lambda s, part: part in s,
    ".startsWith(string, string) -> bool": str.startswith,
    ".endsWith(string, string) -> bool": str.endswith,
    ".matches(string, string) -> bool": lambda s, p: pattern(p).search(s) is not None,
    "matches(string, string) -> bool": lambda s, p: pattern(p).search(s) is not None,
    "optional.of(A) -> optional_type(A)": lambda v: Optional(True, v),
    "optional.none() -> optional_type(dyn)": lambda: Optional(False),
    "optional.ofNonZeroValue(A) -> optional_type(A)": lambda v: Optional(bool(v), v if v else None),
    ".hasValue(optional_type(A)) -> bool": lambda o: o.present, ".value(optional_type(A)) -> A": _value,
    ".orValue(optional_type(A), A) -> A": lambda o, v: o.value if o.present else v,
    ".or(optional_type(A), optional_type(A)) -> optional_type(A)": lambda o, v: o if o.present else v,
})  # fmt: skip
for _kind in ("string", "bytes", "list(A)", "map(A, B)"):
    register({f"size({_kind}) -> int": len, f".size({_kind}) -> int": len})


CONSTANT_CHECKS: dict[str, Callable[[Any], object]] = {
    "matches": pattern, "duration": duration, "timestamp": timestamp, "find": pattern, "findAll": pattern,
}  # fmt: skip

from sampan.cluster.apiserver.cel import kubernetes as _kubernetes  # noqa: E402 - its rows join the table above

_kubernetes.register_all(register)
