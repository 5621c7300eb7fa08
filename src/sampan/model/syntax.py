"""The small languages of a declaration: names, quantities, schedules. Each function says what is wrong, or None."""

from __future__ import annotations

import re
from decimal import Decimal

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
HOST = re.compile(r"(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
ENDPOINT = re.compile(r"https?://[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:\d{1,5})?/?")  # no credentials, no path
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE])?")
FACTORS = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)} | {
    **{prefix: Decimal(1000) ** power for power, prefix in enumerate("MGTPE", 2)},
    **{f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", 1)},
}
MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6}
MONTHS |= {"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}
DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
CRON: list[tuple[str, int, int, dict[str, int]]] = [
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 7, DAYS),
]
MACROS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}


def label(name: object, longest: int = 63) -> str | None:
    """A DNS label (RFC 1035): lower-case letters, digits and hyphens, starting with a letter."""
    if not isinstance(name, str) or not name:
        return "is empty" if name == "" else "is not a string"
    if len(name) > longest:
        return f"is {len(name)} characters long; at most {longest} are allowed"
    return None if LABEL.fullmatch(name) else "is not a DNS label"


def suggest_label(name: object, longest: int = 63) -> str:
    """The nearest name that `label` accepts."""
    text = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", str(name)).lower())
    return text.lstrip("-0123456789")[:longest].strip("-") or "name"


def quantity(text: object) -> Decimal | None:
    """The value of a Kubernetes quantity; None when it is not one, or negative."""
    match = QUANTITY.fullmatch(text) if isinstance(text, str) else None
    return Decimal(match[1]) * FACTORS[match[2] or ""] if match else None


def egress(text: str) -> str | None:
    """`CIDR:port`, as in `203.0.113.0/24:443` or `2001:db8::/32:443`."""
    import ipaddress

    cidr, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 1 <= int(port) <= 65535:
        return "it ends with no port"
    try:
        ipaddress.ip_network(cidr)
    except ValueError as error:
        return str(error)
    return None


def time_zone(name: str) -> str | None:
    """An IANA name. Where the machine has no time zone database nothing can be said against it."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo("UTC")
    except ZoneInfoNotFoundError:
        return None
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "which is not in the time zone database"
    return None


def schedule(text: str) -> str | None:
    """A schedule as CronJob takes it: five fields, or a macro such as @daily."""
    if text.startswith("@"):
        return None if text in MACROS else f"{text} is none of {', '.join(sorted(MACROS))}"
    parts = text.split()
    if len(parts) != len(CRON):
        return f"it has {len(parts)} fields instead of 5 (minute hour day-of-month month day-of-week)"
    for part, (name, low, high, names) in zip(parts, CRON, strict=True):
        for item in part.split(","):
            span, slash, step = item.partition("/")
            if slash and not (step.isdigit() and int(step) > 0):
                return f"the {name} has the step {step!r}"
            if span in ("*", "?"):
                continue
            bounds = [names.get(end.lower(), end) for end in span.split("-")]
            numbers = [int(end) for end in bounds if isinstance(end, int) or end.isdigit()]
            if len(numbers) != len(bounds) or len(bounds) > 2:
                return f"the {name} is {item!r}"
            if any(not low <= number <= high for number in numbers):
                return f"the {name} is {item!r}; it goes from {low} to {high}"
            if numbers[0] > numbers[-1]:
                return f"the {name} is {item!r}, which runs backwards"
    return None
