"""Label and field selectors: the text of query parameters and the `LabelSelector` of objects, as things that match."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from sampan.kube import names


class SelectorError(ValueError):
    """A selector that does not parse; the message says where."""


class Requirement(Struct, frozen=True):
    """`operator` is one of In, NotIn, Exists, DoesNotExist, GreaterThan, LessThan (the last two only from text)."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        if value is None:
            return False
        try:
            left, right = int(value), int(self.values[0])
        except ValueError:
            return False
        return left > right if self.operator == "GreaterThan" else left < right

    def __str__(self) -> str:
        listed = ",".join(sorted(self.values))
        match self.operator:
            case "In":
                return f"{self.key}={listed}" if len(self.values) == 1 else f"{self.key} in ({listed})"
            case "NotIn":
                return f"{self.key}!={listed}" if len(self.values) == 1 else f"{self.key} notin ({listed})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
        return f"{self.key}{'>' if self.operator == 'GreaterThan' else '<'}{listed}"


class LabelSelector(Struct, frozen=True):
    """All requirements must hold; with none, everything matches. `nothing` matches no object at all."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        labels = labels or {}
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return self.nothing or bool(self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)

_TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_PUNCTUATION = frozenset(("", "=", "==", "!=", "!", "(", ")", ",", "<", ">"))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        self.at = 0
        self.negated = False
        self.of = ""

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fault(self, found: str, expected: str) -> SelectorError:
        return SelectorError(f"unable to parse requirement: found '{found}', expected: {expected}")

    def key(self) -> str:
        key = self.take()
        if key in _PUNCTUATION:
            if self.negated:
                raise self.fault(key, "identifier")
            raise SelectorError(f"found '{key}', expected: !, identifier, or 'end of string'")
        if faults := names.qualified_name(key):
            raise SelectorError(f'unable to parse requirement: <nil>: Invalid value: "{key}": {"; ".join(faults)}')
        return key

    def value(self) -> str:
        if self.peek() in ("", ","):
            return ""
        value = self.take()
        if value in _PUNCTUATION:
            raise self.fault(value, "identifier")
        return self.checked(value)

    def checked(self, value: str) -> str:
        if faults := names.label_value(value):
            raise SelectorError(
                f'unable to parse requirement: values[0][{self.of}]: Invalid value: "{value}": {"; ".join(faults)}'
            )
        return value

    def values(self) -> tuple[str, ...]:
        if (token := self.take()) != "(":
            raise SelectorError(f"unable to parse requirement: found '{token}' expected: '('")
        values: list[str] = []
        expecting = True
        first = self.at + 1
        while True:
            token = self.take()
            if token == ")":  # noqa: S105
                return tuple(sorted({*values, ""} if expecting else set(values)))
            if token == ",":  # noqa: S105
                if expecting:
                    values.append("")
                expecting = True
            elif token in _PUNCTUATION or not expecting:
                raise self.fault(token, "',' or ')'" if self.at > first else "',', ')' or identifier")
            else:
                values.append(self.checked(token))
                expecting = False

    def requirement(self) -> Requirement:
        if self.peek() == "!":
            self.take()
            self.negated = True
            return Requirement(self.key(), "DoesNotExist")
        self.negated = False
        key = self.of = self.key()
        match self.peek():
            case "" | ",":
                return Requirement(key, "Exists")
            case "=" | "==":
                self.take()
                return Requirement(key, "In", (self.value(),))
            case "!=":
                self.take()
                return Requirement(key, "NotIn", (self.value(),))
            case "in":
                self.take()
                return Requirement(key, "In", self.values())
            case "notin":
                self.take()
                return Requirement(key, "NotIn", self.values())
            case ">" | "<":
                operator = "GreaterThan" if self.take() == ">" else "LessThan"
                value = self.value()
                if not re.fullmatch(r"[+-]?\d+", value):
                    raise SelectorError(
                        f"unable to parse requirement: values[0]: Invalid value: \"{value}\": for 'Gt', 'Lt' "
                        "operators, the value must be an integer"
                    )
                return Requirement(key, operator, (value,))
        raise self.fault(self.peek(), "in, notin, =, ==, !=, gt, lt")


def parse_labels(text: str | None) -> LabelSelector:
    """A `labelSelector` parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`. Raises SelectorError."""
    if not text or not text.strip():
        return EVERYTHING
    parser = _Parser(text)
    requirements = [parser.requirement()]
    while (token := parser.take()) == ",":
        if parser.peek() in {"", ","}:
            raise SelectorError(f"found '{parser.peek()}', expected: identifier after ','")
        requirements.append(parser.requirement())
    if token:
        raise SelectorError(f"found '{token}', expected: ',' or 'end of string'")
    return LabelSelector(tuple(requirements))


_OPERATORS = frozenset(("In", "NotIn", "Exists", "DoesNotExist"))


def from_label_selector(selector: Mapping[str, Any] | None) -> LabelSelector:
    """A `metav1.LabelSelector` object. None matches nothing, an empty one everything. Raises SelectorError."""
    if selector is None:
        return NOTHING
    rows = [Requirement(key, "In", (value,)) for key, value in (selector.get("matchLabels") or {}).items()]
    for row in selector.get("matchExpressions") or ():
        operator = row.get("operator")
        if operator not in _OPERATORS:
            raise SelectorError(f'"{operator}" is not a valid label selector operator')
        values = tuple(row.get("values") or ())
        if (operator in ("In", "NotIn")) != bool(values):
            wanted = "must be specified" if not values else "may not be specified"
            raise SelectorError(f"values {wanted} when `operator` is '{operator}'")
        rows.append(Requirement(row.get("key", ""), operator, values))
    return LabelSelector(tuple(rows))


def from_labels(labels: Mapping[str, str] | None) -> LabelSelector:
    """The plain map of a Service. None or empty matches nothing (a Service without selector)."""
    return LabelSelector(tuple(Requirement(k, "In", (v,)) for k, v in sorted(labels.items()))) if labels else NOTHING


class FieldTerm(Struct, frozen=True):
    path: str
    value: str
    equal: bool = True


class FieldSelector(Struct, frozen=True):
    """Terms such as `metadata.name=web,status.phase!=Running`; all must hold."""

    terms: tuple[FieldTerm, ...] = ()

    def matches(self, obj: Mapping[str, Any]) -> bool:
        return all((field_text(obj, term.path) == term.value) == term.equal for term in self.terms)

    def exact(self, path: str) -> str | None:
        """The value `path` must equal, when there is such a term: an index lookup instead of a scan."""
        return next((term.value for term in self.terms if term.equal and term.path == path), None)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __str__(self) -> str:
        return ",".join(f"{t.path}{'=' if t.equal else '!='}{t.value}" for t in self.terms)


def field_text(obj: Mapping[str, Any], path: str) -> str:
    """The value at a dotted path as selectors compare it; what is absent is the empty string."""
    value: Any = obj
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return ""
        value = value.get(part)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_FIELD_TERM = re.compile(r"\s*([^=!,\s]+)\s*(==|!=|=)((?:[^,\\=]|\\.)*)")
_ESCAPE = re.compile(r"\\(.)")


def parse_fields(text: str | None) -> FieldSelector:
    """A `fieldSelector` parameter. Which paths a kind supports is the server's to check. Raises SelectorError."""
    if not text or not text.strip():
        return FieldSelector()
    terms = []
    position = 0
    while position < len(text):
        match = _FIELD_TERM.match(text, position)
        if match is None or (match.end() < len(text) and text[match.end()] != ","):
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{text[position:]}'")
        terms.append(FieldTerm(match[1], _ESCAPE.sub(r"\1", match[3]), match[2] != "!="))
        position = match.end() + 1
    return FieldSelector(tuple(terms))
