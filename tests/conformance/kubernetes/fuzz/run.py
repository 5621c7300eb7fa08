"""Runs the operations of a seed on both servers, in step, and tells where they differ."""

from __future__ import annotations

import copy
import http.client
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.kubernetes.fuzz.compare import differences, normal, plain
from tests.conformance.kubernetes.fuzz.generate import NAMES, Operation, operation, root
from tests.conformance.kubernetes.fuzz.kinds import KINDS, NAMESPACE, WIDGET
from tests.conformance.kubernetes.wire import Reply, Wire

Object = dict[str, Any]
BROKEN = 599
"""For a connection closed without an answer: the real API server does so where it panics over a request."""


@dataclass
class Difference:
    number: int
    operation: Operation
    lines: list[str]
    before: Any

    @property
    def shape(self) -> str:
        """What kind of difference it is, without names and values that vary, to count the like."""
        kind = re.sub(r"/[abc](/|$)", r"/_\1", self.operation.path).split(f"/{NAMESPACE}/")[-1]
        line = re.sub(r"\d+", "0", self.lines[0])[:160]
        return f"{self.operation.method} {kind} {self.operation.content_type.rpartition('/')[2][:12]} {line}"


@dataclass
class Result:
    operations: int = 0
    seconds: float = 0.0
    found: list[Difference] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)

    @property
    def shapes(self) -> Counter[str]:
        return Counter(difference.shape for difference in self.found)


class Side:
    """One server, and the object each path last read as, for updates that start from it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def set_up(self) -> None:
        for path, body in (
            ("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}),
            (  # without a token volume: docs/conformance.md
                f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
                {"metadata": {"name": "default"}, "automountServiceAccountToken": False},
            ),
            ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", WIDGET),
        ):
            reply = self.wire.post(path, body)
            assert reply.code in (201, 409), reply
        give_up = time.monotonic() + 30
        while self.wire.get(root("fuzz.example.com/v1/Widget")).code != 200:
            assert time.monotonic() < give_up, "the custom resource is not served"
            time.sleep(0.05)
        self.start = {kind: self.version(kind) for kind in KINDS}

    def version(self, kind: str) -> str:
        return str(self.wire.get(root(kind))["metadata"]["resourceVersion"])

    def run(self, asked: Operation) -> Reply:
        body = asked.body
        if asked.base:
            present = self.wire.get(asked.path)
            if present.code == 200:
                body = {**copy.deepcopy(present.body), **{k: v for k, v in body.items() if k != "metadata"}}
                metadata = asked.body.get("metadata")
                if isinstance(metadata, dict) and "labels" in metadata:
                    body["metadata"]["labels"] = metadata["labels"]
        try:
            return self.wire.request(
                asked.method, asked.path, body, content_type=asked.content_type, **dict[str, Any](asked.query)
            )
        except (http.client.HTTPException, ConnectionError):
            return Reply(BROKEN, {}, b"null")

    def events(self, kind: str) -> list[Any]:
        """All changes since the start, as a watch tells them."""
        events = self.wire.watch(root(kind), seconds=1, resourceVersion=self.start[kind])
        return [(event["type"], plain(event["object"])) for event in events]

    def state(self, kind: str) -> Any:
        return normal(self.wire.get(root(kind)))

    def clear(self) -> None:
        """Remove everything, finalizers or not."""
        for kind in KINDS:
            for item in self.wire.get(root(kind)).body["items"]:
                if item["metadata"]["name"] not in NAMES:
                    continue
                path = f"{root(kind)}/{item['metadata']['name']}"
                if item["metadata"].get("finalizers"):
                    self.wire.patch(path, {"metadata": {"finalizers": None}})
                self.wire.delete(path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})


def run(
    real: Wire,
    ours: Wire,
    *,
    seed: int,
    operations: int,
    fresh: int = 500,
    progress: Callable[[Result], None] = lambda _: None,
) -> Result:
    """`operations` random operations. After every `fresh` of them both sides are compared whole and emptied.

    After a difference the object concerned is removed on both sides, so that one defect is not counted again and again.
    """
    rng, result, began = random.Random(seed), Result(), time.monotonic()
    sides = (Side(real), Side(ours))
    with ThreadPoolExecutor(2) as pool:

        def both(call: Callable[[Side], Any]) -> tuple[Any, Any]:
            first, second = pool.map(call, sides)
            return first, second

        both(Side.set_up)
        for number in range(operations):
            asked = operation(rng)
            a, b = both(lambda side, asked=asked: side.run(asked))  # type: ignore[misc]
            result.operations += 1
            result.codes[a.code] += 1
            lines = differences(normal(a), normal(b)) if a.code != BROKEN or b.code >= 500 else []
            if a.code == BROKEN:
                both(lambda side, asked=asked: _forget(side, asked))  # type: ignore[misc]
            if lines:
                before = normal(b)["body"] if b.code < 300 else None
                result.found.append(Difference(number, asked, lines, before))
                both(lambda side, asked=asked: _forget(side, asked))  # type: ignore[misc]
            if (number + 1) % fresh == 0:
                _compare_whole(both, number, result)
                both(Side.clear)
                progress(result)
    result.seconds = time.monotonic() - began
    return result


def _forget(side: Side, asked: Operation) -> None:
    path = asked.path.removesuffix("/status").removesuffix("/scale")
    single = path.rpartition("/")[2] in NAMES
    for place in [path] if single else [f"{path}/{name}" for name in NAMES]:
        side.wire.patch(place, {"metadata": {"finalizers": None}})
        side.wire.delete(place, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})


def _compare_whole(both: Any, number: int, result: Result) -> None:
    for kind in KINDS:
        a, b = both(lambda side, kind=kind: side.state(kind))
        if lines := differences(a, b):
            result.found.append(Difference(number, Operation("GET", root(kind), query={"whole": "state"}), lines, None))
