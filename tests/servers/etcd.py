"""etcd from Debian, plain, with users, or with TLS; and a few requests to it that are not made with our client."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.servers.base import Server, free_port
from tests.servers.certificates import Authority


class EtcdServer(Server):
    """`uri` is etcd://HOST:PORT; `context` is for its TLS, `token` for its users."""

    context: ssl.SSLContext | None = None
    token = ""

    def call(self, path: str, body: dict[str, Any]) -> Any:
        scheme = "https" if self.context else "http"
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.port}/v3/{path}", json.dumps(body).encode())
        if self.token:
            request.add_header("authorization", self.token)
        with urllib.request.urlopen(request, timeout=5, context=self.context) as reply:
            return json.loads(reply.read())

    def put(self, key: str, value: str) -> int:
        """The revision of the change."""
        return int(self.call("kv/put", {"key": _text(key), "value": _text(value)})["header"]["revision"])

    def delete(self, key: str) -> None:
        self.call("kv/deleterange", {"key": _text(key)})

    def keys(self, prefix: str) -> list[str]:
        body = {"key": _text(prefix), "range_end": _text(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
        return [base64.b64decode(one["key"]).decode() for one in self.call("kv/range", body).get("kvs", [])]

    def compact(self, revision: int) -> None:
        self.call("kv/compaction", {"revision": str(revision)})

    def add_user(self, name: str, password: str) -> None:
        """Demand a password from now on; `name` and root may do everything."""
        for user in ("root", name):
            self.call("auth/user/add", {"name": user, "password": password})
        self.call("auth/role/add", {"name": "root"})
        for user in ("root", name):
            self.call("auth/user/grant", {"user": user, "role": "root"})
        self.call("auth/enable", {})
        self.token = self.call("auth/authenticate", {"name": "root", "password": password})["token"]


def start_etcd(directory: Path, *, tls: bool = False) -> EtcdServer:
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("etcd is missing: apt-get install etcd-server")
    port, peers, scheme = free_port(), free_port(), "https" if tls else "http"
    listen, peer = f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    command = [
        *(program, "--data-dir", str(directory / "etcd"), "--name", "one", "--log-outputs", "stderr"),
        *("--listen-client-urls", listen, "--advertise-client-urls", listen),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
        *("--heartbeat-interval", "50", "--election-timeout", "500"),
    ]
    context = None
    if tls:
        Authority().directory(directory, "etcd")
        command += ["--cert-file", str(directory / "tls.crt"), "--key-file", str(directory / "tls.key")]
        command += ["--trusted-ca-file", str(directory / "ca.crt"), "--client-cert-auth"]
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    server = EtcdServer(command, port, directory / "etcd.log", f"etcd://127.0.0.1:{port}")
    server.context = context
    return server


def _text(data: str) -> str:
    return base64.b64encode(data.encode()).decode()
