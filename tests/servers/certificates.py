"""A certificate authority, and directories as a mounted TLS secret has them."""

from __future__ import annotations

import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


_NOT_SIGNING = {
    **{"digital_signature": False, "content_commitment": False, "key_encipherment": False},
    **{"data_encipherment": False, "key_agreement": False, "encipher_only": False, "decipher_only": False},
}
SIGNS = x509.KeyUsage(key_cert_sign=True, crl_sign=True, **_NOT_SIGNING)


class Authority:
    def __init__(self, name: str = "ca") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _named(name)
        self.certificate = self._signed(self.name, self.key, x509.BasicConstraints(True, None), SIGNS)

    def _signed(self, subject: x509.Name, key: Any, *extensions: Any, days: int = 30) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
        )
        signer, own = self.key.public_key(), key.public_key()
        for extension in (  # these, and what a key signs, are asked for by Python from 3.13 on
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer),
            x509.SubjectKeyIdentifier.from_public_key(own),
            *extensions,
        ):
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def directory(self, path: Path, name: str, uri: str = "", ca: Authority | None = None, days: int = 30) -> Path:
        """Write tls.crt, tls.key and the ca.crt of `ca` to `path`, as a kubelet does: beside, and renamed into place.

        The certificate is good for `name`, localhost and 127.0.0.1; one with a `uri` for that and
        `name`. `days` < 0: it has
        expired."""
        path.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        hosts: list[x509.GeneralName] = [
            *(x509.DNSName(host) for host in (name, "localhost")),
            x509.IPAddress(ip_address("127.0.0.1")),
        ]
        names = [x509.UniformResourceIdentifier(uri), x509.DNSName(name)] if uri else hosts
        certificate = self._signed(_named(name), key, x509.SubjectAlternativeName(names), days=days)
        files = {
            "tls.crt": certificate.public_bytes(_PEM),
            "tls.key": key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            "ca.crt": (ca or self).certificate.public_bytes(_PEM),
        }
        for file, data in files.items():
            fresh = path / f".{file}.new"
            fresh.write_bytes(data)
            fresh.rename(path / file)
        return path
