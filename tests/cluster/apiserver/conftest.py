"""A real API server per test: a store on disk, TLS, a kubeconfig; keys are made once per session."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store
from sampan.kube.client import Client


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    pki.ensure()
    return pki


@pytest.fixture
async def api(tmp_path: Path, keys: Pki) -> AsyncIterator[ApiServer]:
    store = Store.open(tmp_path / "cluster.db")
    tokens = tmp_path / "tokens.csv"
    tokens.write_text('secret-of-ann,ann,1,"developers"\n')
    server = ApiServer(store, keys, tokens_file=tokens)
    await server.start()
    yield server
    await server.stop(grace=1.0)
    await store.close()


@pytest.fixture
def client(api: ApiServer) -> Client:
    return Client(api.transport())


@pytest.fixture
async def kubeconfig(api: ApiServer, tmp_path: Path) -> Path:
    port = await api.serve()
    path = tmp_path / "kubeconfig"
    api.write_kubeconfig(path, f"https://127.0.0.1:{port}")
    return path


class Raw:
    """HTTP spoken by hand, over TLS, with the administrator's certificate or without."""

    def __init__(self, port: int, keys: Pki) -> None:
        self.port = port
        self._keys = keys

    async def open(self, *, admin: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cafile=str(self._keys.path("ca.crt")))
        if admin:
            context.load_cert_chain(self._keys.path("admin.crt"), self._keys.path("admin.key"))
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)

    async def send(self, data: bytes, *, admin: bool = True) -> tuple[int, dict[str, str], bytes]:
        """(code, headers, body) of one request; code 0 when the connection was closed without an answer."""
        reader, writer = await self.open(admin=admin)
        try:
            writer.write(data)
            await writer.drain()
            code, headers, body = await asyncio.wait_for(read_answer(reader), 20)
            if headers.get("transfer-encoding") == "chunked" and b"watch=" not in data.partition(b"\r\n")[0]:
                body = await asyncio.wait_for(read_chunks(reader), 20)
            return code, headers, body
        except ConnectionError:
            return 0, {}, b""
        finally:
            writer.close()

    async def call(
        self, method: str, path: str, body: bytes = b"", *, admin: bool = True, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        rows = {"host": "x", "content-length": str(len(body)), "content-type": "application/json"}
        rows |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
        return await self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body, admin=admin)


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    """The body of a chunked answer."""
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    return body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    line = await reader.readline()
    if line.startswith(b"HTTP/1.1 100"):
        await reader.readline()
        line = await reader.readline()
    if not line:
        return 0, {}, b""
    headers: dict[str, str] = {}
    while (row := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = row.decode().partition(":")
        headers[name.lower()] = value.strip()
    body = b""
    if "content-length" in headers and line[9:12] != b"304":
        body = await reader.readexactly(int(headers["content-length"]))
    return int(line[9:12]), headers, body


@pytest.fixture
async def raw(api: ApiServer, keys: Pki) -> Raw:
    return Raw(await api.serve(), keys)


Kubectl = Callable[..., Awaitable[str]]


def program(name: str) -> str | None:
    """kubectl, or one of the versions beside the one on the path (as the Google Cloud SDK installs them)."""
    found = shutil.which(name)
    beside = shutil.which("kubectl")
    if found is None and beside is not None:
        found = shutil.which(name, path=str(Path(beside).resolve().parent))
    return found


@pytest.fixture
def kubectl(kubeconfig: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Kubectl:
    """Run kubectl; its standard output. Raises AssertionError with what it said when it fails."""
    name = getattr(request, "param", "kubectl")
    found = program(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)

    async def run(*arguments: str, stdin: str = "", fails: bool = False) -> str:
        process = await asyncio.create_subprocess_exec(
            found,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(home)},
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        if (process.returncode != 0) != fails:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {out.decode()}{err.decode()}")
        return (err + out if fails else out).decode()

    return run


def deployment(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1"}]},
            },
            **spec,
        },
    }


@pytest.fixture
def a_deployment() -> Callable[..., dict[str, Any]]:
    return deployment
