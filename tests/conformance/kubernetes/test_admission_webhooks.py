"""Admission webhooks, called for true: an HTTPS server on loopback that both targets reach."""

from __future__ import annotations

import base64
import itertools
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.apiserver.access.pki import Pki
from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Reply, Wire

GROUP = "/apis/admissionregistration.k8s.io/v1"
_counter = itertools.count()
Decide = Callable[[dict[str, Any]], Any]
CONFIG_MAPS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}


class Hooks:
    """The server: `decide[path]` answers the requests of a path, `seen[path]` keeps them."""

    def __init__(self, directory: Path) -> None:
        pki = Pki(directory)
        pki.ensure()
        self.ca = base64.b64encode(pki.path("ca.crt").read_bytes()).decode()
        self.decide: dict[str, Decide] = {}
        self.seen: dict[str, list[dict[str, Any]]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["content-length"])))
                path = self.path.partition("?")[0]
                request = review["request"]
                outer.seen.setdefault(path, []).append(request)
                made = outer.decide[path](request)
                code = made if isinstance(made, int) else 200
                answer: Any = "broken"
                if isinstance(made, dict):
                    response = {"uid": request["uid"], **made}
                    answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
                body = json.dumps(answer).encode() if code == 200 else b"oops"
                self.send_response(code)
                self.send_header("Content-Type", "application/json" if code == 200 else "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a caller that did not wait for the answer

        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.path("server.crt"), pki.path("server.key"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def row(self, ns: str, decide: Decide, **more: Any) -> dict[str, Any]:
        """A webhook for the config maps of `ns` that `decide` answers."""
        path = f"/hook{next(_counter)}"
        self.decide[path] = decide
        self.seen[path] = []
        return {
            "name": f"{path[1:]}.example.com",
            "clientConfig": {"url": f"https://127.0.0.1:{self.server.server_port}{path}", "caBundle": self.ca},
            "rules": [CONFIG_MAPS],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}},
            **more,
        }

    def calls(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        return self.seen[f"/{row['name'].partition('.')[0]}"]


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hooks]:
    made = Hooks(tmp_path_factory.mktemp("hooks"))
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def configure(wire: Wire, ns: str, hooks: Hooks) -> Iterator[Callable[..., None]]:
    """Make a configuration of `rows`, and wait until it is in force; removed after the test."""
    made: list[str] = []

    def put(what: str, *rows: dict[str, Any]) -> None:
        kind = f"{what}WebhookConfiguration"
        path = f"{GROUP}/{kind.lower()}s"
        name = f"c{next(_counter)}-{ns}"
        # A webhook beside them that only tells when they are in force.
        probe = hooks.row(ns, lambda _: {"allowed": True}, objectSelector={"matchLabels": {"probe": name}})
        body = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}}
        reply = wire.post(path, {**body, "webhooks": [*rows, probe]})
        assert reply.code == 201, reply
        made.append(f"{path}/{name}")
        before = [list(hooks.calls(row)) for row in rows]

        def in_force() -> bool:
            wire.post(maps(ns), config("probe", {"probe": name}, k="v"), dryRun="All")
            return bool(hooks.calls(probe))

        places = [f"/{row['name'].partition('.')[0]}" for row in rows]
        saved = {place: hooks.decide[place] for place in places}
        hooks.decide.update(dict.fromkeys(places, allow))
        eventually(in_force, what=f"{kind} in force")
        hooks.decide.update(saved)
        for row, known in zip(rows, before, strict=True):
            hooks.calls(row)[:] = known

    yield put
    for path in made:
        wire.delete(path)


def config(name: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data}


