"""One server under the fuzzer: runs operations, remembers what it saw of each object, reads watches and lists."""

from __future__ import annotations

import copy
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import yaml

from tests.conformance.kubernetes.fuzz.compare import normal, plain
from tests.conformance.kubernetes.fuzz.generate import NAMES, YAML, Operation, root
from tests.conformance.kubernetes.fuzz.kinds import APART, KINDS, NAMESPACE, WIDGET
from tests.conformance.kubernetes.fuzz.more_kinds import GADGET
from tests.conformance.kubernetes.wire import Reply, Wire

Object = dict[str, Any]
BROKEN = 599
"""For a connection closed without an answer: the real API server does so where it panics over a request."""
WATCHES_AT_ONCE = 40
SUBRESOURCES = ("status", "scale", "finalize")
LAG = 2.0
"""Seconds within which a server's own watch may lag behind a write."""


class _Quoted(yaml.SafeDumper):
    """Every text quoted: what plain words mean differs from reader to reader."""


_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def key_of(path: str) -> str:
    """`configmaps/a` for the path of an object or of its subresource, `configmaps` for that of a collection."""
    words = path.split("/")
    if words[-1] in SUBRESOURCES:
        words.pop()
    return "/".join(words[-2:]) if words[-1] in NAMES and len(words) > 4 else words[-1]


@dataclass
class Seen:
    """The object at a path as this side last saw it."""

    uid: str = "none"
    version: str = "1"
    stale: str = "1"


@dataclass(frozen=True)
class Watch:
    """A watch to be compared: of one kind, from where, of what."""

    kind: str
    since: str  # "start", "middle", or empty: the present state first
    query: tuple[tuple[str, str], ...] = ()


