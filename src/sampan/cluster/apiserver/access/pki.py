"""The cluster's certificates and keys, made once and kept in `pki/` (mode 0600), and the kubeconfig that uses them.

`cryptography` is imported only when something must be made: a second start reads files.
"""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.kube.authority import Authority, Pair, key_pem, new_key

if TYPE_CHECKING:
    import ssl

ADMIN = "sampan-admin"
NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file in one step, readable by its owner only."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


class Pki:
    """Files: `ca.crt ca.key server.crt server.key admin.crt admin.key sa.key sa.pub`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / name

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def ensure(self, addresses: tuple[str, ...] = ("127.0.0.1",)) -> None:
        """Make what is missing. The server's certificate is made anew when it lacks one of `addresses`."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._has_keys():
            _make_all(self)
            self.path("server.names").unlink(missing_ok=True)
        if not self.is_whole(addresses):
            _make_server(self, addresses)
            write_private(self.path("server.names"), "\n".join(addresses).encode())

    def is_whole(self, addresses: tuple[str, ...]) -> bool:
        """Whether `ensure` has nothing to do."""
        if not self._has_keys() or not self.path("server.names").exists():
            return False
        return self.read("server.names") == "\n".join(addresses).encode()

    def _has_keys(self) -> bool:
        names = ("ca.crt", "ca.key", "admin.crt", "admin.key", "sa.key", "sa.pub")
        return all(self.path(name).exists() for name in names)

    def server_context(self) -> ssl.SSLContext:
        """TLS for the server: a client certificate is asked for, not demanded."""
        import ssl  # not by the child that only makes them

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.path("server.crt"), self.path("server.key"))
        context.load_verify_locations(self.path("ca.crt"))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    def kubeconfig(self, server: str, namespace: str = "default") -> bytes:
        """A kubeconfig with everything in it, for the administrator at `server` (https://HOST:PORT)."""

        def data(name: str) -> str:
            return base64.b64encode(self.read(name)).decode()

        # Written out: a library for YAML takes as long to import as the rest of this takes.
        return f"""apiVersion: v1
kind: Config
clusters:
- name: sampan
  cluster:
    server: {server}
    certificate-authority-data: {data("ca.crt")}
users:
- name: {ADMIN}
  user:
    client-certificate-data: {data("admin.crt")}
    client-key-data: {data("admin.key")}
contexts:
- name: sampan
  context:
    cluster: sampan
    user: {ADMIN}
    namespace: {namespace}
current-context: sampan
""".encode()


def _make_all(pki: Pki) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    authority = Authority.make("sampan-ca")
    _write(pki, "ca", authority.pair)
    _write(pki, "admin", authority.sign(ADMIN, organization="system:masters", purposes=("client",)))
    key = new_key()
    write_private(pki.path("sa.key"), key_pem(key))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_private(pki.path("sa.pub"), public)


def _make_server(pki: Pki, addresses: tuple[str, ...]) -> None:
    authority = Authority(pki.read("ca.crt"), pki.read("ca.key"))
    server = authority.sign("sampan-apiserver", hosts=NAMES, addresses=addresses, purposes=("server",))
    _write(pki, "server", server)


def _write(pki: Pki, name: str, pair: Pair) -> None:
    write_private(pki.path(f"{name}.key"), pair.key)
    write_private(pki.path(f"{name}.crt"), pair.crt)
