"""Runs the operations of a seed on both servers and tells where they differ.

Operations go out in batches, each side at its own pace; within a batch the operations of a side follow one another.
After a difference the object concerned is left out until the batch ends, and is then removed on both sides, so that one
defect is not counted again and again.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.kubernetes.fuzz.compare import differences
from tests.conformance.kubernetes.fuzz.generate import NAMES, Operation, operation, root
from tests.conformance.kubernetes.fuzz.kinds import KINDS
from tests.conformance.kubernetes.fuzz.side import BROKEN, Both, Side, Watch, answer, key_of
from tests.conformance.kubernetes.wire import Reply, Wire

BATCH = 40
HISTORY = 12
"""Operations on an object that are shown before one that differed."""


@dataclass
class Difference:
    number: int
    operation: Operation
    lines: list[str]
    history: list[str] = field(default_factory=list)

    @property
    def shape(self) -> str:
        """What kind of difference it is, without names and values that vary, to count the like."""
        kind = re.sub(r"/[abc](/|$)", r"/_\1", self.operation.path)
        kind = re.sub(r"^/apis?/|namespaces/fuzz(-apart)?/", "", kind)
        line = re.sub(r"\d+", "0", self.lines[0])[:160]
        return f"{self.operation.method} {kind} {self.operation.content_type.rpartition('/')[2][:12]} {line}"


@dataclass
class Result:
    """What was done and found. `left_out`: operations on an object that had just differed."""

    operations: int = 0
    left_out: int = 0
    watches: int = 0
    events: int = 0
    states: int = 0
    seconds: float = 0.0
    found: list[Difference] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)

    @property
    def shapes(self) -> Counter[str]:
        return Counter(difference.shape for difference in self.found)


class Run:
    def __init__(self, both: Both, rng: random.Random, kinds: list[str], mix: str) -> None:
        self.both, self.rng, self.kinds, self.mix, self.result = both, rng, kinds, mix, Result()
        self.history: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=HISTORY))
        self.spoiled: set[str] = set()
        """Objects that differed since the last comparison of everything."""

    def batch(self, size: int) -> None:
        asked = [operation(self.rng, self.kinds, self.mix) for _ in range(size)]
        real, ours = self.both(lambda side: [side.run(one) for one in asked])
        spoiled: set[str] = set()
        for one, a, b in zip(asked, real, ours, strict=True):
            self._compare(one, a, b, spoiled)
        if spoiled:
            self.spoiled |= spoiled
            roots = {root(kind).rpartition("/")[2]: root(kind) for kind in KINDS}
            paths = [f"{roots[key.partition('/')[0]]}/{key.partition('/')[2]}" for key in sorted(spoiled)]
            self.both(lambda side: side.remove_all(paths))

    def _compare(self, asked: Operation, real: Reply, ours: Reply, spoiled: set[str]) -> None:
        key = key_of(asked.path)
        keys = {key} if "/" in key else {f"{key}/{name}" for name in NAMES}
        if keys & spoiled:
            self.result.left_out += 1
            spoiled |= keys if asked.method == "DELETE" else set()
            return
        self.result.operations += 1
        self.result.codes[real.code] += 1
        lines = differences(answer(real), answer(ours)) if real.code != BROKEN or ours.code >= 500 else []
        if lines:
            told = list(self.history[key])
            self.result.found.append(Difference(self.result.operations, asked, lines, told))
        if lines or real.code == BROKEN:
            name = asked.body.get("metadata", {}).get("name") if isinstance(asked.body, dict) else None
            one = asked.method == "POST" and name in NAMES
            spoiled |= {f"{key}/{name}"} if one else keys
        for each in keys if asked.method != "GET" and "/" not in key else {key}:
            self.history[each].append(f"{real.code} {asked}")

    def compare_all(self) -> None:
        """What is stored, and what watches tell of the time since the last comparison."""
        for kind in self.kinds:
            a, b = self.both(lambda side, kind=kind: side.state(kind))  # type: ignore[misc]
            plural = KINDS[kind].path
            for name in sorted(a.keys() | b.keys()):
                if f"{plural}/{name}" in self.spoiled:
                    continue
                self.result.states += 1
                if lines := differences(a.get(name, "(absent)"), b.get(name, "(absent)")):
                    asked = Operation("STATE", f"{root(kind)}/{name}")
                    told = list(self.history[f"{plural}/{name}"])
                    self.result.found.append(Difference(self.result.operations, asked, lines, told))
        watches = [self._a_watch(kind) for kind in self.kinds] + [Watch(kind, "start") for kind in self.kinds]
        for watch, a, b in self._watched(watches):
            self.result.watches += 1
            self.result.events += len(a)
            if lines := _event_differences(a, b):
                asked = Operation("WATCH", root(watch.kind), query={"since": watch.since, **dict(watch.query)})
                index = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                name = max(a, b, key=len)[index][1]
                told = [f"{[e[:2] for e in a]} -> {[e[:2] for e in b]}"]
                told += self.history[f"{KINDS[watch.kind].path}/{name}"]
                self.result.found.append(Difference(self.result.operations, asked, lines, told))
        self.spoiled.clear()
        self.history.clear()

    def _watched(self, watches: list[Watch]) -> list[tuple[Watch, list[Any], list[Any]]]:
        """What both sides tell. Where they differ perhaps one was only slow: those are asked again, with more time."""
        rows: dict[Watch, tuple[list[Any], list[Any]]] = {}
        again = list(dict.fromkeys(watches))
        for quiet in (0.3, 2.0, 8.0):
            real, ours = self.both(lambda side, again=again, quiet=quiet: side.events(again, quiet))  # type: ignore[misc]
            for watch, a, b in zip(again, real, ours, strict=True):
                rows[watch] = self._kept(watch, a), self._kept(watch, b)
            again = [watch for watch in again if rows[watch][0] != rows[watch][1]]
        return [(watch, a, b) for watch, (a, b) in rows.items()]

    def _a_watch(self, kind: str) -> Watch:
        return Watch(kind, *self.rng.choice(WATCHES))

    def _kept(self, watch: Watch, events: list[Any]) -> list[Any]:
        return [event for event in events if f"{KINDS[watch.kind].path}/{event[1]}" not in self.spoiled]


WATCHES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("middle", ()),
    ("start", (("labelSelector", "app=x"),)),
    ("start", (("labelSelector", "app notin (x,y)"),)),
    ("middle", (("fieldSelector", "metadata.name=a"),)),
    ("start", (("fieldSelector", "metadata.name!=b"), ("labelSelector", "!tier"))),
    ("", ()),
    ("", (("resourceVersion", "0"), ("labelSelector", "app"))),
    ("", (("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan"), ("allowWatchBookmarks", "true"))),
)
"""From where, and of what, watches are compared besides those of everything from the start."""


def _event_differences(real: list[Any], ours: list[Any]) -> list[str]:
    for index, (a, b) in enumerate(zip(real, ours, strict=False)):
        if lines := differences({"type": a[0], "name": a[1]}, {"type": b[0], "name": b[1]}) or differences(a[2], b[2]):
            return [*lines, f"event {index} of {len(real)}, {len(ours)}: {a[0]} {a[1]}"]
    if len(real) != len(ours):
        more = max(real, ours, key=len)[min(len(real), len(ours))]
        return [f"number of events: {len(real)} -> {len(ours)}", f"first missing or extra: {more}"[:900]]
    return []


def run(
    real: Wire,
    ours: Wire,
    *,
    seed: int,
    operations: int,
    fresh: int = 800,
    minutes: float = 0,
    kinds: list[str] | None = None,
    mix: str = "all",
    progress: Callable[[Result], None] = lambda _: None,
) -> Result:
    """`operations` random operations, or as many as go into `minutes`. After every `fresh` of them everything stored
    and all watches are compared, and both sides emptied."""
    began = time.monotonic()
    sides = (Side(real), Side(ours))
    with ThreadPoolExecutor(2) as pool:

        def both(call: Callable[[Side], Any]) -> tuple[Any, Any]:
            first, second = pool.map(call, sides)
            return first, second

        running = Run(both, random.Random(seed), kinds or list(KINDS), mix)
        result = running.result
        both(Side.set_up)
        both(Side.clear)
        while (left := operations - result.operations) > 0:
            if minutes and time.monotonic() - began > minutes * 60:
                break
            both(lambda side: side.mark("start"))
            batches = max(1, min(left, fresh) // BATCH)
            for number in range(batches):
                if number == batches // 2:
                    both(lambda side: side.mark("middle"))
                running.batch(min(BATCH, left))
            running.compare_all()
            both(Side.clear)
            result.seconds = time.monotonic() - began
            progress(result)
    return result
