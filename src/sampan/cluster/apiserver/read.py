"""Get, list and watch: selectors, pages of a snapshot, resource versions, bookmarks."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.cluster.apiserver import listoptions
from sampan.cluster.apiserver.call import Answer, Call, Frame
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.listoptions import version_of
from sampan.cluster.apiserver.printing.table import shape_of
from sampan.cluster.apiserver.turns import FRAMES, Latest, Turn, Turns, grouped
from sampan.cluster.store import Entry, Event, Table
from sampan.kube import selectors, zeros
from sampan.kube.errors import ApiError, bad_request, expired, not_found
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

BOOKMARK_SECONDS = 60.0
LAST_BOOKMARK_SECONDS = 2.0
"""Before the end of a watch."""
LONGEST_WATCH = 3600.0
PIECE = 500
"""Objects of a list that are written at a time."""
_HEAD = re.compile(rb'\{"kind":"[^"]*","apiVersion":"[^"]*",')
INCONSISTENT = -1
"""In place of the revision of a `continue` token: what is there now will do."""
CONTINUES = "meta.k8s.io/v1"
TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without"
    " the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
    " Continuing with the provided token results in an inconsistent list - objects that were created, modified, or"
    " deleted between the time the first chunk was returned and now may show up in the list."
)
INITIAL_EVENTS_END = "k8s.io/initial-events-end"

Matches = Callable[[Object], bool]


def selector(call: Call) -> Matches | None:
    """The label and field selectors of a call as one test, None when there are none. Raises ApiError 400."""
    kind = call.served
    try:
        labels = selectors.parse_labels(call.query.get("labelSelector"))
        fields = selectors.parse_fields(call.query.get("fieldSelector"))
    except selectors.SelectorError as error:
        raise bad_request(str(error)) from None
    known = {"metadata.name", "metadata.namespace"} | kind.fields if fields else set()
    for term in fields.terms:
        if term.path not in known:
            raise bad_request(_unknown_field(kind, term.path, sorted(known)))
    by_labels = bool(labels)
    # Names are compared first: `kubectl wait` and `get -w` select one object of thousands that way.
    named = [term for term in fields.terms if term.path == "metadata.name"]
    terms = [term for term in fields.terms if term.path != "metadata.name"]
    if not by_labels and not fields.terms:
        return None

    def matches(obj: Object) -> bool:
        for term in named:
            if (obj["metadata"]["name"] == term.value) != term.equal:
                return False
        if by_labels and not labels.matches(obj["metadata"].get("labels")):
            return False
        if not terms:
            return True
        values = kind.field_values(obj)
        return all((values.get(term.path, "") == term.value) == term.equal for term in terms)

    return matches


def _unknown_field(kind: Kind, path: str, known: list[str]) -> str:
    """Kinds with fields of their own to select by say it in other words than those without."""
    if kind.builtin == "Job":
        return f'field label "{path}" not supported for Job'
    if kind.crd is not None or (kind.fields and kind.resource.group in {"", "events.k8s.io"}):
        return f"field label not supported: {path}"
    shown = ", ".join(f'"{name}"' for name in known)
    return f'"{path}" is not a known field selector: only {shown}'


class Reader:
    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.store = server.store
        self._latest = Latest()

    def entry(self, call: Call) -> Entry:
        entry = self.store.table(call.served.table).get(call.key)
        if entry is None:
            raise not_found(call.served.resource.plural, call.name, call.served.resource.group)
        return entry

    def get(self, call: Call) -> Answer:
        self._not_from_the_future(version_of(call))
        entry = self.entry(call)
        obj = call.served.outward(entry.object)
        return Answer(obj=obj, encoded=entry.encoded if obj is entry.object else None)

    def _not_from_the_future(self, version: int | None) -> None:
        if version is not None and version > self.store.revision:
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            raise ApiError(
                504, "Timeout", f"Timeout: Too large resource version: {version}, current: {self.store.revision}",
                {"causes": [cause], "retryAfterSeconds": 1},
            )  # fmt: skip

    def select(self, call: Call) -> tuple[list[Entry], int, dict[str, Any]]:
        """(objects asked for, revision of the list, rest of its metadata)."""
        table = self.store.table(call.served.table)
        matches = selector(call)
        listoptions.check(call, watch=False)
        version, limit = version_of(call), max(0, int(call.query.get("limit") or 0))
        match = call.query.get("resourceVersionMatch", "")
        token = call.query.get("continue", "")
        prefix = f"{call.namespace}/" if call.namespace else ""
        self._not_from_the_future(version)
        revision, after = self.store.revision, ""
        if token:
            revision, after = _read_token(token)
            if revision == INCONSISTENT:
                revision = self.store.revision
            elif revision > self.store.revision or revision < 0:
                raise bad_request("invalid continue token: continue key is not valid: it is of another cluster")
        elif match == "Exact" and version:
            revision = version
        if revision == self.store.revision:
            entries = table.scan(prefix, after)
        else:
            try:
                entries = table.scan_at(revision, prefix, after)
            except ApiError:
                error = expired(TOO_OLD if token else "The resourceVersion for the provided list is too old.")
                if token:
                    error.metadata = {"continue": _token(INCONSISTENT, after)}
                raise error from None
        found, rest = self._page(entries, matches, limit, revision)
        if rest and matches is None:
            if revision == self.store.revision:
                rest["remainingItemCount"] = table.count(prefix, found[-1].key)
            else:
                rest["remainingItemCount"] = 1 + sum(1 for _ in entries)
        return found, revision, rest

    @staticmethod
    def _page(
        entries: Iterator[Entry], matches: Matches | None, limit: int, revision: int
    ) -> tuple[list[Entry], dict[str, Any]]:
        found: list[Entry] = []
        rest: dict[str, Any] = {}
        for entry in entries:
            if matches is not None and not matches(entry.object):
                continue
            if limit and len(found) == limit:
                rest["continue"] = _token(revision, found[-1].key)
                break
            found.append(entry)
        return found, rest

    def list(self, call: Call) -> Answer:
        entries, revision, rest = self.select(call)
        resource, kind = call.served.resource, call.served
        metadata = {"resourceVersion": str(revision), **rest}
        head = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": metadata}
        if kind.crd is not None or not call.encoded:
            return Answer(obj={**head, "items": [kind.outward(entry.object) for entry in entries]})
        opening = msgspec.json.encode(head)[:-1] + b',"items":['
        if len(entries) > PIECE and call.method == "GET" and not shape_of(call):
            return Answer(chunks=_pieces(opening, kind, entries))
        return Answer(encoded=opening + _items(kind, entries) + b"]}")

    # -- watch

    def watch(self, call: Call) -> Turns:
        """Frames of a watch. What is wrong with the request is raised here, before the stream begins."""
        listoptions.check(call, watch=True)
        matches, version = selector(call), version_of(call)
        initial = call.query.get("sendInitialEvents")
        streaming_list = call.flag("sendInitialEvents")
        try:
            self._not_from_the_future(version)
        except ApiError as error:
            if streaming_list:  # told within the stream
                return Turns(_failed(error))
            raise
        table = self.store.table(call.served.table)
        since = self.store.revision
        with_state = streaming_list or (initial is None and not version)
        if not with_state and version:
            since = version
            try:
                table.events_after(since)
            except ApiError as error:  # too old: a watch says so within the stream, and some clients know no other way
                return Turns(_failed(error))
        return Turns(self._turns(call, table, matches, since, with_state, streaming_list))

    async def _turns(  # noqa: PLR0917
        self, call: Call, table: Table, matches: Matches | None, since: int, with_state: bool, mark_end: bool
    ) -> AsyncGenerator[Turn]:
        kind, bookmarks = call.served, call.flag("allowWatchBookmarks")
        prefix = f"{call.namespace}/" if call.namespace else ""
        loop = asyncio.get_running_loop()
        end = loop.time() + (float(call.number("timeoutSeconds")) or LONGEST_WATCH)
        if with_state:
            since = self.store.revision
            state = (entry for entry in list(table.scan(prefix)) if matches is None or matches(entry.object))
            for turn in grouped(self._frame(kind, "ADDED", entry) for entry in state):
                yield turn
            if mark_end and bookmarks:
                yield Turn([self._bookmark(kind, since, {INITIAL_EVENTS_END: "true"})])
        place = since
        # The last one comes before the end, so that a client can go on from there.
        next_bookmark = _next_bookmark(loop.time(), end)
        while not self.server.stopping:
            last, seen = table.last, self.store.revision
            if last > since:
                # Whoever is at the same place sees the same, unless by a selector.
                latest = self._latest.of(table)
                key = (place, prefix, kind) if matches is None else None
                turns: Iterable[Turn] | None = latest.get(key)
                if turns is None:
                    try:
                        events = table.events_after(since)
                    except ApiError as error:
                        yield Turn([Frame("ERROR", obj=error.status())])
                        return
                    turns = grouped(self._transitions(kind, events, prefix, matches))
                    if key is not None and len(events) <= FRAMES:
                        turns = list(turns)
                        if len(turns) <= 1:
                            latest[key] = turns
                for turn in turns:
                    yield turn
                place = last
            since = seen
            if table.last > since:
                continue
            left = end - loop.time()
            if left <= 0:
                return
            if bookmarks and loop.time() >= next_bookmark:
                next_bookmark = _next_bookmark(loop.time(), end)
                yield Turn([self._bookmark(kind, since)])
            await table.wait(min(left, max(next_bookmark - loop.time(), 0.05) if bookmarks else left))

    def _transitions(
        self, kind: Kind, events: Iterable[Event], prefix: str, matches: Matches | None
    ) -> Iterator[Frame]:
        for event in events:
            frame = self._transition(kind, event, prefix, matches)
            if frame is not None:
                yield frame

    def _transition(self, kind: Kind, event: Event, prefix: str, matches: Matches | None) -> Frame | None:
        """What a watcher with this selector sees of a change: an object that starts or stops matching comes or goes."""
        if prefix and not event.entry.key.startswith(prefix):
            return None
        if matches is None:
            return self._frame(kind, event.type, event.entry)
        before = event.previous is not None and matches(event.previous.object)
        after = event.type != "DELETED" and matches(event.entry.object)
        if after:
            return self._frame(kind, "MODIFIED" if before else "ADDED", event.entry)
        if not before or event.previous is None:
            return None
        if event.type == "DELETED":
            return self._frame(kind, "DELETED", event.entry)
        # The object as it was when it last matched, under the revision at which it ceased to.
        last = event.previous.object
        obj = {**last, "metadata": {**last["metadata"], "resourceVersion": str(event.revision)}}
        return Frame("DELETED", obj=kind.outward(obj))

    @staticmethod
    def _frame(kind: Kind, type: Any, entry: Entry) -> Frame:
        if kind.storage is kind.resource and kind.crd is None:
            return Frame(type, entry=entry)
        obj = kind.outward(entry.object)
        return Frame(type, entry=entry) if obj is entry.object else Frame(type, obj=obj)

    @staticmethod
    def _bookmark(kind: Kind, revision: int, annotations: dict[str, str] | None = None) -> Frame:
        metadata: Object = {"resourceVersion": str(revision)}
        if annotations:
            metadata["annotations"] = annotations
        if kind.table == "apps/daemonsets":  # of which upstream counts even the bookmarks' templates
            metadata["annotations"] = {**(annotations or {}), "deprecated.daemonset.template.generation": "0"}
        empty = zeros.of(kind.schema) if kind.crd is None else {}  # a built-in kind shows what it always has
        known = {"kind": kind.resource.kind, "apiVersion": kind.resource.api_version, "metadata": metadata}
        return Frame("BOOKMARK", obj={**empty, **known})


def _next_bookmark(now: float, end: float) -> float:
    later = min(now + BOOKMARK_SECONDS, end - LAST_BOOKMARK_SECONDS)
    return later if later > now else end + 1


async def _failed(error: ApiError) -> AsyncGenerator[Turn]:
    yield Turn([Frame("ERROR", obj=error.status())])


async def _pieces(opening: bytes, kind: Kind, entries: list[Entry]) -> AsyncIterator[bytes]:
    """A long list bit by bit: it is never whole in memory, and others are answered in between."""
    for at in range(0, len(entries), PIECE):
        yield (b"," if at else opening) + _items(kind, entries[at : at + PIECE])
        await asyncio.sleep(0)
    yield b"]}"


def _items(kind: Kind, entries: list[Entry]) -> bytes:
    """The items of a built-in list, which do not name their kind, as the list does."""
    if kind.storage is kind.resource:
        head = f'{{"kind":"{kind.resource.kind}","apiVersion":"{kind.resource.api_version}",'.encode()
        size = len(head)
        texts = [entry.encoded for entry in entries]
        return b",".join([b"{" + t[size:] if t.startswith(head) else _anonymous(t) for t in texts])
    return b",".join([msgspec.json.encode(_without_kind(kind.outward(entry.object))) for entry in entries])


def _without_kind(obj: Object) -> Object:
    return {name: value for name, value in obj.items() if name not in {"apiVersion", "kind"}}


def _anonymous(text: bytes) -> bytes:
    """An object's text without its first two fields; they are there since the store puts them in front."""
    match = _HEAD.match(text)
    return b"{" + text[match.end() :] if match else msgspec.json.encode(_without_kind(msgspec.json.decode(text)))


def _token(revision: int, key: str) -> str:
    """Where a list goes on: after `key`, as of `revision`; INCONSISTENT is the present."""
    token = {"v": CONTINUES, "rv": revision, "start": f"{key}\0"}
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


class _Token(msgspec.Struct):
    v: str
    rv: int
    start: str


def _read_token(text: str) -> tuple[int, str]:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        token = msgspec.json.decode(raw, type=_Token)
    except (ValueError, msgspec.MsgspecError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from None
    if token.v != CONTINUES or not token.start:
        raise bad_request("invalid continue token: continue key is not valid: it is of another version")
    return token.rv, token.start.rstrip("\0")
