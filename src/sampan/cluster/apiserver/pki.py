"""The cluster's certificates and keys, made once and kept in `pki/` (mode 0600), and the kubeconfig that uses them.

`cryptography` is imported only when something must be made: a second start reads files.
"""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder

VALID_DAYS = 3650
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
        wanted = "\n".join(addresses).encode()
        names = ("ca.crt", "ca.key", "admin.crt", "admin.key", "sa.key", "sa.pub")
        if not all(self.path(name).exists() for name in names):
            _make_all(self)
            self.path("server.names").unlink(missing_ok=True)
        if not self.path("server.names").exists() or self.read("server.names") != wanted:
            _make_server(self, addresses)
            write_private(self.path("server.names"), wanted)

    def server_context(self) -> ssl.SSLContext:
        """TLS for the server: a client certificate is asked for, not demanded."""
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
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca_key = _new_key(pki, "ca.key")
    ca_name = _name("sampan-ca")
    ca = _builder(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    ca = ca.add_extension(
        x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True
    )
    _write_certificate(pki, "ca.crt", _sign(ca, ca_key))
    admin_key = _new_key(pki, "admin.key")
    admin = _builder(_name(ADMIN, "system:masters"), ca_name, admin_key)
    admin = admin.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    _write_certificate(pki, "admin.crt", _sign(admin, ca_key))
    sa_key = _new_key(pki, "sa.key")
    public = sa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_private(pki.path("sa.pub"), public)


def _make_server(pki: Pki, addresses: tuple[str, ...]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca_key = serialization.load_pem_private_key(pki.read("ca.key"), None)
    assert isinstance(ca_key, EllipticCurvePrivateKey)
    ca = x509.load_pem_x509_certificate(pki.read("ca.crt"))
    key = _new_key(pki, "server.key")
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in NAMES]
    alternatives += [x509.IPAddress(ip_address(address)) for address in addresses]
    builder = _builder(_name("sampan-apiserver"), ca.subject, key)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    _write_certificate(pki, "server.crt", _sign(builder, ca_key))


def _new_key(pki: Pki, name: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(pki.path(name), pem)
    return key


def _name(common: str, organization: str = "") -> object:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: object, issuer: object, key: EllipticCurvePrivateKey) -> CertificateBuilder:
    from cryptography import x509

    assert isinstance(subject, x509.Name)
    assert isinstance(issuer, x509.Name)
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(builder: CertificateBuilder, key: EllipticCurvePrivateKey) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(issuer, critical=False).sign(key, hashes.SHA256())


def _write_certificate(pki: Pki, name: str, certificate: Certificate) -> None:
    from cryptography.hazmat.primitives import serialization

    write_private(pki.path(name), certificate.public_bytes(serialization.Encoding.PEM))
