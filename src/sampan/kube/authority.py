"""A certificate authority: makes keys and signs certificates, for a cluster and for services on a developer's machine.

What is made is PEM, elliptic (P-256), good for ten years. Where it is kept is the caller's business. `cryptography` is
imported when something is made: who only reads what was made needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, Name

VALID = timedelta(days=3650)
_SINCE = timedelta(hours=1)  # clocks differ

Purpose = Literal["server", "client"]


class Pair(NamedTuple):
    """A certificate and its private key, PEM."""

    crt: bytes
    key: bytes


class Authority:
    def __init__(self, crt: bytes, key: bytes) -> None:
        """The authority kept as `crt` and `key` (PEM). ValueError when they are no certificate and elliptic key."""
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509 import load_pem_x509_certificate

        loaded = load_pem_private_key(key, None)
        if not isinstance(loaded, EllipticCurvePrivateKey):
            raise ValueError("the key of the certificate authority is not an elliptic one")
        self.pair = Pair(crt, key)
        self._subject, self._key = load_pem_x509_certificate(crt).subject, loaded

    @classmethod
    def make(cls, name: str) -> Authority:
        """A new one; it signs certificates of services, not of other authorities."""
        from cryptography.x509 import BasicConstraints, KeyUsage

        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
            **dict.fromkeys(others, False),
        )  # fmt: skip
        key, subject = new_key(), _name(name)
        extensions = [(BasicConstraints(ca=True, path_length=0), True), (usage, True)]
        return cls(_pem(_signed(subject, key, subject, key, extensions)), key_pem(key))

    def sign(
        self,
        name: str,
        *,
        organization: str = "",
        hosts: Iterable[str] = (),
        addresses: Iterable[str] = (),
        purposes: Iterable[Purpose] = ("server", "client"),
    ) -> Pair:
        """A new key and its certificate for `name`, good at `hosts` (DNS names) and `addresses` (IP)."""
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        uses = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
        extensions: list[tuple[Any, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([uses[purpose] for purpose in purposes]), False),
        ]
        alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        alternatives += [x509.IPAddress(ip_address(address)) for address in addresses]
        if alternatives:
            extensions.append((x509.SubjectAlternativeName(alternatives), False))
        key = new_key()
        return Pair(_pem(_signed(_name(name, organization), key, self._subject, self._key, extensions)), key_pem(key))


def new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(common: str, organization: str = "") -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    # RFC 5280 ends a common name at 64 characters; who checks a host reads the alternative names.
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _signed(
    subject: Name,
    key: EllipticCurvePrivateKey,
    issuer: Name,
    signer: EllipticCurvePrivateKey,
    extensions: list[tuple[Any, bool]],
) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SINCE)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)
