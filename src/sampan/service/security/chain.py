"""The lines of an audit log and how they hang together; their verification. No process of ours is needed for it.

Each line is a JSON object whose last member `mac` authenticates all bytes before it, among them `prev`, the `mac` of
the line before: SHA-256, or HMAC-SHA-256 with a key. So a line that was changed, taken out, put in or moved breaks the
chain there. What the chain alone cannot show is that lines are missing at its end: for that its head, the number and
`mac` of the newest line, is kept beside the file (`FILE.head`), and told to the log of the process now and then.

Without a key, whoever may write the file can also make a whole new chain; only a head kept elsewhere shows that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

START: Final = "0" * 64
_TAIL: Final = re.compile(rb',"mac":"([0-9a-f]{64})"}\n?\Z')
_ROTATED: Final = re.compile(r"\.(\d{6})\Z")
TORN: Final = "audit.torn"


def mac(key: bytes, body: bytes) -> str:
    return hmac.new(key, body, hashlib.sha256).hexdigest() if key else hashlib.sha256(body).hexdigest()


def seal(key: bytes, entry: dict[str, Any]) -> tuple[bytes, str]:
    """The line of `entry`, with its end of line, and its mac."""
    body = msgspec.json.encode(entry)[:-1]
    made = mac(key, body)
    return b'%b,"mac":"%b"}\n' % (body, made.encode()), made


class Head(Struct, frozen=True):
    """The newest line of a log."""

    number: int = 0
    mac: str = START

    def text(self) -> str:
        return f"{self.number}:{self.mac}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """ValueError when it is none."""
        number, _, mac_ = text.strip().partition(":")
        if not number.isdigit() or not re.fullmatch(r"[0-9a-f]{64}", mac_):
            raise ValueError(f"{text!r} is no head; it is written NUMBER:MAC")
        return cls(int(number), mac_)


class Report(Struct):
    """What verification found. `fault` is the first thing wrong, empty when all is well."""

    lines: int = 0
    first: int = 0
    head: Head = field(default_factory=Head)
    fault: str = ""
    notes: list[str] = field(default_factory=list)


class Broken(Exception):
    """The chain is broken here."""


def read(line: bytes, key: bytes) -> dict[str, Any]:
    """A line as it was sealed. Broken when it is not one, or was changed."""
    found = _TAIL.search(line)
    if found is None:
        raise Broken("is not a whole line of an audit log")
    if not hmac.compare_digest(mac(key, line[: found.start()]), found[1].decode()):
        raise Broken("was changed" + ("" if key else ", or was sealed with a key"))
    try:
        entry: dict[str, Any] = msgspec.json.decode(line, type=dict)
    except msgspec.DecodeError as error:
        raise Broken("is no JSON") from error
    return entry


def files(path: Path) -> list[Path]:
    """The files of a log, oldest first: PATH.000001, ..., PATH."""
    rotated = sorted(one for one in path.parent.glob(f"{path.name}.*") if _ROTATED.search(one.name))
    return [*rotated, *([path] if path.exists() else [])]


def lines(paths: Iterable[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield path, number, line


def verify(path: Path, key: bytes = b"", known: Head | None = None) -> Report:
    """Follow the chain through all files of the log. `known` is a head from elsewhere that must lie on it."""
    report, heads = Report(), [one for one in (known, _beside(path)) if one is not None]
    wanted = {head.number: head for head in heads}
    torn: tuple[str, bytes] | None = None
    where = str(path)
    for file, number, line in lines(files(path)):
        where = f"{file}:{number}"
        try:
            entry = read(line, key)
        except Broken as error:
            if _TAIL.search(line) is None and torn is None:
                torn = (f"{where} {error}", line)  # good only if the next line owns up to it
                continue
            report.fault = f"{where} {error}"
            return report
        if torn is not None and not _owned(entry, torn[1]):
            report.fault = torn[0]
            return report
        if torn is not None:
            report.notes.append(f"{where}: the line before was torn by a crash, and is marked as such")
            torn = None
        if fault := _follows(entry, report, wanted):
            report.fault = f"{where} {fault}"
            return report
    if torn is not None:
        report.fault = f"{torn[0]}; the process was killed while it wrote, and has not run since"
    elif not report.lines:
        report.fault = f"{where}: no line of an audit log"
    else:
        for head in heads:
            if head.number > report.head.number:
                missing = head.number - report.head.number
                report.fault = f"{where}: the last {missing} lines, up to number {head.number}, are missing"
    return report


def _follows(entry: dict[str, Any], report: Report, wanted: dict[int, Head]) -> str:
    """Advance `report` by `entry`; what is wrong with its place."""
    number, previous = entry.get("number"), entry.get("prev")
    if not report.lines:
        report.first = number if isinstance(number, int) else 0
        if report.first != 1:
            report.notes.append(f"begins with number {number}: earlier files are not here")
        elif previous != START:
            return "is the first, but names one before it"
    elif number != report.head.number + 1:
        return f"has number {number}, after {report.head.number}: lines were taken out, put in or moved"
    elif previous != report.head.mac:
        return "does not follow the line before: lines were taken out, put in or moved"
    report.lines += 1
    report.head = Head(int(number or 0), str(entry["mac"]))
    if (head := wanted.get(report.head.number)) is not None and head.mac != report.head.mac:
        return "is not the line whose head is known: the log was made anew"
    return ""


def _owned(entry: dict[str, Any], line: bytes) -> bool:
    detail = entry.get("detail") or {}
    digest = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
    return bool(entry.get("action") == TORN and detail.get("sha256") == digest)


def _beside(path: Path) -> Head | None:
    try:
        return Head.parse(path.with_name(path.name + ".head").read_text())
    except (OSError, ValueError):
        return None
