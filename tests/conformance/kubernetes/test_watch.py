"""Watches: where they begin, what a selector lets through, bookmarks, initial events, shapes, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.conformance.kubernetes.wire import JSON, Reply, Wire

Object = dict[str, Any]
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
END = "k8s.io/initial-events-end"


def maps(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def config(name: str, labels: dict[str, str] | None = None, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data}


def version(wire: Wire, path: str) -> str:
    return str(wire.get(path)["metadata"]["resourceVersion"])


def first(wire: Wire, path: str, count: int, seconds: int = 20, accept: str = JSON, **query: Any) -> list[Object]:
    """The first `count` events of a watch."""
    kept, wire.headers = wire.headers, {**wire.headers, "Accept": accept}
    events = wire.watch(path, seconds, **query)
    try:
        return list(itertools.islice(events, count))
    finally:
        wire.headers = kept
        events.close()  # type: ignore[attr-defined]


def names(events: list[Object]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"]["name"]) for event in events]


def refused(wire: Wire, path: str, **query: Any) -> Reply:
    reply = wire.get(path, watch="true", timeoutSeconds=1, **query)
    assert reply.code >= 400, reply
    return reply


def test_from_a_version_in_order(wire: Wire, ns: str) -> None:
    since = version(wire, maps(ns))
    wire.post(maps(ns), config("a", k="1"))
    wire.patch(maps(ns, "a"), {"data": {"k": "2"}})
    wire.post(maps(ns), config("b"))
    wire.delete(maps(ns, "a"))
    selected: Any = {"fieldSelector": "metadata.name!=kube-root-ca.crt"}
    events = first(wire, maps(ns), 4, resourceVersion=since, **selected)
    assert names(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions)) and versions[0] > int(since)
    assert events[-1]["object"]["data"] == {"k": "2"}, "the object as it was last"
    later = first(wire, maps(ns), 1, resourceVersion=versions[2], **selected)
    assert names(later) == [("DELETED", "a")]


@pytest.mark.parametrize("start", [{}, {"resourceVersion": "0"}])
def test_from_what_is_there(wire: Wire, ns: str, start: Object) -> None:
    for name in ("b", "a"):
        wire.post(maps(ns), config(name, {"app": "x"}))
    events = first(wire, maps(ns), 2, labelSelector="app=x", **start)
    assert names(events) == [("ADDED", "a"), ("ADDED", "b")]


def test_a_selector_shows_comings_and_goings(wire: Wire, ns: str) -> None:
    since = version(wire, maps(ns))
    wire.post(maps(ns), config("a", {"app": "x"}, k="1"))
    wire.patch(maps(ns, "a"), {"data": {"k": "2"}})
    wire.patch(maps(ns, "a"), {"metadata": {"labels": {"app": "y"}}, "data": {"k": "3"}})
    wire.patch(maps(ns, "a"), {"data": {"k": "4"}})
    wire.patch(maps(ns, "a"), {"metadata": {"labels": {"app": "x"}}})
    wire.delete(maps(ns, "a"))
    events = first(wire, maps(ns), 5, resourceVersion=since, labelSelector="app=x")
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
    assert [event["object"]["data"]["k"] for event in events] == ["1", "2", "2", "4", "4"]
    assert events[2]["object"]["metadata"]["labels"] == {"app": "x"}, "as it was when it last matched"
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


def test_field_selectors(wire: Wire, ns: str) -> None:
    pods = f"/api/v1/namespaces/{ns}/pods"
    since = version(wire, pods)
    body = {"spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "x"}]}}
    for name in ("a", "b"):
        assert wire.post(pods, {"metadata": {"name": name}, **body}).code == 201
    wire.patch(f"{pods}/a/status", {"status": {"phase": "Failed"}})
    failed = first(wire, pods, 1, resourceVersion=since, fieldSelector="status.phase=Failed")
    assert names(failed) == [("ADDED", "a")]
    one = first(
        wire, "/api/v1/pods", 1, resourceVersion=since, fieldSelector=f"metadata.name=b,metadata.namespace={ns}"
    )
    assert names(one) == [("ADDED", "b")]


def test_all_namespaces_and_the_cluster(wire: Wire, ns: str) -> None:
    since = version(wire, "/api/v1/configmaps")
    wire.post(maps(ns), config("a", {"only": ns}))
    assert names(first(wire, "/api/v1/configmaps", 1, resourceVersion=since, labelSelector=f"only={ns}")) == [
        ("ADDED", "a")
    ]
    since = version(wire, "/api/v1/namespaces")
    wire.patch(f"/api/v1/namespaces/{ns}", {"metadata": {"labels": {"a": "b"}}})
    named = f"metadata.name={ns}"
    events = first(wire, "/api/v1/namespaces", 1, resourceVersion=since, fieldSelector=named)
    assert names(events) == [("MODIFIED", ns)]


def test_one_object(wire: Wire, ns: str) -> None:
    wire.post(maps(ns), config("a"))
    wire.post(maps(ns), config("b"))
    assert names(first(wire, maps(ns), 1, fieldSelector="metadata.name=b")) == [("ADDED", "b")]
    assert names(first(wire, f"/api/v1/watch/namespaces/{ns}/configmaps/b", 1)) == [("ADDED", "b")]
    read = wire.get(maps(ns, "a"), watch="true")
    assert (read.code, read["kind"]) == (200, "ConfigMap"), "an object's own path is read, not watched"


def test_initial_events_end_with_a_bookmark(wire: Wire, ns: str) -> None:
    for name in ("a", "b"):
        wire.post(maps(ns), config(name, {"app": "x"}))
    options: Any = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    events = first(wire, maps(ns), 3, labelSelector="app=x", **options)
    assert names(events[:2]) == [("ADDED", "a"), ("ADDED", "b")]
    mark = events[2]
    since = mark["object"]["metadata"]["resourceVersion"]
    metadata = {"resourceVersion": since, "annotations": {END: "true"}}
    assert mark == {"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}}
    wire.delete(maps(ns, "a"))
    assert names(first(wire, maps(ns), 1, labelSelector="app=x", resourceVersion=since)) == [("DELETED", "a")]
    without = {**options, "sendInitialEvents": "false", "resourceVersion": since}
    assert names(first(wire, maps(ns), 1, labelSelector="app=x", **without)) == [("DELETED", "a")]


FORBIDDEN = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
UNLESS = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
ONLY = 'Unsupported value: "Exact": supported values: "NotOlderThan"'


@pytest.mark.parametrize(
    ("query", "causes"),
    [
        ({"sendInitialEvents": "true"}, [("FieldValueForbidden", FORBIDDEN)]),
        ({"sendInitialEvents": "false"}, [("FieldValueForbidden", FORBIDDEN)]),
        (
            {"sendInitialEvents": "true", "resourceVersionMatch": "Exact", "resourceVersion": "1"},
            [("FieldValueForbidden", FORBIDDEN), ("FieldValueNotSupported", ONLY)],
        ),
        ({"resourceVersionMatch": "NotOlderThan", "resourceVersion": "1"}, [("FieldValueForbidden", UNLESS)]),
        (
            {"resourceVersionMatch": "Exact", "resourceVersion": "1"},
            [("FieldValueForbidden", UNLESS), ("FieldValueNotSupported", ONLY)],
        ),
    ],
)
def test_options_that_exclude_each_other(wire: Wire, ns: str, query: Object, causes: list[tuple[str, str]]) -> None:
    reply = refused(wire, maps(ns), **query)
    assert (reply.code, reply.reason) == (422, "Invalid")
    assert reply["message"].startswith('ListOptions.meta.k8s.io "" is invalid: ')
    assert reply.causes == [(reason, "resourceVersionMatch", message) for reason, message in causes]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"labelSelector": "a=b=c"}, "found '=', expected: ',' or 'end of string'"),
        ({"labelSelector": "a in (b"}, "unable to parse requirement: found '', expected: ',' or ')'"),
        ({"labelSelector": "a,,b"}, "found ',', expected: identifier after ','"),
        ({"fieldSelector": "metadata.name"}, "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        (
            {"fieldSelector": "data.x=1"},
            '"data.x" is not a known field selector: only "metadata.name", "metadata.namespace"',
        ),
    ],
)
def test_selectors_that_cannot_be_read(wire: Wire, ns: str, query: Object, message: str) -> None:
    reply = refused(wire, maps(ns), **query)
    assert (reply.code, reply.reason, reply["message"]) == (400, "BadRequest", message)


def test_initial_events_from_the_future(wire: Wire, ns: str) -> None:
    options: Any = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "99999999"}
    (event,) = first(wire, maps(ns), 1, allowWatchBookmarks="true", **options)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 504, "Timeout")
    assert event["object"]["details"]["causes"] == [
        {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    ]


def test_a_watch_ends_when_it_is_asked_to(wire: Wire, ns: str) -> None:
    # Of one object: every new namespace gets a ConfigMap with the cluster's authority, a little later.
    since = version(wire, maps(ns))
    assert list(wire.watch(maps(ns), 1, resourceVersion=since, fieldSelector="metadata.name=none")) == []


def test_tables(wire: Wire, ns: str) -> None:
    since = version(wire, maps(ns))
    wire.post(maps(ns), config("a", k="1"))
    wire.patch(maps(ns, "a"), {"data": {"l": "2"}})
    events = first(wire, maps(ns), 2, accept=TABLE, resourceVersion=since, fieldSelector="metadata.name=a")
    tables = [event["object"] for event in events]
    assert [(event["type"], table["kind"]) for event, table in zip(events, tables, strict=True)] == [
        ("ADDED", "Table"),
        ("MODIFIED", "Table"),
    ]
    assert [column["name"] for column in tables[0]["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert not tables[1]["columnDefinitions"], "told once"
    assert [table["rows"][0]["cells"][:2] for table in tables] == [["a", 1], ["a", 2]]
    assert tables[0]["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    (partial,) = first(wire, maps(ns), 1, accept=PARTIAL, fieldSelector="metadata.name=a")
    assert partial["object"]["kind"] == "PartialObjectMetadata" and "data" not in partial["object"]


def test_a_collection_deleted_is_seen_one_by_one(wire: Wire, ns: str) -> None:
    for name in ("a", "b", "c"):
        wire.post(maps(ns), config(name, {"app": "x" if name < "c" else "y"}))
    since = version(wire, maps(ns))
    reply = wire.delete(maps(ns), labelSelector="app=x")
    assert (reply.code, reply["kind"]) == (200, "ConfigMapList")
    assert sorted(item["metadata"]["name"] for item in reply["items"]) == ["a", "b"]
    events = first(wire, maps(ns), 2, resourceVersion=since)
    assert sorted(names(events)) == [("DELETED", "a"), ("DELETED", "b")]
    versions = [event["object"]["metadata"]["resourceVersion"] for event in events]
    assert len(set(versions)) == 2, "each is a change of its own"
    assert wire.get(maps(ns, "c")).code == 200
