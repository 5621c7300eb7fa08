"""Lists in pages, lists of a version, and the options that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.wire import Wire

Object = dict[str, Any]


def maps(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def fill(wire: Wire, ns: str, *names: str) -> None:
    for name in names:
        assert wire.post(maps(ns), {"metadata": {"name": name, "labels": {"app": "x"}}}).code == 201


def names(reply: Any) -> list[str]:
    return [item["metadata"]["name"] for item in reply["items"] if item["metadata"]["name"] != "kube-root-ca.crt"]


def test_pages_are_of_one_moment(wire: Wire, ns: str) -> None:
    fill(wire, ns, "a", "b", "c", "d", "e")
    page = wire.get(maps(ns), limit=2)
    assert (names(page), page["metadata"]["remainingItemCount"]) == (["a", "b"], 4)  # with the cluster's CA
    wire.delete(maps(ns, "c"))
    wire.patch(maps(ns, "d"), {"data": {"changed": "yes"}})
    fill(wire, ns, "b2", "f")
    seen, moment = names(page), page["metadata"]["resourceVersion"]
    while token := page["metadata"].get("continue"):
        page = wire.get(maps(ns), limit=2, **{"continue": token})
        assert page["metadata"]["resourceVersion"] == moment
        assert not any(item.get("data", {}).get("changed") for item in page["items"])
        seen += names(page)
    assert seen == ["a", "b", "c", "d", "e"]
    assert "remainingItemCount" not in page["metadata"]
    assert names(wire.get(maps(ns))) == ["a", "b", "b2", "d", "e", "f"]


def test_a_selector_counts_no_rest(wire: Wire, ns: str) -> None:
    fill(wire, ns, "a", "b", "c")
    page = wire.get(maps(ns), limit=2, labelSelector="app=x")
    assert names(page) == ["a", "b"] and "remainingItemCount" not in page["metadata"]
    rest = wire.get(maps(ns), limit=2, labelSelector="app=x", **{"continue": page["metadata"]["continue"]})
    assert names(rest) == ["c"]
    whole = wire.get(maps(ns), **{"continue": page["metadata"]["continue"]})
    assert names(whole) == ["c"], "without a limit: all that is left"


def test_lists_of_a_version(wire: Wire, ns: str) -> None:
    fill(wire, ns, "a", "b")
    then = wire.get(maps(ns))["metadata"]["resourceVersion"]
    wire.delete(maps(ns, "a"))
    fill(wire, ns, "c")
    exact = wire.get(maps(ns), resourceVersion=then, resourceVersionMatch="Exact")
    assert (names(exact), exact["metadata"]["resourceVersion"]) == (["a", "b"], then)
    page = wire.get(maps(ns), resourceVersion=then, resourceVersionMatch="Exact", limit=1)
    assert names(page) == ["a"]
    assert names(wire.get(maps(ns), **{"continue": page["metadata"]["continue"]})) == ["b"]
    newer = wire.get(maps(ns), resourceVersion=then, resourceVersionMatch="NotOlderThan")
    assert int(newer["metadata"]["resourceVersion"]) >= int(then)
    assert names(wire.get(maps(ns), resourceVersion="")) == ["b", "c"]


@pytest.mark.parametrize("path", ["", "a"])
def test_a_version_that_has_not_been(wire: Wire, ns: str, path: str) -> None:
    fill(wire, ns, "a")
    reply = wire.get(maps(ns, path), resourceVersion="99999999")
    assert (reply.code, reply.reason) == (504, "Timeout")
    assert reply["message"].startswith("Timeout: Too large resource version: 99999999, current: ")
    assert reply["details"] == {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }


MATCH = "resourceVersionMatch"


@pytest.mark.parametrize(
    ("query", "causes"),
    [
        ({MATCH: "Exact"}, [(MATCH, f"Forbidden: {MATCH} is forbidden unless resourceVersion is provided")]),
        (
            {MATCH: "Foo", "resourceVersion": "1"},
            [(MATCH, 'Unsupported value: "Foo": supported values: "Exact", "NotOlderThan", ""')],
        ),
        (
            {MATCH: "Exact", "resourceVersion": "0"},
            [(MATCH, f'Forbidden: {MATCH} "exact" is forbidden for resourceVersion "0"')],
        ),
        (
            {MATCH: "Exact", "continue": "abc"},
            [
                (MATCH, f"Forbidden: {MATCH} is forbidden unless resourceVersion is provided"),
                (MATCH, f"Forbidden: {MATCH} is forbidden when continue is provided"),
            ],
        ),
        ({"sendInitialEvents": "true"}, [("sendInitialEvents", "Forbidden: sendInitialEvents is forbidden for list")]),
    ],
)
def test_options_that_exclude_each_other(wire: Wire, ns: str, query: Object, causes: list[tuple[str, str]]) -> None:
    reply = wire.get(maps(ns), **query)
    assert (reply.code, reply.reason) == (422, "Invalid"), reply
    assert [(field, message) for _, field, message in reply.causes] == causes


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"resourceVersion": "x"}, 'invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint'),
        ({"limit": "x"}, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ({"timeoutSeconds": "x"}, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ({"continue": "abc"}, "invalid continue token: continue key is not valid: "),
        ({"continue": "abc", "resourceVersion": "5"}, "invalid continue token: continue key is not valid: "),
    ],
)
def test_options_that_cannot_be_read(wire: Wire, ns: str, query: Object, message: str) -> None:
    reply = wire.get(maps(ns), **query)
    assert (reply.code, reply.reason) == (400, "BadRequest"), reply
    assert reply["message"].startswith(message)


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_no_limit(wire: Wire, ns: str, limit: str) -> None:
    fill(wire, ns, "a", "b")
    reply = wire.get(maps(ns), limit=limit)
    assert names(reply) == ["a", "b"] and "continue" not in reply["metadata"]
