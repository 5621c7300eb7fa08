"""Versions of a custom kind converted by a webhook: a true HTTPS server on loopback that both targets reach."""

from __future__ import annotations

import base64
import itertools
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.apiserver.access.pki import Pki
from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import APPLY, Wire

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "convert.example.com"
Object = dict[str, Any]
_counter = itertools.count()


def convert(obj: Object, version: str) -> Object:
    """v1 has `spec.hostPort: "a:1"`, v2 has `spec.host` and `spec.port`."""
    spec = dict(obj.get("spec") or {})
    if version.endswith("/v2") and "hostPort" in spec:
        spec["host"], _, port = spec.pop("hostPort").partition(":")
        spec["port"] = int(port)
    elif version.endswith("/v1") and "host" in spec:
        spec["hostPort"] = f"{spec.pop('host')}:{spec.pop('port')}"
    metadata = {**obj["metadata"], "annotations": {**(obj["metadata"].get("annotations") or {}), "converted": "yes"}}
    return {**obj, "apiVersion": version, "metadata": metadata, "spec": spec}


class Converter:
    """The server. `answer(request)` makes the response; by default every object is converted."""

    def __init__(self, directory: Path) -> None:
        pki = Pki(directory)
        pki.ensure()
        self.ca = base64.b64encode(pki.path("ca.crt").read_bytes()).decode()
        self.seen: list[Object] = []
        self.answer: Callable[[Object], Object] = self.converted
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append(review)
                request = review["request"]
                response = {"uid": request["uid"], "result": {"status": "Success"}, **outer.answer(request)}
                body = json.dumps({**review, "request": None, "response": response}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.path("server.crt"), pki.path("server.key"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @staticmethod
    def converted(request: Object) -> Object:
        return {"convertedObjects": [convert(obj, request["desiredAPIVersion"]) for obj in request["objects"]]}


class Kind:
    """A definition of two versions, v1 stored, converted by the server."""

    def __init__(self, wire: Wire, converter: Converter) -> None:
        name = f"c{next(_counter)}x{os.getpid()}"
        self.wire, self.kind, self.plural, self.crd = wire, name.title(), f"{name}s", f"{name}s.{GROUP}"
        v1 = {"hostPort": {"type": "string"}}
        v2 = {"host": {"type": "string"}, "port": {"type": "integer"}, "kept": {"type": "boolean", "default": True}}
        config = {"url": f"https://127.0.0.1:{converter.server.server_port}/convert", "caBundle": converter.ca}
        body = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.crd},
            "spec": {
                "group": GROUP,
                "scope": "Cluster",
                "names": {"plural": self.plural, "kind": self.kind},
                "versions": [self.version("v1", v1, storage=True), self.version("v2", v2)],
                "conversion": {
                    "strategy": "Webhook",
                    "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": config},
                },
            },
        }
        made = wire.post(DEFINITIONS, body)
        assert made.code == 201, made
        eventually(lambda: all(wire.get(self.path(version)).code == 200 for version in ("v1", "v2")))

    @staticmethod
    def version(name: str, fields: Object, *, storage: bool = False) -> Object:
        spec = {"type": "object", "properties": fields}
        schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
        return {"name": name, "served": True, "storage": storage, "schema": schema, "subresources": {"status": {}}}

    def path(self, version: str, name: str = "") -> str:
        return f"/apis/{GROUP}/{version}/{self.plural}" + (f"/{name}" if name else "")

    def body(self, version: str, name: str, **spec: Any) -> Object:
        return {"apiVersion": f"{GROUP}/{version}", "kind": self.kind, "metadata": {"name": name}, "spec": spec}

    def create(self, version: str, name: str, **spec: Any) -> Any:
        body = self.body(version, name, **spec)
        return eventually(lambda: (r := self.wire.post(self.path(version), body)).code != 404 and r)


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converter]:
    made = Converter(tmp_path_factory.mktemp("converter"))
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def kind(wire: Wire, converter: Converter) -> Iterator[Kind]:
    converter.answer = converter.converted
    made = Kind(wire, converter)
    yield made
    converter.answer = converter.converted
    wire.delete(f"{DEFINITIONS}/{made.crd}")


def test_each_version_shows_its_own_fields(wire: Wire, kind: Kind) -> None:
    made = kind.create("v2", "a", host="h", port=1)
    assert (made.code, made["apiVersion"]) == (201, f"{GROUP}/v2")
    assert made["spec"] == {"host": "h", "port": 1}, "defaults come before conversion, and v1 has no such field"
    old = wire.get(kind.path("v1", "a"))
    assert (old["apiVersion"], old["spec"]) == (f"{GROUP}/v1", {"hostPort": "h:1"})
    assert old["metadata"]["annotations"] == {"converted": "yes"}
    assert old["metadata"]["uid"] == made["metadata"]["uid"]
    assert [row["apiVersion"] for row in old["metadata"]["managedFields"]] == [f"{GROUP}/v2"]
    kind.create("v1", "b", hostPort="i:2")
    listed = wire.get(kind.path("v2"))["items"]
    assert [(item["apiVersion"], item["spec"]["host"]) for item in listed] == [
        (f"{GROUP}/v2", "h"),
        (f"{GROUP}/v2", "i"),
    ]


