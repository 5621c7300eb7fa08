"""Sends the requests of a seed over several connections, and judges every answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.kubernetes.fuzz.kinds import NAMESPACE, WIDGET
from tests.conformance.kubernetes.httpfuzz.client import Address, Answer, Broken, Peer
from tests.conformance.kubernetes.httpfuzz.generate import Generator, Request
from tests.conformance.kubernetes.httpfuzz.routes import STREAMS, Route, routes
from tests.conformance.kubernetes.httpfuzz.server import Census, FuzzedServer
from tests.conformance.kubernetes.wire import Wire

PEERS = 6
REPAIR_EVERY = 2000
NO_NODE = tuple(path.rpartition("/")[2].encode() for path in STREAMS)
AS_UPSTREAM = (b"more than one PodDisruptionBudget", b"requested impersonation without impersonating a user")
"""What upstream answers with 500, in these words, though nothing is wrong with the server."""


@dataclass(frozen=True)
class Finding:
    what: str
    request: str

    @property
    def shape(self) -> str:
        return re.sub(r"\d+", "0", self.what)[:200]


@dataclass
class Result:
    operations: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_request: str = ""
    codes: Counter[int] = field(default_factory=Counter)
    found: list[Finding] = field(default_factory=list)
    censuses: list[Census] = field(default_factory=list)


def judge(request: Request, answer: Answer) -> str:
    """What is wrong with an answer, whatever was asked; nothing when it is a proper one."""
    code = answer.code
    if code >= 500 and not _may_fail(request, answer):
        return f"{code}: {answer.body[:300]!r}"
    if not 100 <= code < 600 or (code < 200 and code != 101):
        return f"no final code: {code}"
    if not answer.whole or request.method == b"HEAD" or not answer.body:
        return ""
    if answer.headers.get("content-type", "").startswith("application/json") and not request.endless:
        try:
            found = json.loads(answer.body)
        except ValueError as error:
            return f"{code} with a body that is not JSON ({error}): {answer.body[:100]!r}"
        if code >= 400 and (found.get("kind"), found.get("code")) != ("Status", code):
            return f"{code} without its Status: {answer.body[:200]!r}"
        if code >= 400 and not found.get("message"):
            return f"{code} without a message: {answer.body[:200]!r}"
    return ""


def _may_fail(request: Request, answer: Answer) -> bool:
    match answer.code:
        case 501:
            return True
        case 503:
            return any(name in request.path for name in NO_NODE)
        case 504:
            return b"resourceVersion" in request.query or b"continue" in request.query
        case 505:
            return True
        case _:
            return any(words in answer.body for words in AS_UPSTREAM)


def set_up(wire: Wire, found: list[Route] | None = None) -> None:
    """What the requests are about: objects `a` and `b` of every kind, made again where they have gone."""
    wire.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    wire.post(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
    wire.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", WIDGET)
    for plural in ("resourcequotas", "limitranges"):  # they would refuse what follows
        wire.delete(f"/api/v1/namespaces/{NAMESPACE}/{plural}")
    if not found:
        return
    maker = Generator(found, 7)
    for route in found:
        if "POST" not in route.methods or not route.kind or "{name}" in route.path or "admission" in route.path:
            continue
        for name in ("a", "b"):
            path = route.path.replace("{namespace}", NAMESPACE)
            if wire.get(f"{path}/{name}").code == 404:
                wire.post(path, maker.object_of(route, name))


class Run:
    """One seed against one server."""

    def __init__(self, server: FuzzedServer, seed: int, peers: int = PEERS) -> None:
        self.server = server
        self.wire = Wire(server.kubeconfig)
        set_up(self.wire)
        self.routes = routes(self.wire)
        set_up(self.wire, self.routes)
        self.peers = peers
        self.generator = Generator(self.routes, seed)
        self.result = Result()

    async def go(self, operations: int, progress: Callable[[Result], None] | None = None) -> Result:
        began = time.monotonic()
        address = Address(self.server.kubeconfig)
        requests = iter(self.generator)
        for done in range(0, operations, REPAIR_EVERY):
            batch = iter([next(requests) for _ in range(min(REPAIR_EVERY, operations - done))])
            await asyncio.gather(*(self._peer(Peer(address), batch) for _ in range(self.peers)))
            await asyncio.to_thread(set_up, self.wire, self.routes)
            if text := self.server.complaints():
                self.result.found.append(
                    Finding(f"the log complains: {text[-3000:]}", f"one of the last {REPAIR_EVERY}")
                )
            self.result.seconds = time.monotonic() - began
            if progress:
                self.result.censuses.append(await asyncio.to_thread(self.server.census))
                progress(self.result)
        return self.result

    async def _peer(self, peer: Peer, requests: Iterator[Request]) -> None:
        result = self.result
        for request in requests:
            raw = request.encode(peer.address.headers)
            result.operations += 1
            try:
                answer = await peer.ask(raw, head=request.method == b"HEAD", endless=request.endless)
            except TimeoutError:
                result.found.append(Finding("no answer in time", request.told()))
                peer.close()
                continue
            except (Broken, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
                peer.close()
                if not _spoils_framing(request):
                    result.found.append(Finding(f"{error!r}", request.told()))
                continue
            result.codes[answer.code] += 1
            if answer.seconds > result.slowest:
                result.slowest, result.slowest_request = answer.seconds, request.told()
            if wrong := judge(request, answer):
                result.found.append(Finding(wrong, request.told()))
            if _spoils_framing(request):
                peer.close()  # where the next request begins is anybody's guess
        peer.close()


def _spoils_framing(request: Request) -> bool:
    """Whether the server cannot know where the request ends, or that there will be no more."""
    names = {name.lower() for name, _ in request.headers}
    odd = bool(names & {b"content-length", b"transfer-encoding", b"upgrade", b"expect"}) or request.method == b"CONNECT"
    return odd or b"\n" in request.target or b"\n" in b"".join(value for _, value in request.headers)


async def fuzz(directory: Path, seed: int, operations: int, progress: Callable[[Result], None] | None = None) -> Result:
    """A run of its own against a server of its own, with what the server held before and after it."""
    server = await asyncio.to_thread(FuzzedServer, directory)
    try:
        run = await asyncio.to_thread(Run, server, seed)
        await run.go(min(200, operations))  # what is made on first use is no leak
        before = await asyncio.to_thread(server.census)
        result = await run.go(operations - run.result.operations, progress)
        after = await asyncio.to_thread(server.settled, before)
        result.censuses = [before, *result.censuses, after]
        return result
    finally:
        await asyncio.to_thread(server.stop)
