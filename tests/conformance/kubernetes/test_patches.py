"""Strategic merge, merge and JSON patches on the wire; the content types of bodies, protobuf among them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.wire import JSON, JSON_PATCH, MERGE, STRATEGIC, Reply, Wire

Object = dict[str, Any]
PROTOBUF = "application/vnd.kubernetes.protobuf"


def maps(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def template(**spec: Any) -> Object:
    return {"spec": {"template": {"spec": spec}}}


@pytest.fixture
def web(wire: Wire, ns: str) -> str:
    """The path of a paused Deployment."""
    container = {"name": "c", "image": "x:1", "env": [{"name": "A", "value": "1"}]}
    spec = {
        "paused": True,
        "replicas": 0,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}},
    }
    path = f"/apis/apps/v1/namespaces/{ns}/deployments"
    metadata = {"name": "d", "labels": {"l": "1"}, "finalizers": ["example.com/a", "example.com/b"]}
    assert wire.post(path, {"metadata": metadata, "spec": spec}).code == 201
    return f"{path}/d"


@pytest.fixture(autouse=True)
def let_go(wire: Wire, ns: str, request: pytest.FixtureRequest) -> Any:
    yield
    if "web" in request.fixturenames:
        wire.patch(f"/apis/apps/v1/namespaces/{ns}/deployments/d", {"metadata": {"finalizers": None}})


def pod(reply: Reply) -> Any:
    return reply["spec"]["template"]["spec"]


def env(reply: Reply) -> list[tuple[str, str]]:
    return [(row["name"], row["value"]) for row in pod(reply)["containers"][0].get("env", [])]


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"env": [{"name": "B", "value": "2"}]}, [("B", "2"), ("A", "1")]),
        ({"env": [{"name": "A", "value": "9"}]}, [("A", "9")]),
        ({"env": [{"name": "A", "$patch": "delete"}]}, []),
        ({"env": [{"name": "Z", "value": "9"}, {"$patch": "replace"}]}, [("Z", "9")]),
        (
            {"$setElementOrder/env": [{"name": "A"}, {"name": "B"}], "env": [{"name": "B", "value": "2"}]},
            [("A", "1"), ("B", "2")],
        ),
        ({"env": None}, []),
    ],
)
def test_lists_merge_by_their_key(wire: Wire, web: str, container: Object, expected: list[tuple[str, str]]) -> None:
    reply = wire.patch(web, template(containers=[{"name": "c", **container}]), STRATEGIC)
    assert reply.code == 200, reply
    assert env(reply) == expected


def test_order_of_elements(wire: Wire, web: str) -> None:
    order = [{"name": "new"}, {"name": "c"}]
    patch = template(**{"$setElementOrder/containers": order, "containers": [{"name": "new", "image": "n"}]})
    assert [row["name"] for row in pod(wire.patch(web, patch, STRATEGIC))["containers"]] == ["new", "c"]
    only = template(**{"$patch": "replace", "containers": [{"name": "only", "image": "o"}]})
    replaced = pod(wire.patch(web, only, STRATEGIC))
    assert [row["name"] for row in replaced["containers"]] == ["only"]


def test_retained_keys(wire: Wire, web: str) -> None:
    recreate = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert wire.patch(web, recreate, STRATEGIC)["spec"]["strategy"] == {"type": "Recreate"}
    without = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    assert wire.patch(web, without, STRATEGIC).code == 200
    left = wire.patch(web, {"spec": {"strategy": {"type": "Recreate"}}}, STRATEGIC)
    assert left.code == 422, "rollingUpdate is still there"


def test_maps_and_lists_of_plain_values(wire: Wire, web: str) -> None:
    labels = {"metadata": {"labels": {"$patch": "replace", "x": "y"}}}
    assert wire.patch(web, labels, STRATEGIC)["metadata"]["labels"] == {"x": "y"}
    assert "labels" not in wire.patch(web, {"metadata": {"labels": {"$patch": "delete"}}}, STRATEGIC)["metadata"]
    added = wire.patch(web, {"metadata": {"finalizers": ["example.com/c"]}}, STRATEGIC)
    assert set(added["metadata"]["finalizers"]) == {"example.com/a", "example.com/b", "example.com/c"}
    gone = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a", "example.com/c"]}}
    assert wire.patch(web, gone, STRATEGIC)["metadata"]["finalizers"] == ["example.com/b"]


def test_strategic_patches_that_are_refused(wire: Wire, web: str) -> None:
    for patch in ({"spec": {"$patch": "foo"}}, template(containers=[{"image": "x"}]), {"spec": [1]}):
        reply = wire.patch(web, patch, STRATEGIC)
        assert reply.code in {400, 422, 500}, reply
    assert env(wire.get(web)) == [("A", "1")]


@pytest.mark.parametrize(
    ("patch", "code", "data"),
    [
        (
            [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"}],
            200,
            {"a": "2"},
        ),
        (
            [{"op": "replace", "path": "/data/a", "value": "2"}, {"op": "test", "path": "/data/a", "value": "1"}],
            422,
            None,
        ),
        ([{"op": "copy", "from": "/data/a", "path": "/data/b"}], 200, {"a": "1", "b": "1"}),
        ([{"op": "move", "from": "/data/a", "path": "/data/b"}], 200, {"b": "1"}),
        ([{"op": "remove", "path": "/data/zz"}], 422, None),
        ([{"op": "replace", "path": "/data/zz", "value": "1"}], 200, {"a": "1", "zz": "1"}),
        ([], 200, {"a": "1"}),
    ],
)
def test_json_patches(wire: Wire, ns: str, patch: list[Object], code: int, data: Object | None) -> None:
    wire.post(maps(ns), {"metadata": {"name": "a"}, "data": {"a": "1"}})
    reply = wire.patch(maps(ns, "a"), patch, JSON_PATCH)
    assert reply.code == code, reply
    assert wire.get(maps(ns, "a"))["data"] == (data or {"a": "1"}), "all or nothing"
    if code == 422:
        assert reply["message"].startswith("the server rejected our request due to an error in our request")


def test_json_patches_of_escaped_names(wire: Wire, ns: str) -> None:
    wire.post(maps(ns), {"metadata": {"name": "a", "labels": {"x/y": "1"}}})
    path = [{"op": "replace", "path": "/metadata/labels/x~1y", "value": "2"}]
    assert wire.patch(maps(ns, "a"), path, JSON_PATCH)["metadata"]["labels"] == {"x/y": "2"}


def test_merge_patches_take_nulls_away(wire: Wire, ns: str) -> None:
    wire.post(maps(ns), {"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"a": "1", "b": "2"}})
    reply = wire.patch(maps(ns, "a"), {"data": {"a": None, "c": "3"}, "metadata": {"labels": None}}, MERGE)
    assert reply["data"] == {"b": "2", "c": "3"} and "labels" not in reply["metadata"]
    assert "data" not in wire.patch(maps(ns, "a"), {"data": None}, MERGE).body


@pytest.mark.parametrize("content", [JSON, "text/plain", "", PROTOBUF, "application/yaml"])
def test_bodies_that_are_no_patches(wire: Wire, ns: str, content: str) -> None:
    wire.post(maps(ns), {"metadata": {"name": "a"}})
    reply = wire.patch(maps(ns, "a"), {"data": {"a": "1"}}, content)
    assert (reply.code, reply.reason) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("application/yaml", 201),
        ("application/json;charset=utf-8", 201),
        ("", 201),
        ("text/plain", 415),
        ("application/xml", 415),
        (MERGE, 415),
        (STRATEGIC, 415),
    ],
)
def test_bodies_of_objects(wire: Wire, ns: str, content: str, code: int) -> None:
    reply = wire.request("POST", maps(ns), {"metadata": {"name": "a"}}, content_type=content)
    assert reply.code == code, reply
    if code == 415:
        assert reply["message"] == (
            "the body of the request was in an unknown format - accepted media types include: application/json,"
            " application/yaml, application/vnd.kubernetes.protobuf"
        )


# -- protobuf, by hand: a field is (number << 3 | 2), a length, bytes


def field(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    assert len(data) < 16384
    size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data


def entry(key: str, value: str) -> bytes:
    return field(1, key) + field(2, value)


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    """runtime.Unknown behind its magic number."""
    return b"k8s\0" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw)


def config_map(name: str, version: str = "", **data: str) -> bytes:
    metadata = field(1, name) + (field(6, version) if version else b"") + field(11, entry("app", "x"))
    raw = field(1, metadata) + b"".join(field(2, entry(key, value)) for key, value in data.items())
    return envelope("v1", "ConfigMap", raw)


def test_protobuf_bodies(wire: Wire, ns: str) -> None:
    made = wire.request("POST", maps(ns), config_map("a", k="1"), content_type=PROTOBUF)
    assert made.code == 201, made
    assert (made["data"], made["metadata"]["labels"]) == ({"k": "1"}, {"app": "x"})
    version = made["metadata"]["resourceVersion"]
    changed = wire.request("PUT", maps(ns, "a"), config_map("a", version, k="2"), content_type=PROTOBUF)
    assert (changed.code, changed["data"]) == (200, {"k": "2"})
    stale = wire.request("PUT", maps(ns, "a"), config_map("a", version, k="3"), content_type=PROTOBUF)
    assert (stale.code, stale.reason) == (409, "Conflict")
    options = envelope("v1", "DeleteOptions", field(2, field(1, "wrong-uid")))
    refused = wire.request("DELETE", maps(ns, "a"), options, content_type=PROTOBUF)
    assert refused.code == 409 and "the UID in the precondition (wrong-uid)" in refused["message"]
    background = envelope("v1", "DeleteOptions", field(4, "Background"))
    assert wire.request("DELETE", maps(ns, "a"), background, content_type=PROTOBUF).code == 200
    assert wire.get(maps(ns, "a")).code == 404


@pytest.mark.parametrize("body", [b"", b"k8s\0", b"k8s\0\xff\xff\xff", b"{}", config_map("a")[:-3]])
def test_protobuf_that_is_none(wire: Wire, ns: str, body: bytes) -> None:
    reply = wire.request("POST", maps(ns), body, content_type=PROTOBUF)
    assert 400 <= reply.code < 500, reply