def test_reviews_are_as_the_api_says(wire: Wire, kind: Kind, converter: Converter) -> None:
    kind.create("v1", "a", hostPort="h:1")
    converter.seen.clear()
    wire.get(kind.path("v2", "a"))
    review = converter.seen[-1]
    assert (review["kind"], review["apiVersion"]) == ("ConversionReview", "apiextensions.k8s.io/v1")
    request = review["request"]
    assert request["uid"] and request["desiredAPIVersion"] == f"{GROUP}/v2"
    assert [obj["spec"] for obj in request["objects"]] == [{"hostPort": "h:1"}]


def test_writes_in_the_version_that_is_not_stored(wire: Wire, kind: Kind) -> None:
    kind.create("v1", "a", hostPort="h:1")
    path = kind.path("v2", "a")
    assert wire.patch(path, {"spec": {"port": 2}})["spec"] == {"host": "h", "port": 2}
    present = wire.get(path).body
    present["spec"]["host"] = "j"
    replaced = wire.put(path, present)
    assert (replaced.code, replaced["spec"]["host"], replaced["metadata"]["generation"]) == (200, "j", 3)
    assert wire.get(kind.path("v1", "a"))["spec"] == {"hostPort": "j:2"}
    stale = wire.put(path, present)
    assert (stale.code, stale.reason) == (409, "Conflict")
    wrong = wire.patch(path, {"spec": {"port": "x"}})
    assert wrong.code == 422 and "spec.port in body must be of type integer" in wrong["message"]
    applied = wire.patch(path, kind.body("v2", "a", port=7), APPLY, fieldManager="m", force="true")
    assert (applied.code, applied["spec"]["port"]) == (200, 7)
    gone = wire.delete(path)
    assert gone.code == 200
    assert wire.get(kind.path("v1", "a")).code == 404


def test_watches_show_the_version_asked_for(wire: Wire, kind: Kind) -> None:
    made = kind.create("v1", "a", hostPort="h:1").body
    wire.patch(kind.path("v1", "a"), {"spec": {"hostPort": "h:2"}})
    wire.delete(kind.path("v1", "a"))
    events = wire.watch(kind.path("v2"), 20, resourceVersion=made["metadata"]["resourceVersion"])
    seen = [next(events), next(events)]
    events.close()  # type: ignore[attr-defined]
    assert [(event["type"], event["object"]["apiVersion"], event["object"]["spec"]["port"]) for event in seen] == [
        ("MODIFIED", f"{GROUP}/v2", 2),
        ("DELETED", f"{GROUP}/v2", 2),
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"result": {"status": "Failed", "message": "not today"}, "convertedObjects": []}, "failed: not today"),
        ({"convertedObjects": []}, "returned 0 objects, expected 1"),
    ],
)
def test_a_webhook_that_fails(wire: Wire, kind: Kind, converter: Converter, answer: Object, said: str) -> None:
    kind.create("v1", "a", hostPort="h:1")
    converter.answer = lambda _: answer
    reply = wire.get(kind.path("v2", "a"))
    assert reply.code == 500, reply
    assert f"conversion webhook for {GROUP}/v1, Kind={kind.kind} " in reply["message"]
    assert said in reply["message"], reply
    assert wire.get(kind.path("v1", "a")).code == 200, "the stored version needs no webhook"
    assert wire.post(kind.path("v2"), kind.body("v2", "b", host="h", port=1)).code == 500


def test_conversion_may_not_rename(wire: Wire, kind: Kind, converter: Converter) -> None:
    kind.create("v1", "a", hostPort="h:1")

    def renamed(request: Object) -> Object:
        made = converter.converted(request)
        for obj in made["convertedObjects"]:
            obj["metadata"]["name"] = "other"
        return made

    converter.answer = renamed
    reply = wire.get(kind.path("v2", "a"))
    assert reply.code == 500, reply
    assert "must have the same name" in reply["message"], reply


