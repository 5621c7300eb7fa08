"""Numbers as Go holds them where no type tells: whole ones of 64 bits, and floating ones."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_BITS = 63
_UNUSUAL = re.compile(rb"[0-9][.eE]|[0-9]{19}")


def may_differ(text: bytes) -> bool:
    """Whether JSON or YAML may hold a number that Go reads as another one than Python does."""
    return _UNUSUAL.search(text) is not None


def held(value: Any) -> Any:
    """A JSON value with its numbers as Go has them: whole, if they are and have the room, or else floating."""
    if isinstance(value, dict):
        return {key: held(item) for key, item in value.items()}
    if isinstance(value, list):
        return [held(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**_BITS:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**_BITS) <= value < 2**_BITS:
        return float(value) if abs(value) < 10**308 else value
    return value


def cut(value: float, bits: int) -> int:
    """A whole number of any size in so many bits, as Go converts it: one too large for 64 of them is the least there
    is, of which the lower bits are nothing."""
    if isinstance(value, float) and abs(value) >= 2**_BITS:
        return 0 if bits < _BITS else -(2**_BITS)
    half: int = 2 ** (bits - 1)
    return (int(value) + half) % (2 * half) - half


def text(value: float) -> str:
    """A number as Go writes it in JSON."""
    if isinstance(value, int) or value == 0:
        return str(int(value))
    if 1e-6 <= abs(value) < 1e21:
        shown = format(Decimal(repr(value)), "f")
        return shown.removesuffix(".0")
    return repr(value).replace("e-0", "e-")