def maps(ns: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def patching(*operations: dict[str, Any], **more: Any) -> Decide:
    text = base64.b64encode(json.dumps(list(operations)).encode()).decode()
    return lambda _: {"allowed": True, "patchType": "JSONPatch", "patch": text, **more}


def late(request: dict[str, Any]) -> dict[str, Any]:
    time.sleep(1.5)
    return allow(request)


def allow(_: dict[str, Any]) -> dict[str, Any]:
    return {"allowed": True}


def test_what_a_webhook_is_asked(wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]) -> None:
    row = hooks.row(ns, allow)
    configure("Validating", row)
    assert wire.post(maps(ns), config("a", k="v")).code == 201
    assert wire.patch(maps(ns, "a"), {"data": {"k": "w"}}).code == 200
    assert wire.patch(maps(ns, "a"), {"data": {"k": "x"}}, dryRun="All").code == 200
    assert wire.delete(maps(ns, "a")).code == 200
    create, update, dry, delete = hooks.calls(row)
    assert [one["operation"] for one in (create, update, dry, delete)] == ["CREATE", "UPDATE", "UPDATE", "DELETE"]
    assert [one["dryRun"] for one in (create, update, dry, delete)] == [False, False, True, False]
    kind = {"group": "", "version": "v1", "kind": "ConfigMap"}
    resource = {"group": "", "version": "v1", "resource": "configmaps"}
    for request in (create, update, delete):
        assert (request["kind"], request["requestKind"]) == (kind, kind)
        assert (request["resource"], request["requestResource"]) == (resource, resource)
        assert (request["name"], request["namespace"]) == ("a", ns)
        assert request["userInfo"]["username"]
        assert "system:masters" in request["userInfo"]["groups"]
    assert create["options"] == {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}
    assert create["oldObject"] is None
    assert create["object"]["metadata"]["uid"] == update["object"]["metadata"]["uid"], "the object as it will be stored"
    assert create["object"]["metadata"]["managedFields"]
    assert update["oldObject"]["data"] == {"k": "v"} and update["object"]["data"] == {"k": "w"}
    assert delete["object"] is None and delete["oldObject"]["data"] == {"k": "w"}
    assert delete["options"]["kind"] == "DeleteOptions"


@pytest.mark.parametrize(
    ("status", "code", "reason", "message"),
    [
        (None, 400, "", "denied the request without explanation"),
        ({"message": "no way"}, 400, "", "denied the request: no way"),
        ({"message": "no way", "code": 422, "reason": "Invalid"}, 422, "Invalid", "denied the request: no way"),
        ({"reason": "because"}, 400, "because", "denied the request: because"),
        ({"code": 200}, 400, "", "denied the request without explanation"),
    ],
)
def test_a_denial_says_what_the_webhook_says(
    wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None], status: Any, code: int, reason: str, message: str
) -> None:
    row = hooks.row(ns, lambda _: {"allowed": False, **({"status": status} if status else {})})
    configure("Validating", row)
    reply = wire.post(maps(ns), config("a"))
    assert (reply.code, reply.reason) == (code, reason)
    assert reply["message"] == f'admission webhook "{row["name"]}" {message}'
    assert wire.get(maps(ns, "a")).code == 404


def test_warnings_reach_the_client(wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]) -> None:
    configure("Validating", hooks.row(ns, lambda _: {"allowed": True, "warnings": ["careful"]}))
    assert wire.post(maps(ns), config("a")).warnings == ['299 - "careful"']


def failed(reply: Reply, row: dict[str, Any], message: str) -> None:
    text = f'failed calling webhook "{row["name"]}": {message}'
    assert (reply.code, reply.reason) == (500, "InternalError"), reply
    assert text in reply["message"], reply
    assert reply["message"].startswith("Internal error occurred: ")
    assert text in reply["details"]["causes"][0]["message"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (500, 'failed to call webhook: an error on the server ("oops") has prevented the request from succeeding'),
        ("broken", ""),
        ({"allowed": True, "uid": "zz"}, 'received invalid webhook response: expected response.uid="'),
    ],
)
def test_a_webhook_that_fails(
    wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None], answer: Any, message: str
) -> None:
    fails, ignored = hooks.row(ns, lambda _: answer), hooks.row(ns, lambda _: answer, failurePolicy="Ignore")
    configure("Validating", ignored)
    assert wire.post(maps(ns), config("a")).code == 201
    configure("Validating", fails)
    failed(wire.post(maps(ns), config("b")), fails, message)


