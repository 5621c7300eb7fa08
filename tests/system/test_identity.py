"""A system whose services speak TLS and know their callers, from one command: certificates, the development issuer,
leave to read EndpointSlices, and calls between instances."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.harness import System, accepts, small_system, until

pytestmark = pytest.mark.timeout(300)

SYSTEM = """
from sampan import Application, Service
from sampan.model import Oidc, Security, Tls

users = Service("users", asgi="guarded.web:users", replicas=2, tls=Tls(), security=Security(
    authenticate=[Oidc("https://id.example.com", audience="users", local="dev")],
    public=["/open"], scopes={"/users": "users:read"}))
shop = Service("shop", asgi="guarded.web:shop", public="/", calls=[users], tls=Tls(),
               env={"SAMPAN_DISCOVERY": "kubernetes"})
plain = Service("plain", asgi="guarded.web:shop", calls=[users], tls=Tls())
app = Application("guarded", services=[users, shop, plain])
"""
WEB = """
import json, os
from guarded import system

async def answer(send, status, body):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

async def users(scope, receive, send):
    if scope["type"] == "http":
        caller = scope.get("sampan.caller")
        said = {"pod": os.environ["POD_NAME"], "caller": caller.subject if caller else None, "scheme": scope["scheme"]}
        await answer(send, 200, json.dumps(said).encode())

async def shop(scope, receive, send):
    if scope["type"] == "http":
        try:
            reply = await system.users.client.get("/open")
            await answer(send, reply.status, reply.body)
        except Exception as error:
            await answer(send, 503, f"{type(error).__name__}: {error}".encode())
"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[System]:
    with small_system("guarded", SYSTEM, WEB) as system:
        system.said = system.sampan("up", "--detach", "--timeout", "60").stdout  # type: ignore[attr-defined]
        yield system


class Caller:
    """HTTPS to a Service of the system, by the authority that `up` made."""

    def __init__(self, system: System) -> None:
        secret = json.loads(system.kubectl("get", "secret", "users-tls", "-n", "guarded", "-o", "json"))
        self.context = ssl.create_default_context(cadata=b64decode(secret["data"]["ca.crt"]).decode())
        service = json.loads(system.kubectl("get", "service", "users", "-n", "guarded", "-o", "json"))
        self.ports = service["spec"]["ports"]
        self.address = f"{service['spec']['clusterIP']}:{self.ports[0]['port']}"
        self.context.check_hostname = False  # by address; the name is checked by the services themselves
        until(lambda: accepts(service["spec"]["clusterIP"], self.ports[0]["port"]), 15, "the proxy carries the service")

    def get(self, path: str, token: str = "") -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"https://{self.address}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.context) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, None


def test_services_are_ready_and_answer_https_on_their_service(guarded: System) -> None:
    users = Caller(guarded)
    assert [(port["name"], port["port"], port["appProtocol"]) for port in users.ports] == [("https", 8443, "https")]
    status, said = users.get("/open")
    assert (status, said["scheme"], said["caller"]) == (200, "https", None)
    deployment = json.loads(guarded.kubectl("get", "deployment", "users", "-n", "guarded", "-o", "json"))
    assert deployment["status"]["readyReplicas"] == 2
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {container[f"{name}Probe"]["httpGet"]["scheme"] for name in ("startup", "readiness", "liveness")} == {
        "HTTPS"
    }


def test_a_guarded_service_is_used_with_a_token_that_up_says_how_to_get(guarded: System) -> None:
    words = guarded.said  # type: ignore[attr-defined]
    command = next(line.partition(": ")[2].split() for line in words.splitlines() if "a token for users" in line)
    assert command[:2] == ["sampan", "token"]
    assert "development issuer at http://127.0.0.1:" in words
    users = Caller(guarded)
    assert users.get("/users")[0] == 401
    token = guarded.sampan(*command[1:]).stdout.strip()
    status, said = users.get("/users", token)
    assert (status, said["caller"]) == (200, "ada")
    lesser = guarded.sampan("token", "--subject", "bob", "--audience", "users").stdout.strip()
    assert users.get("/users", lesser)[0] == 403
    other = guarded.sampan("token", "--subject", "bob", "--audience", "stock", "--scope", "users:read").stdout.strip()
    assert users.get("/users", other)[0] == 401


def test_up_again_keeps_issuer_authority_and_pods(guarded: System) -> None:
    def now() -> tuple[Any, ...]:
        pods = sorted(pod["metadata"]["name"] for pod in guarded.objects("pods", "-n", "guarded"))
        secrets = {s["metadata"]["name"]: s["data"] for s in guarded.objects("secrets", "-n", "guarded")}
        issuers = [
            line for line in guarded.sampan("up", "--detach").stdout.splitlines() if "development issuer" in line
        ]
        return pods, secrets, issuers

    first = now()
    assert first == now()
    assert {"users-tls", "shop-tls", "plain-tls", "development-ca"} <= first[1].keys()


def test_who_reads_endpoint_slices_may_do_that_and_nothing_else(guarded: System) -> None:
    def may(verb: str, what: str, account: str) -> str:
        name = f"system:serviceaccount:guarded:{account}"
        return guarded.kubectl("auth", "can-i", verb, what, "-n", "guarded", "--as", name, check=False).split()[0]

    for verb in ("list", "watch"):
        assert may(verb, "endpointslices.discovery.k8s.io", "shop") == "yes"
        assert may(verb, "endpointslices.discovery.k8s.io", "plain") == "no"
        assert may(verb, "endpointslices.discovery.k8s.io", "users") == "no"
    for verb, what in (("get", "secrets"), ("list", "pods"), ("create", "endpointslices.discovery.k8s.io")):
        assert may(verb, what, "shop") == "no"
    assert [r["metadata"]["name"] for r in guarded.objects("roles", "-n", "guarded")] == ["shop-discovery"]


def test_calls_by_tls_reach_every_instance_that_the_slices_name(guarded: System) -> None:
    seen = until(lambda: _pods(guarded), 20, "both instances of users are called, by TLS")
    assert all(name.startswith("users-") for name in seen)


def _pods(system: System) -> set[str]:
    found = set()
    for _ in range(20):
        status, body = _through_the_ingress(system)
        if status == 200:
            found.add(json.loads(body)["pod"])
    return found if len(found) == 2 else set()


def _through_the_ingress(system: System) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(system.url + "/", timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
