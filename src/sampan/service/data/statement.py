"""Plain SQL as its user wrote it, translated once for each engine: `:name` becomes the driver's own placeholder.

Nothing in strings, quoted names, comments or dollar quotes is taken for a parameter, nor are casts (`::`),
assignments (`:=`) and slices (`[1:2]`). Values never become part of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sampan.model.data import ParameterError

if TYPE_CHECKING:
    from sampan.service.data.rows import Decoder

_ORDINARY: Final = r"""
    '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | --[^\n]* | /\*.*?\*/
"""
_MYSQL: Final = r"""
    '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `[^`]*` | --[^\n]* | \#[^\n]* | /\*.*?\*/
"""
_POSTGRES: Final = r"""
    [eE]'(?:[^'\\]|\\.|'')*' | (?P<tag>\$\w*\$).*?(?P=tag) |
"""


def _pattern(skipped: str) -> re.Pattern[str]:
    parameter = r"(?<![\w\]:]):(?!:)(?P<name>[A-Za-z_]\w*)"
    return re.compile(rf"(?P<skip>{skipped} | ::) | {parameter}", re.VERBOSE | re.DOTALL)


PATTERNS: Final = {
    "mysql": _pattern(_MYSQL),
    "postgresql": _pattern(_POSTGRES + _ORDINARY),
    "sqlite": _pattern(_ORDINARY),
}
_READS: Final = frozenset({"SELECT", "VALUES", "SHOW", "EXPLAIN", "DESCRIBE", "TABLE"})
_FIRST: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(\w+)", re.DOTALL)
_TABLE: Final = re.compile(r"\b(?:FROM|INTO|UPDATE|TABLE)\s+(?:ONLY\s+)?([\w.\"`]+)", re.IGNORECASE)
_LOCKING: Final = re.compile(r"\s+FOR\s+(?:NO\s+KEY\s+)?(?:UPDATE|SHARE|KEY\s+SHARE)\b[\w\s]*$", re.IGNORECASE)
_LITERAL: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'|\b\d+(?:\.\d+)?\b")

Encoders = Mapping[type, Callable[[Any], Any]]


class Statement:
    """One text for one engine. `order` names the parameter of each placeholder of `sql`.

    `verb` and `table` are for telemetry; `reads` says that it changes nothing and locks nothing, `locks` that it is a
    reading one which locks rows.
    """

    __slots__ = (
        "decoders",
        "locks",
        "names",
        "order",
        "reads",
        "series",
        "shape",
        "single",
        "sql",
        "table",
        "text",
        "verb",
    )

    def __init__(self, text: str, engine: str) -> None:
        self.text = text
        self.sql, self.order = _translate(text, engine)
        self.names = frozenset(self.order)
        self.single = self.order[0] if len(self.order) == 1 else ""
        first = _FIRST.match(text)
        self.verb = first[1].upper() if first else ""
        table = _TABLE.search(text)
        self.table = table[1].replace('"', "").replace("`", "") if table else ""
        self.locks = self.verb in ("SELECT", "WITH") and _LOCKING.search(text) is not None
        self.reads = self.verb in _READS and not self.locks
        if self.locks and engine == "sqlite":  # it knows no row locks; the engine takes the whole database's instead
            self.sql = _LOCKING.sub("", self.sql)
        self.shape = _LITERAL.sub("?", text)
        self.decoders: dict[Any, Decoder] = {}
        self.series: list[float] | None = None

    def arguments(self, given: Mapping[str, Any], encoders: Encoders) -> tuple[Any, ...]:
        """The values in the order of the placeholders. ParameterError names what is missing or too many."""
        try:
            if self.single:
                value = given[self.single]
                encode = encoders.get(type(value))
                values: tuple[Any, ...] = (value if encode is None else encode(value),)
            else:
                values = tuple(
                    [
                        value if (encode := encoders.get(type(value := given[name]))) is None else encode(value)
                        for name in self.order
                    ]
                )
        except KeyError:
            raise self._mismatch(given) from None
        except (TypeError, ValueError) as error:
            raise ParameterError(f"a parameter of {self._quoted()} cannot be encoded: {type(error).__name__}") from None
        if len(given) != len(self.names):
            raise self._mismatch(given)
        return values

    def _mismatch(self, given: Mapping[str, Any]) -> ParameterError:
        missing, surplus = sorted(self.names - set(given)), sorted(set(given) - self.names)
        parts = []
        if missing:
            parts.append("lacks " + ", ".join(f":{name}" for name in missing))
        if surplus:
            parts.append(f"has no place for {', '.join(surplus)}")
        return ParameterError(f"{self._quoted()} {' and '.join(parts)}")

    def _quoted(self) -> str:
        words = " ".join(self.text.split())
        return repr(words if len(words) < 120 else words[:117] + "...")


def _translate(text: str, engine: str) -> tuple[str, tuple[str, ...]]:
    order: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match["skip"] is not None:
            return match[0]
        name = match["name"]
        if engine == "postgresql":  # numbered: a name that occurs twice is one parameter
            if name not in order:
                order.append(name)
            return f"${order.index(name) + 1}"
        order.append(name)
        return "?"

    return PATTERNS[engine].sub(replace, text), tuple(order)


class Statements(dict[str, Statement]):
    """Texts and their statements; a program has few, and a program that makes them up does not grow without bound."""

    _MOST = 2000

    def __init__(self, engine: str) -> None:
        super().__init__()
        self.engine = engine

    def __missing__(self, text: str) -> Statement:
        if len(self) >= self._MOST:
            self.clear()
        made = self[text] = Statement(text, self.engine)
        return made
