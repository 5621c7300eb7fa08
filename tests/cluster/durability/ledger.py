"""What the writers know: every acknowledged write, and the one each object was in the middle of as the server died."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

Data = dict[str, str]
Change = tuple[str, str]
"""(watch event type, the data's number or "" for a deletion)"""


def data_of(number: int, size: int) -> Data:
    """The data of an object: a number, and text that proves itself whole."""
    text = f"{number:08d}." * (size // 9 + 1)
    return {"n": str(number), "text": text, "sum": str(zlib.crc32(f"{number}{text}".encode()))}


def is_whole(data: Data) -> bool:
    return set(data) == {"n", "text", "sum"} and data["sum"] == str(zlib.crc32(f"{data['n']}{data['text']}".encode()))


class Known(Struct, frozen=True):
    """An object as it is certainly stored."""

    revision: int
    number: str


class Ledger:
    """`settle` compares what a restarted server holds with what must be there. All checks raise AssertionError."""

    def __init__(self) -> None:
        self.state: dict[str, Known] = {}
        self.doubt: dict[str, tuple[str, Data | None]] = {}
        """key -> (verb, intended data or None to delete) of the write whose answer never came."""
        self.history: dict[str, list[Change]] = defaultdict(list)
        """What every watcher must be told, per key, in order; emptied as it is checked."""
        self.used: dict[int, str] = {}
        """Every revision seen -> what it was."""
        self.before = 0
        """The highest revision known of when the server was last killed."""
        self.acknowledged = self.applied = self.dropped = 0

    def begin(self, key: str, verb: str, data: Data | None) -> None:
        self.doubt[key] = (verb, data)

    def acknowledge(self, key: str, answer: dict[str, Any]) -> None:
        verb, data = self.doubt.pop(key)
        self.acknowledged += 1
        self._apply(key, verb, data, 0 if data is None else int(answer["metadata"]["resourceVersion"]))
        if data is not None:
            assert self.state[key].revision > self.before, "an old revision was given out again"

    def _apply(self, key: str, verb: str, data: Data | None, revision: int) -> None:
        if data is None:
            del self.state[key]
            self.history[key].append(("DELETED", ""))
            return
        self.note(revision, f"{key} {data['n']}")
        self.state[key] = Known(revision, data["n"])
        self.history[key].append(("ADDED" if verb == "create" else "MODIFIED", data["n"]))

    def note(self, revision: int, what: str) -> None:
        """A revision belongs to one change, for ever."""
        held = self.used.setdefault(revision, what)
        assert held == what, f"revision {revision} was {held!r} and is now {what!r}"

    def died(self) -> None:
        self.before = max(self.used, default=0)

    def settle(self, found: Iterable[dict[str, Any]], revision: int) -> None:
        """`found` is every object of ours the restarted server lists, as of `revision`."""
        assert revision >= self.before, f"the list is of {revision}, and {self.before} was acknowledged"
        held = {}
        for obj in found:
            name, data = obj["metadata"]["name"], obj["data"]
            assert is_whole(data), f"{name} is stored in part: {str(data)[:200]}"
            held[name] = Known(int(obj["metadata"]["resourceVersion"]), data["n"])
        for key in sorted(self.state.keys() | held.keys() | self.doubt.keys()):
            present, known = held.get(key), self.state.get(key)
            doubted = self.doubt.pop(key, None)
            if doubted is not None:
                verb, data = doubted
                wanted = data["n"] if data else None
                if (present.number if present else None) == wanted and present != known:
                    self.applied += 1
                    self._apply(key, verb, data, present.revision if present else 0)
                    known = self.state.get(key)
                else:
                    self.dropped += 1
            assert present == known, f"{key} is {present}, {known} was acknowledged (in doubt: {str(doubted)[:60]})"
