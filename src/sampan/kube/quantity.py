"""Resource quantities (`500m`, `1.5Gi`, `1e3`): exact values and upstream's canonical text.

The canonical form keeps the format it was written in (decimal, binary or exponent), uses the largest suffix that
leaves an integer, and never a fraction. Values are kept to 1/1,000,000,000 (nano), rounded away from zero. A text that
is nearly so (`1.500`, `+5`, `1E3`) stays as it was written, which upstream does to save time.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_UP, Decimal, localcontext
from functools import lru_cache

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4, "Pi": 1024**5, "Ei": 1024**6}

_SYNTAX = re.compile(
    r"([+-]?)((?:([0-9]+)\.?([0-9]*))|(?:\.[0-9]+))(?:([eE][+-]?[0-9]+)|(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E))?"
)
_SUFFIXED = re.compile(r"[+-]?[0-9]*(\.[0-9]*)?[eEinumkKMGTP]*[-+]?[0-9]*")
_PATTERN_TEXT = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
_NANO = Decimal("1E-9")
_MILLI = Decimal("1E-3")
_MAXIMUM = Decimal(2**63 - 1)
"""Of binary amounts; others are as large as they are."""
_DIGITS = 1_200
"""Of an amount with the largest exponent there may be."""
_UP = tuple((suffix, 10**power) for suffix, power in reversed(DECIMAL.items()) if power >= 0)


class QuantityError(ValueError):
    """Text that is no quantity; the message is upstream's."""


def _split(text: str) -> tuple[Decimal, str]:
    match = _SYNTAX.fullmatch(text.strip(" "))
    if match is None:
        if text and _SUFFIXED.fullmatch(text.strip(" ")):
            raise QuantityError("unable to parse quantity's suffix")
        raise QuantityError(f"quantities must match the regular expression '{_PATTERN_TEXT}'")
    sign, digits, _, _, exponent, suffix = match.groups()
    with localcontext() as context:
        context.prec = _DIGITS
        if exponent:
            power = int(exponent[1:])
            if abs(power) > 999:
                raise QuantityError("unable to parse quantity's suffix")
            value, form = Decimal(digits).scaleb(max(-99, power)), "e"  # what is too little is rounded up anyway
        elif suffix in BINARY:
            value, form = min(Decimal(digits) * BINARY[suffix], _MAXIMUM), "i"
        else:
            value, form = Decimal(digits).scaleb(DECIMAL[suffix or ""]), "d"
        value = value.quantize(_NANO, rounding=ROUND_CEILING)
        if sign == "-":
            value = -value
    return value, form


def _as_written(text: str) -> tuple[str, int] | None:
    """The text of a quantity that upstream keeps as it is, and the power of ten of its last digit; None of others."""
    match = _SYNTAX.fullmatch(text := text.strip(" "))
    if match is None or match[3] is None:
        return None
    whole, part, exponent, suffix = match[3].lstrip("0"), match[4], match[5], match[6]
    digits = (whole or "0") + part
    if suffix in BINARY:
        places = int(math.log2(BINARY[suffix]))
        short = not part and len(whole) + places * 3 // 10 <= 14
        return (text, 0) if short and whole and int(whole) % 8 else None
    power = (int(exponent[1:]) if exponent else DECIMAL[suffix or ""]) - len(part)
    short = len(digits) <= 18 and power >= -9
    return (text, power) if short and power % 3 == 0 and not digits.endswith("000") and digits[0] != "0" else None


@lru_cache(maxsize=4096)
def parse(text: str | float) -> Decimal:
    """The exact value of a quantity; a number is read as its text. Raises QuantityError."""
    return _split(str(text))[0]


@lru_cache(maxsize=4096)
def canonical(text: str | float) -> str:
    """Upstream's canonical text: `1000m` -> `1`, `1024Ki` -> `1Mi`, `0.5` -> `500m`. Raises QuantityError."""
    value, form = _split(text := str(text))
    kept = _as_written(text)
    return kept[0] if kept else _canonical(value, form)


@lru_cache(maxsize=4096)
def in_list(text: str | float) -> str:
    """As `canonical`, of an amount in a list of resources: rounded to thousandths, away from zero."""
    value, form = _split(text := str(text))
    kept = _as_written(text)
    if kept and kept[1] >= -3:
        return kept[0]
    with localcontext() as context:
        context.prec = _DIGITS
        return _canonical(value.quantize(_MILLI, rounding=ROUND_UP), form)


def _canonical(value: Decimal, form: str) -> str:
    if form == "i" and (abs(value) < 1024 or value != value.to_integral_value()):
        form = "d"  # too small or fractional for a binary suffix
    if not value:
        return "0"
    return _print(value, form)


def _print(value: Decimal, form: str) -> str:
    sign = "-" if value < 0 else ""
    with localcontext() as context:
        context.prec = _DIGITS
        nano = int(abs(value).scaleb(9))
    if form == "i":
        whole, steps = nano // 10**9, 0
        while whole % 1024 == 0 and steps < 6:
            whole, steps = whole // 1024, steps + 1
        return f"{sign}{whole}{('', *BINARY)[steps]}"
    power = -9
    while nano % 1000 == 0 and (power < 18 or form == "e"):
        nano, power = nano // 1000, power + 3
    if form == "e":
        return f"{sign}{nano}{f'e{power}' if power else ''}"
    suffix = next(name for name, exponent in DECIMAL.items() if exponent == power)
    return f"{sign}{nano}{suffix}"


def format_decimal(value: Decimal, *, binary: bool = False) -> str:
    """A value as canonical text, for sums of quantities."""
    with localcontext() as context:
        context.prec = _DIGITS
        value = value.quantize(_NANO, rounding=ROUND_CEILING if value >= 0 else ROUND_FLOOR)
    if not value:
        return "0"
    return _print(value, "i" if binary and abs(value) >= 1024 and value == value.to_integral_value() else "d")


def milli(text: str | float) -> int:
    """Thousandths, rounded up: the unit of CPU (`1.5` -> 1500)."""
    return int((parse(text) * 1000).to_integral_value(rounding=ROUND_CEILING))


def to_bytes(text: str | float) -> int:
    """Whole units, rounded up: the unit of memory (`1Ki` -> 1024)."""
    return int(parse(text).to_integral_value(rounding=ROUND_CEILING))