class Side:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.seen: dict[str, Seen] = {}
        self.versions: dict[str, str] = {}
        self.states: dict[str, dict[str, dict[str, Any]]] = {}
        self.written: dict[str, tuple[float, str]] = {}
        """When an object was last written, and as which version."""

    def set_up(self) -> None:
        for namespace in (NAMESPACE, APART):
            account = {"metadata": {"name": "default"}, "automountServiceAccountToken": False}
            self._make("/api/v1/namespaces", {"metadata": {"name": namespace}})
            # without a token volume: docs/conformance.md
            self._make(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        for definition in (WIDGET, GADGET):
            self._make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        give_up = time.monotonic() + 60
        for kind in (kind for kind, fuzzed in KINDS.items() if fuzzed.custom):
            while self.wire.get(root(kind)).code != 200:
                assert time.monotonic() < give_up, "the custom resource is not served"
                time.sleep(0.05)

    def _make(self, path: str, body: Object) -> None:
        reply = self.wire.post(path, body)
        assert reply.code in (201, 409), reply

    def mark(self, name: str) -> None:
        """Remember the present version and objects under `name`, for watches to start from."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        self.versions[name] = str(self.wire.get(path, limit=1)["metadata"]["resourceVersion"])
        self.states[name] = {kind: self.state(kind) for kind in KINDS}

    # -- operations

    def run(self, asked: Operation) -> Reply:
        if asked.method in ("PUT", "PATCH"):
            self._catch_up(asked.path)
        try:
            reply = self._pages(asked) if asked.pages else self._ask(asked, self._body(asked))
        except (http.client.HTTPException, ConnectionError):
            return Reply(BROKEN, {}, b"null")
        if asked.method != "GET" and reply.code < 300 and b'"uid"' in reply.raw:
            self._notice(asked, reply)
        return reply

    def _catch_up(self, path: str) -> None:
        """Wait until what is read from memory is as new as what was last written: upstream tries an update on that
        first, and what this warned of is told even where the update has to be tried again."""
        when, version = self.written.pop(key_of(path), (0.0, ""))
        if version and time.monotonic() - when < LAG:
            words = path.split("/")
            self.wire.get("/".join(words[:-1] if words[-1] in SUBRESOURCES else words), resourceVersion=version)

    def _body(self, asked: Operation) -> Any:
        body = asked.body
        if asked.base and isinstance(body, dict):
            present = self.wire.get(asked.path)
            if present.code == 200:
                body = {**present.body, **{k: v for k, v in body.items() if k != "metadata"}}
                metadata = asked.body.get("metadata")
                if isinstance(metadata, dict) and "labels" in metadata:
                    body["metadata"]["labels"] = metadata["labels"]
        if isinstance(body, (dict, list)):
            body = yaml.dump(body, Dumper=_Quoted) if asked.content_type == YAML else json.dumps(body)
        if isinstance(body, str) and "$" in body:
            seen = self.seen.get(key_of(asked.path), Seen())
            for word, value in (("$UID", seen.uid), ("$VERSION", seen.version), ("$STALE", seen.stale)):
                body = body.replace(word, value)
        return body

    def _ask(self, asked: Operation, body: Any, **more: str) -> Reply:
        query = dict[str, Any](asked.query) | more
        return self.wire.request(
            asked.method, asked.path, body, content_type=asked.content_type, headers={"Accept": asked.accept}, **query
        )

    def _pages(self, asked: Operation) -> Reply:
        reply = self._ask(asked, None)
        if reply.code != 200:
            return reply
        pages = [reply.body]
        while (token := pages[-1]["metadata"].get("continue")) and len(pages) < 10:
            reply = self._ask(asked, None, **{"continue": token})
            pages.append(reply.body)
            if reply.code != 200:
                break
        return Reply(reply.code, reply.headers, json.dumps({"pages": pages}).encode())

    def _notice(self, asked: Operation, reply: Reply) -> None:
        body = reply.body
        metadata = body.get("metadata") or {}
        name = str(metadata.get("name", ""))
        if name not in NAMES and asked.method == "POST" and "dryRun" not in asked.query:
            self.remove(f"{asked.path}/{name}", bool(metadata.get("finalizers")))
        elif name in NAMES and metadata.get("uid") and "resourceVersion" in metadata:
            seen = self.seen.setdefault(f"{key_of(asked.path).partition('/')[0]}/{name}", Seen())
            if seen.version != metadata["resourceVersion"]:
                seen.stale = seen.version
            seen.uid, seen.version = metadata["uid"], metadata["resourceVersion"]
            if "dryRun" not in asked.query:
                self.written[f"{key_of(asked.path).partition('/')[0]}/{name}"] = (time.monotonic(), seen.version)

    def remove(self, path: str, held: bool = True) -> None:
        """Remove an object whatever holds it."""
        if held:
            self.wire.patch(path, {"metadata": {"finalizers": None}})
        reply = self.wire.delete(path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
        if reply.code < 300 and "/namespaces/" in path and path.count("/") == 4:
            name = path.rpartition("/")[2]
            self.wire.put(f"{path}/finalize", {"metadata": {"name": name}, "spec": {"finalizers": []}})

    def remove_all(self, paths: list[str]) -> None:
        for path in paths:
            self.remove(path)

    def clear(self) -> None:
        """Remove everything, finalizers or not."""
        for kind in KINDS:
            for item in self.items(kind):
                self.remove(f"{root(kind)}/{item['metadata']['name']}", bool(item["metadata"].get("finalizers")))
        self.wire.delete(root("v1/Event"))  # those the real server makes of its own accord

    # -- what there is, and what happened

    def items(self, kind: str) -> list[Object]:
        items = self.wire.get(root(kind)).body["items"]
        return [item for item in items if item["metadata"]["name"] in NAMES]

    def state(self, kind: str) -> dict[str, Any]:
        """Name -> object as it is compared, without the type that a list leaves out."""
        return {item["metadata"]["name"]: plain(item) for item in self.items(kind)}

    def events(self, watches: list[Watch], quiet: float = 0.3) -> list[list[tuple[str, str, Any]]]:
        """For each watch the events (type, name, object) up to now: it is ended after `quiet` seconds of silence."""
        with ThreadPoolExecutor(WATCHES_AT_ONCE) as pool:
            return list(pool.map(lambda watch: self._events(watch, quiet), watches))

    def _events(self, watch: Watch, quiet: float) -> list[tuple[str, str, Any]]:
        query = dict(watch.query)
        if watch.since:
            query["resourceVersion"] = self.versions[watch.since]
        found: list[tuple[str, str, Any]] = []
        since = self.states[watch.since][watch.kind] if watch.since else {}
        last: dict[str, Any] = {name: _bare(obj) for name, obj in since.items()}
        for event in self.wire.watch(root(watch.kind), seconds=60, quiet=quiet, **query):
            obj = event["object"]
            name = str((obj.get("metadata") or {}).get("name", ""))
            if name in NAMES:
                seen = plain(obj)
                # upstream writes some updates that change nothing but when a manager last wrote: docs/conformance.md
                bare = _bare(seen)
                if event["type"] != "MODIFIED" or last.get(name) != bare:
                    found.append((event["type"], name, seen))
                last[name] = bare
            elif event["type"] == "BOOKMARK":  # besides its version it shows nothing
                found.append((event["type"], "", (obj.get("metadata") or {}).get("annotations")))
            elif event["type"] == "ERROR":
                found.append((event["type"], "", plain(obj)))
        return found


def _bare(seen: dict[str, Any]) -> dict[str, Any]:
    """An object without its type, and without the empty maps of metadata that upstream stores for a custom object,
    shows in a list, and loses with the next update."""
    metadata = {key: item for key, item in seen["metadata"].items() if item != {}}
    return {key: item for key, item in seen.items() if key not in {"apiVersion", "kind"}} | {"metadata": metadata}


def answer(reply: Reply) -> dict[str, Any]:
    """A reply as it is compared."""
    return normal(copy.copy(reply))


Both = Callable[[Callable[[Side], Any]], tuple[Any, Any]]