def test_the_stored_version_changes(wire: Wire, kind: Kind) -> None:
    kind.create("v1", "a", hostPort="h:1")
    path = f"{DEFINITIONS}/{kind.crd}"
    versions = wire.get(path)["spec"]["versions"]
    for version in versions:
        version["storage"] = version["name"] == "v2"
    changed = wire.patch(path, {"spec": {"versions": versions}})
    assert changed["status"]["storedVersions"] == ["v1", "v2"]
    eventually(lambda: wire.get(kind.path("v2", "a")).code == 200)
    assert wire.get(kind.path("v2", "a"))["spec"]["port"] == 1
    assert wire.get(kind.path("v1", "a"))["spec"] == {"hostPort": "h:1"}
    touched = wire.get(kind.path("v2", "a")).body
    assert wire.put(kind.path("v2", "a"), touched).code == 200, "which stores it anew"
    left = [version for version in versions if version["name"] == "v2"]
    refused = wire.patch(path, {"spec": {"versions": left}})
    assert refused.code == 422 and "must remain in spec.versions" in refused["message"]
    assert wire.patch(f"{path}/status", {"status": {"storedVersions": ["v2"]}}).code == 200
    assert wire.patch(path, {"spec": {"versions": left}}).code == 200
    eventually(lambda: wire.get(kind.path("v1", "a")).code == 404)
    eventually(lambda: wire.get(kind.path("v2", "a")).code == 200)


def whole(request: Object) -> Object:
    """Converts parts of objects, too, as they are looked at to see who owns what."""
    converted = []
    for obj in request["objects"]:
        spec = dict(obj.get("spec") or {})
        if request["desiredAPIVersion"].endswith("/v2") and "hostPort" in spec:
            host, _, port = spec.pop("hostPort").partition(":")
            spec |= {"host": host, **({"port": int(port)} if port else {})}
        elif request["desiredAPIVersion"].endswith("/v1") and {"host", "port"} & spec.keys():
            spec["hostPort"] = f"{spec.pop('host', '')}:{spec.pop('port', '')}"
        converted.append({**obj, "apiVersion": request["desiredAPIVersion"], "spec": spec})
    return {"convertedObjects": converted}


def owners(reply: Any) -> dict[str, tuple[str, set[str]]]:
    """Manager -> its version, and the fields of the spec it owns."""
    assert reply.code in (200, 201), reply
    return {
        row["manager"]: (row["apiVersion"].rpartition("/")[2], {*row["fieldsV1"].get("f:spec", {})} - {"."})
        for row in reply["metadata"]["managedFields"]
    }


def test_who_owns_what_is_seen_in_the_version_of_each_manager(wire: Wire, kind: Kind, converter: Converter) -> None:
    converter.answer = whole
    kind.create("v1", "a", hostPort="h:1")

    def apply(version: str, manager: str, force: str = "false", **spec: Any) -> Any:
        body = kind.body(version, "a", **spec)
        return wire.patch(kind.path(version, "a"), body, APPLY, fieldManager=manager, force=force)

    assert owners(apply("v2", "two", host="h", port=1))["two"] == ("v2", {"f:host", "f:port"})
    moved = wire.patch(kind.path("v1", "a"), {"spec": {"hostPort": "k:1"}}, fieldManager="one")
    assert owners(moved)["one"] == ("v1", {"f:hostPort"})
    assert owners(moved)["two"] == ("v2", {"f:port"}), "of v2 it changed the host alone"
    refused = apply("v1", "three", hostPort="k:2")
    assert refused.code == 409, refused
    assert {(field, message.partition("\"")[2].partition("\"")[0]) for _, field, message in refused.causes} == {
        (".spec.hostPort", "one"), (".spec.port", "two"),
    }  # fmt: skip
    forced = apply("v1", "three", force="true", hostPort="k:2")
    assert {name: owned for name, (_, owned) in owners(forced).items() if owned} == {"three": {"f:hostPort"}}
    kept = apply("v2", "two", force="true", port=3)
    assert (kept["spec"]["host"], kept["spec"]["port"]) == ("k", 3)
    assert owners(kept)["two"] == ("v2", {"f:port"})


def test_an_update_whose_owners_cannot_be_seen_is_nobodys(wire: Wire, kind: Kind, converter: Converter) -> None:
    converter.answer = whole
    kind.create("v1", "a", hostPort="h:1")
    body = kind.body("v2", "a", host="h", port=1)
    assert wire.patch(kind.path("v2", "a"), body, APPLY, fieldManager="two").code == 200
    asked = len(converter.seen)

    def partly(request: Object) -> Object:
        if any((obj.get("spec") or {}).get("hostPort") == "k:1" for obj in request["objects"]):
            return {"result": {"status": "Failure", "message": "no"}, "convertedObjects": []}
        return whole(request)

    converter.answer = partly
    moved = wire.patch(kind.path("v1", "a"), {"spec": {"hostPort": "k:1"}}, fieldManager="one")
    assert (moved.code, moved["spec"]["hostPort"], "managedFields" in moved["metadata"]) == (200, "k:1", False)
    assert len(converter.seen) > asked