def test_a_webhook_that_is_not_there(wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]) -> None:
    gone = hooks.row(ns, allow, objectSelector={"matchLabels": {"gone": "yes"}})
    gone["clientConfig"]["url"] = "https://127.0.0.1:1/x"
    lost = hooks.row(ns, allow, objectSelector={"matchLabels": {"lost": "yes"}})
    lost["clientConfig"] = {"service": {"name": "none", "namespace": ns, "path": "/p"}, "caBundle": hooks.ca}
    slow = hooks.row(ns, late, timeoutSeconds=1)
    slow["objectSelector"] = {"matchLabels": {"slow": "yes"}}
    configure("Validating", gone, lost, slow)
    before = "failed to call webhook: Post "
    message = f'{before}"https://127.0.0.1:1/x?timeout=10s": dial tcp 127.0.0.1:1: connect: connection refused'
    failed(wire.post(maps(ns), config("a", {"gone": "yes"})), gone, message)
    message = f'{before}"https://none.{ns}.svc:443/p?timeout=10s": service "none" not found'
    failed(wire.post(maps(ns), config("a", {"lost": "yes"})), lost, message)
    message = f'{before}"{slow["clientConfig"]["url"]}?timeout=1s": context deadline exceeded'
    failed(wire.post(maps(ns), config("a", {"slow": "yes"})), slow, message)


def test_a_certificate_of_somebody_else(
    wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None], tmp_path: Path
) -> None:
    other = Pki(tmp_path)
    other.ensure()
    row = hooks.row(ns, allow, objectSelector={"matchLabels": {"me": "yes"}})
    row["clientConfig"]["caBundle"] = base64.b64encode(other.path("ca.crt").read_bytes()).decode()
    configure("Validating", row)
    failed(wire.post(maps(ns), config("a", {"me": "yes"})), row, "failed to call webhook: Post ")
    assert hooks.calls(row) == []


def test_patches_are_stored_and_owned_by_nobody(
    wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]
) -> None:
    first = hooks.row(ns, patching({"op": "add", "path": "/data/first", "value": "1"}))
    after = {"op": "test", "path": "/data/first", "value": "1"}
    second = hooks.row(ns, patching(after, {"op": "add", "path": "/data/second", "value": "2"}))
    last = hooks.row(ns, allow)
    configure("Mutating", first, second)
    configure("Validating", last)
    made = wire.post(maps(ns), config("a", k="v"))
    assert made.code == 201, made
    assert made["data"] == {"k": "v", "first": "1", "second": "2"}
    assert made["metadata"]["managedFields"][0]["fieldsV1"]["f:data"] == {".": {}, "f:k": {}}
    assert hooks.calls(last)[0]["object"]["data"] == made["data"], "those who only look see what the others made"
    assert wire.get(maps(ns, "a"))["data"] == made["data"]
    applied = wire.apply(maps(ns, "b"), config("b", k="v"))
    assert (applied.code, applied["data"]) == (201, made["data"])


def test_patches_that_do_not_fit(wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]) -> None:
    rows = {
        "none": hooks.row(ns, patching({"op": "remove", "path": "/data/none"})),
        "untyped": hooks.row(ns, lambda _: {"allowed": True, "patch": base64.b64encode(b"[]").decode()}),
        "label": hooks.row(ns, patching({"op": "add", "path": "/metadata/labels/x", "value": "not a label!"})),
    }
    for name, row in rows.items():
        row["objectSelector"] = {"matchLabels": {name: "yes"}}
    configure("Mutating", *rows.values())
    reply = wire.post(maps(ns), config("a", {"none": "yes"}, k="v"))
    assert (reply.code, reply.reason) == (500, "InternalError")
    assert "/data/none" in reply["message"]
    message = "received invalid webhook response: webhook returned response.patch but not response.patchType"
    failed(wire.post(maps(ns), config("a", {"untyped": "yes"})), rows["untyped"], message)
    reply = wire.post(maps(ns), config("a", {"label": "yes"}))
    assert (reply.code, reply.causes[0][1]) == (422, "metadata.labels"), "what webhooks make is validated"


def test_a_webhook_sees_what_later_ones_changed_if_it_asks(
    wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]
) -> None:
    again = hooks.row(ns, allow, reinvocationPolicy="IfNeeded")
    once = hooks.row(ns, allow)
    changes = hooks.row(ns, patching({"op": "add", "path": "/data/x", "value": "1"}))
    configure("Mutating", again, once, changes)
    assert wire.post(maps(ns), config("a", k="v")).code == 201
    assert [call["object"]["data"].get("x") for call in hooks.calls(again)] == [None, "1"]
    assert len(hooks.calls(once)) == len(hooks.calls(changes)) == 1


