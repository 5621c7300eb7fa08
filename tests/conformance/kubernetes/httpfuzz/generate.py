"""One request after another from a seed: a valid one for a route, then spoilt in none to three ways."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tests.conformance.kubernetes.fuzz.kinds import KINDS, NAMESPACE
from tests.conformance.kubernetes.httpfuzz import odd
from tests.conformance.kubernetes.httpfuzz.routes import Route

GUARDED = (b"admissionregistration", b"/namespaces/fuzz", b"customresourcedefinitions")
"""Paths whose writes would change how all other requests are answered: only with `dryRun`."""
WRITES = {b"POST": "", b"PUT": "", b"PATCH": "", b"DELETE": ""}
PATCHES: dict[bytes, Callable[[Any], Any]] = {
    b"application/merge-patch+json": lambda _: {"metadata": {"labels": {"fuzz": "1"}}},
    b"application/strategic-merge-patch+json": lambda _: {"metadata": {"annotations": {"fuzz": "1"}}},
    b"application/json-patch+json": lambda _: [{"op": "add", "path": "/metadata/labels", "value": {"fuzz": "2"}}],
    b"application/apply-patch+yaml": lambda obj: obj,
}


@dataclass
class Request:
    """A request as it will be sent. `framing` is length, chunked or none."""

    method: bytes
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    value: Any = None
    framing: str = "length"

    @property
    def target(self) -> bytes:
        return self.path + (b"?" + self.query if self.query else b"")

    @property
    def endless(self) -> bool:
        """Whether its answer may be a stream without an end."""
        return b"watch" in self.target or b"log" in self.target or b"follow" in self.target

    def encode(self, more: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
        names = {name.lower() for name, _ in self.headers}
        rows = [(b"Host", b"localhost")] if b"host" not in names else []
        rows += [row for row in more if row[0].lower() not in names] + self.headers
        body = self.body
        if self.framing == "chunked" and b"content-length" not in names and b"transfer-encoding" not in names:
            rows.append((b"Transfer-Encoding", b"chunked"))
            cut = max(1, len(body) // 3)
            pieces = [body[at : at + cut] for at in range(0, len(body), cut)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif b"content-length" not in names and b"transfer-encoding" not in names and (body or self.method in WRITES):
            rows.append((b"Content-Length", b"%d" % len(body)))
        return b"%b %b HTTP/1.1\r\n" % (self.method, self.target) + b"".join(
            b"%b: %b\r\n" % row for row in rows
        ) + b"\r\n" + body  # fmt: skip

    def told(self) -> str:
        headers = [f"{k[:40]!r}: {v[:60]!r}" for k, v in self.headers]
        return f"{self.method[:20]!r} {self.target[:200]!r} {headers} {self.body[:300]!r} ({len(self.body)} bytes)"


class Generator:
    """The requests of one seed. `routes` are all a server has."""

    def __init__(self, routes: list[Route], seed: int, *, writes: bool = True) -> None:
        self.routes = routes
        self.rng = random.Random(seed)
        self.writes = writes
        self.spoil: tuple[tuple[int, Callable[[Request], None]], ...] = (
            (3, self._verb), (3, self._content_type), (3, self._accept), (4, self._header), (3, self._encoding),
            (7, self._body), (9, self._value), (5, self._flip), (3, self._truncate), (8, self._parameter),
            (2, self._query), (5, self._segment), (1, self._target), (1, self._many),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Request]:
        ways = [way for weight, way in self.spoil for _ in range(weight)]
        while True:
            request = self._valid(self.rng.choice(self.routes))
            for way in self.rng.choices(ways, k=self.rng.choice((0, 1, 1, 1, 2, 2, 3))):
                way(request)
            self._guard(request)
            yield request

    def _guard(self, request: Request) -> None:
        path = request.path.lower()
        if not self.writes or any(mark in path for mark in GUARDED[:1]) or path.rstrip(b"/").endswith(GUARDED[1:]):
            # The first of repeated parameters counts.
            request.query = b"dryRun=All" + (b"&" + request.query if request.query else b"")

    # -- requests as they should be

    def object_of(self, route: Route, name: str) -> dict[str, Any]:
        fuzzed = KINDS.get(f"{route.api_version}/{route.kind}")
        made: dict[str, Any] = {"apiVersion": route.api_version, "kind": route.kind, "metadata": {"name": name}}
        return {**made, **(fuzzed.make(self.rng) if fuzzed else route.example)}

    def _valid(self, route: Route) -> Request:
        method = self.rng.choice(route.methods).encode()
        name = self.rng.choice(("a", "a", "b", "missing"))
        path = route.path.replace("{name}", name).replace("{namespace}", NAMESPACE).replace("{path}", "x")
        request = Request(method, path.encode(), b"", [(b"Accept", b"application/json")], b"")
        if method == b"GET" and route.listing and self.rng.random() < 0.3:
            request.query = b"watch=1&timeoutSeconds=1"
        if method in {b"POST", b"PUT"}:
            value = self.object_of(route, name if "{name}" in route.path else f"n{self.rng.randint(0, 40)}")
            self._set(request, value, b"application/json")
        elif method == b"PATCH":
            kind = self.rng.choice(tuple(PATCHES))
            self._set(request, PATCHES[kind](self.object_of(route, name)), kind)
            if b"apply" in kind:
                request.query = b"fieldManager=fuzz&force=true"
        elif method == b"DELETE" and self.rng.random() < 0.8:
            request.query = b"dryRun=All"
        return request

    @staticmethod
    def _set(request: Request, value: Any, content_type: bytes) -> None:
        request.value = value
        request.body = json.dumps(value).encode()
        request.headers.append((b"Content-Type", content_type))

    @staticmethod
    def _replace(request: Request, name: bytes, value: bytes) -> None:
        request.headers = [row for row in request.headers if row[0] != name] + [(name, value)]

    # -- ways to spoil them

    def _verb(self, request: Request) -> None:
        request.method = self.rng.choice(odd.VERBS)

    def _content_type(self, request: Request) -> None:
        self._replace(request, b"Content-Type", self.rng.choice(odd.CONTENT_TYPES))

    def _accept(self, request: Request) -> None:
        self._replace(request, b"Accept", self.rng.choice(odd.ACCEPTS))

    def _header(self, request: Request) -> None:
        request.headers.append(self.rng.choice(odd.HEADERS))

    def _many(self, request: Request) -> None:
        count, size = self.rng.choice(((400, 10), (3000, 30), (3, 30_000), (20, 4000)))
        request.headers += [(b"X-%d" % n, b"y" * size) for n in range(count)]

    def _encoding(self, request: Request) -> None:
        match self.rng.randrange(4):
            case 0:
                request.framing = "chunked"
            case 1:
                request.body = gzip.compress(request.body or b"{}")
                self._replace(request, b"Content-Encoding", b"gzip")
            case 2:
                self._replace(request, b"Content-Encoding", self.rng.choice((b"gzip", b"br", b"x-gzip", b"\xff")))
            case _:
                self._replace(request, b"Accept-Encoding", self.rng.choice((b"gzip", b"identity;q=0", b"*;q=0")))

    def _body(self, request: Request) -> None:
        request.body = self.rng.choice(odd.BODIES)
        if self.rng.random() < 0.002:
            request.body = b" " * (3 * 1024 * 1024 + self.rng.choice((-2, 1, 1_000_000))) + b"{}"
        if request.method not in {b"POST", b"PUT", b"PATCH", b"DELETE"} and self.rng.random() < 0.8:
            request.method = self.rng.choice((b"POST", b"PUT", b"PATCH", b"DELETE"))
        if request.body[:3] == b"k8s" and self.rng.random() < 0.8:
            self._replace(request, b"Content-Type", b"application/vnd.kubernetes.protobuf")
        elif self.rng.random() < 0.5:
            self._replace(request, b"Content-Type", self.rng.choice(odd.CONTENT_TYPES[:8]))

    def _value(self, request: Request) -> None:
        """Another value in place of one somewhere within the body, or one more, or one less."""
        if not isinstance(request.value, dict | list):
            return
        value = copy.deepcopy(request.value)
        places = list(_places(value))
        if not places:
            return
        for _ in range(self.rng.choice((1, 1, 1, 3))):
            holder, key = self.rng.choice(places)
            wrong = copy.deepcopy(self.rng.choice(odd.VALUES))
            try:
                if self.rng.random() < 0.15:
                    del holder[key]
                elif isinstance(holder, dict) and self.rng.random() < 0.2:
                    holder[self.rng.choice(("status", "metadata", "spec", "extra", "", "items", "$patch", "name"))] = (
                        wrong
                    )
                else:
                    holder[key] = wrong
            except (KeyError, IndexError):  # it went with an earlier change
                continue
        request.value, request.body = value, json.dumps(value).encode()

    def _flip(self, request: Request) -> None:
        if not request.body:
            request.body = odd.CONFIG_MAP
            self._replace(request, b"Content-Type", b"application/vnd.kubernetes.protobuf")
        data = bytearray(request.body)
        for _ in range(self.rng.choice((1, 1, 4, 30))):
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        request.body = bytes(data)

    def _truncate(self, request: Request) -> None:
        cut = self.rng.randrange(len(request.body) + 1)
        request.body = self.rng.choice((request.body[:cut], request.body[cut:], request.body * 2))

    def _parameter(self, request: Request) -> None:
        rows = []
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            name = self.rng.choice(tuple(odd.PARAMETERS))
            rows.append((name, self.rng.choice(odd.PARAMETERS[name])))
        more = urlencode(rows, quote_via=quote, errors="surrogatepass").encode()
        request.query = b"&".join(filter(None, (request.query, more)))

    def _query(self, request: Request) -> None:
        request.query = self.rng.choice(odd.QUERIES)

    def _segment(self, request: Request) -> None:
        parts = request.path.split(b"/")
        at = self.rng.randrange(1, len(parts)) if len(parts) > 1 else 0
        match self.rng.randrange(4):
            case 0:
                parts.insert(at, self.rng.choice(odd.SEGMENTS))
            case 1:
                del parts[at]
            case 2:
                parts.append(self.rng.choice(odd.SEGMENTS))
            case _:
                parts[at] = self.rng.choice(odd.SEGMENTS)
        request.path = b"/".join(parts)

    def _target(self, request: Request) -> None:
        request.path, request.query = self.rng.choice(odd.TARGETS), b""


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of everything within."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)
