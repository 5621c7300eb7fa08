"""The HTTPS transport against a real socket, and kubeconfig files as people have them."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.https import HttpsTransport
from sampan.kube.kubeconfig import Access, KubeconfigError, in_cluster, load
from sampan.kube.transport import Request


class Backend:
    """A recorded HTTP server: answers by path, or 404 as a Status."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            for piece in self.answers[request.path]:
                await response.write(piece)
                await asyncio.sleep(0.005)
            return response
        if request.path in self.answers:
            return web.json_response(self.answers[request.path])
        return web.json_response(ApiError(404, "NotFound", "no such thing").status(), status=404)


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def transport(backend: Backend) -> AsyncIterator[HttpsTransport]:
    made = HttpsTransport(Access(backend.url, token="s3cret"))
    yield made
    await made.close()


async def test_a_call_carries_token_body_and_type(backend: Backend, transport: HttpsTransport) -> None:
    backend.answers["/api/v1/namespaces/shop/pods/a"] = {"kind": "Pod"}
    client = Client(transport)
    await client.patch(kinds.POD, "a", "shop", {"metadata": {"labels": {"x": None}}})
    request = backend.seen[0]
    assert request.headers["Authorization"] == "Bearer s3cret"
    assert request.content_type == "application/merge-patch+json"
    assert json.loads(backend.bodies[0]) == {"metadata": {"labels": {"x": None}}}


async def test_a_failure_is_the_status_it_carries(transport: HttpsTransport) -> None:
    with pytest.raises(ApiError) as caught:
        await transport.send(Request("GET", "/api/v1/pods/none"))
    assert (caught.value.code, caught.value.reason) == (404, "NotFound")


async def test_a_list_is_fetched_in_pages(backend: Backend, transport: HttpsTransport) -> None:
    backend.answers["/api/v1/pods"] = {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]}
    answer = await Client(transport).list(kinds.POD, limit=1)
    assert backend.seen[0].query["limit"] == "1"
    assert answer.items == [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}]
    assert answer.resource_version == "7"


async def test_watch_lines_may_come_in_any_pieces(backend: Backend, transport: HttpsTransport) -> None:
    big = "x" * 300_000
    lines = b"".join(
        json.dumps({"type": "ADDED", "object": {"metadata": {"name": name}}}).encode() + b"\n"
        for name in ("a", big, "c")
    )
    backend.answers["/api/v1/pods"] = [lines[i : i + 70_001] for i in range(0, len(lines), 70_001)]
    names = [e["object"]["metadata"]["name"] async for e in Client(transport).watch(kinds.POD, resource_version="1")]
    assert names == ["a", big, "c"]


async def test_an_error_event_is_raised(backend: Backend, transport: HttpsTransport) -> None:
    status = ApiError(410, "Expired", "too old").status()
    backend.answers["/api/v1/pods"] = [json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"]
    with pytest.raises(ApiError) as caught:
        async for _ in Client(transport).watch(kinds.POD, resource_version="1"):
            pass
    assert caught.value.code == 410


async def test_a_server_that_is_not_there_is_an_os_error() -> None:
    transport = HttpsTransport(Access("http://127.0.0.1:1"))
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        await transport.send(Request("GET", "/version"))
    await transport.close()


def kubeconfig(directory: Path, **user: Any) -> Path:
    path = directory / "config"
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", "certificate-authority": "ca.pem"}}
        ],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    (directory / "ca.pem").write_text("CA")
    return path


def test_paths_are_relative_to_the_kubeconfig_and_data_wins(tmp_path: Path) -> None:
    data = base64.b64encode(b"CERT").decode()
    path = kubeconfig(tmp_path, **{"client-certificate-data": data, "client-certificate": "nowhere.pem"})
    access = load(path)
    assert (access.server, access.namespace) == ("https://127.0.0.1:6443", "shop")
    assert (access.ca, access.certificate) == (b"CA", b"CERT")


def test_credentials_do_not_show_in_a_repr(tmp_path: Path) -> None:
    access = load(kubeconfig(tmp_path, token="s3cret"))
    assert access.authorization() == "Bearer s3cret"
    assert "s3cret" not in repr(access)


def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    access = load(kubeconfig(tmp_path, tokenFile="token"))
    assert access.authorization() == "Bearer one"
    (tmp_path / "token").write_text("two")
    assert access.authorization() == "Bearer two"


def test_a_credential_plugin_is_run(tmp_path: Path) -> None:
    script = 'printf \'{"kind":"ExecCredential","status":{"token":"fresh"}}\''
    path = kubeconfig(tmp_path, exec={"command": "sh", "args": ["-c", script], "apiVersion": "v1"})
    assert load(path).token == "fresh"


def test_the_first_of_several_kubeconfigs_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = kubeconfig(tmp_path / "one", token="1"), kubeconfig(tmp_path / "two", token="2")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'missing'}:{second}")
    assert load().token == "1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not YAML"),
        ("[]", "is not a mapping"),
        ("current-context: nope", "context 'nope' does not exist"),
    ],
)
def test_a_bad_kubeconfig_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(KubeconfigError, match=message):
        load(tmp_path / "config")
    with pytest.raises(KubeconfigError, match="cannot read"):
        load(tmp_path / "none")


def test_a_pod_finds_its_own_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for name in ("token", "namespace", "ca.crt"):
        (tmp_path / name).write_text(name)
    access = in_cluster(tmp_path)
    assert (access.server, access.namespace, access.authorization()) == (
        "https://10.0.0.1:443",
        "namespace",
        "Bearer token",
    )
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(KubeconfigError, match="not in a pod"):
        in_cluster(tmp_path)


def test_insecure_is_only_by_request() -> None:
    from sampan.kube.https import tls_context

    assert tls_context(Access("https://x")).verify_mode == ssl.CERT_REQUIRED
    assert tls_context(Access("https://x", insecure=True)).verify_mode == ssl.CERT_NONE
