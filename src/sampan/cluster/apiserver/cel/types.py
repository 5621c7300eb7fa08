"""Types of expressions. `DYN` fits everything; an object type knows its fields; one capital letter is a variable."""

from __future__ import annotations

from collections.abc import Mapping


class Type:
    """`name` with `parameters`, such as list(string); `fields` for an object with a known schema."""

    __slots__ = ("fields", "name", "parameters")

    def __init__(self, name: str, parameters: tuple[Type, ...] = (), fields: Mapping[str, Type] | None = None) -> None:
        self.name, self.parameters, self.fields = name, parameters, fields

    def __str__(self) -> str:
        inner = ", ".join(map(str, self.parameters))
        return f"{self.name}({inner})" if inner else self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Type) and self.name == other.name and self.parameters == other.parameters

    def __hash__(self) -> int:
        return hash((self.name, self.parameters))


DYN, BOOL, INT, UINT, DOUBLE = Type("dyn"), Type("bool"), Type("int"), Type("uint"), Type("double")
STRING, BYTES, NULL, TYPE = Type("string"), Type("bytes"), Type("null"), Type("type")
TIMESTAMP, DURATION = Type("timestamp"), Type("duration")
SHOWN = {"timestamp": "google.protobuf.Timestamp", "duration": "google.protobuf.Duration"}


def list_of(item: Type) -> Type:
    return Type("list", (item,))


def map_of(key: Type, value: Type) -> Type:
    return Type("map", (key, value))


def optional_of(item: Type) -> Type:
    return Type("optional_type", (item,))


def parse_type(text: str) -> Type:
    """`list(string)`, `map(A, B)`, `kubernetes.Quantity`."""
    text = text.strip()
    name, bracket, rest = text.partition("(")
    if not bracket:
        return Type(name)
    depth, start, parts = 0, 0, []
    inner = rest[:-1]
    for index, char in enumerate(inner):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and not depth:
            parts.append(inner[start:index])
            start = index + 1
    return Type(name, tuple(parse_type(part) for part in (*parts, inner[start:])))


def unify(wanted: Type, found: Type, bound: dict[str, Type]) -> bool:
    """Whether `found` may stand where `wanted` is asked for; binds the variables of `wanted`."""
    if len(wanted.name) == 1:
        present = bound.get(wanted.name)
        if present is None or present.name == "dyn":
            bound[wanted.name] = found
            return True
        return unify(present, found, bound)
    if "dyn" in (wanted.name, found.name):
        return True
    if found.name == "null" and (wanted.fields is not None or "." in wanted.name):
        return True
    if wanted.name != found.name or len(wanted.parameters) != len(found.parameters):
        return False
    return all(unify(w, f, bound) for w, f in zip(wanted.parameters, found.parameters, strict=True))


def resolve(kind: Type, bound: dict[str, Type]) -> Type:
    if len(kind.name) == 1:
        return bound.get(kind.name, DYN)
    if not kind.parameters:
        return kind
    return Type(kind.name, tuple(resolve(one, bound) for one in kind.parameters), kind.fields)