def test_which_requests_a_webhook_is_asked_about(
    wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]
) -> None:
    rules = {
        "create": [{**CONFIG_MAPS, "operations": ["CREATE"]}],
        "secrets": [{**CONFIG_MAPS, "resources": ["secrets"]}],
        "cluster": [{**CONFIG_MAPS, "resources": ["*"], "scope": "Cluster"}],
        "any": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"]}],
    }
    rows = {name: hooks.row(ns, allow, rules=rule) for name, rule in rules.items()}
    rows["elsewhere"] = hooks.row("default", allow)
    rows["labelled"] = hooks.row(ns, allow, objectSelector={"matchExpressions": [{"key": "l", "operator": "Exists"}]})
    condition = {"name": "big", "expression": "object != null && object.data.size() > 1"}
    rows["condition"] = hooks.row(ns, allow, matchConditions=[condition])
    user = {"name": "who", "expression": "request.userInfo.username == 'nobody'"}
    rows["user"] = hooks.row(ns, allow, matchConditions=[user])
    configure("Validating", *rows.values())
    wire.post(maps(ns), config("a", k="v"))
    wire.put(maps(ns, "a"), config("a", {"l": "x"}, k="v", m="w"))
    wire.put(maps(ns, "a"), config("a", k="v"))
    wire.delete(maps(ns, "a"))
    wire.post(f"/api/v1/namespaces/{ns}/secrets", {"metadata": {"name": "s"}})
    asked = {name: [call["operation"] for call in hooks.calls(row)] for name, row in rows.items()}
    assert asked == {
        "create": ["CREATE"],
        "secrets": ["CREATE"],
        "cluster": [],
        "any": ["CREATE", "UPDATE", "UPDATE", "CREATE"],
        "elsewhere": [],
        "labelled": ["UPDATE", "UPDATE"],
        "condition": ["UPDATE"],
        "user": [],
    }


def test_a_condition_that_fails(wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]) -> None:
    condition = {"name": "c", "expression": "object.data.none == 'x'"}
    row = hooks.row(ns, allow, matchConditions=[condition], objectSelector={"matchLabels": {"me": "yes"}})
    configure("Validating", row)
    reply = wire.post(maps(ns), config("a", {"me": "yes"}, k="v"))
    assert (reply.code, reply.reason) == (403, "Forbidden")
    assert reply["message"] == (
        "configmaps \"a\" is forbidden: expression 'object.data.none == 'x'' resulted in error: no such key: none"
    )
    assert hooks.calls(row) == []


def test_status_is_a_resource_of_its_own(wire: Wire, ns: str, hooks: Hooks, configure: Callable[..., None]) -> None:
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"]}
    main = hooks.row(ns, allow, rules=[{**rule, "resources": ["replicasets"]}])
    status = hooks.row(ns, allow, rules=[{**rule, "resources": ["replicasets/status"]}])
    configure("Validating", main, status)
    path = f"/apis/apps/v1/namespaces/{ns}/replicasets"
    labels = {"app": "x"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    assert wire.post(path, {"metadata": {"name": "r"}, "spec": spec}).code == 201
    patch = {"status": {"replicas": 0, "conditions": [{"type": "X", "status": "True"}]}}
    assert wire.patch(f"{path}/r/status", patch).code == 200
    ours = [call for call in hooks.calls(status) if call["options"].get("kind") and call["name"] == "r"]
    assert {call["subResource"] for call in ours} == {"status"}
    assert hooks.calls(main) == []


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"sideEffects": "Some"}, "sideEffects", 'Unsupported value: "Some": supported values: "None", "NoneOnDryRun"'),
        (
            {"matchConditions": [{"name": "c", "expression": "object.metadata.zz"}]},
            "matchConditions[0].expression",
            'Invalid value: "object.metadata.zz": must evaluate to bool but got dyn',
        ),
        (
            {"timeoutSeconds": 31},
            "timeoutSeconds",
            "Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
    ],
)
def test_configurations_are_checked(
    wire: Wire, ns: str, hooks: Hooks, more: dict[str, Any], field: str, message: str
) -> None:
    body = {"metadata": {"name": f"bad-{ns}"}, "webhooks": [hooks.row(ns, allow, **more)]}
    reply = wire.post(f"{GROUP}/validatingwebhookconfigurations", body)
    assert reply.code == 422
    assert [(cause[1], cause[2]) for cause in reply.causes] == [(f"webhooks[0].{field}", message)]
