"""TLS of both sides, from the identity that HTTP has too (`http/tls.py`): what changes on disk is used by every
connection made after that.

gRPC knows no optional client certificate: where HTTP takes one if it is offered, callers over gRPC must show theirs.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import grpc

from sampan.service.http.tls import Identity

log = logging.getLogger("sampan.rpc")


def _files(directory: Path) -> tuple[bytes, bytes, bytes | None]:
    """Key, certificate and authority (None without one), PEM."""
    authority = directory / "ca.crt"
    return (
        (directory / "tls.key").read_bytes(),
        (directory / "tls.crt").read_bytes(),
        authority.read_bytes() if authority.is_file() else None,
    )


def server(identity: Identity) -> grpc.ServerCredentials:
    """For a listening port. Callers must show a certificate where the identity asks its clients for one."""
    asked = identity.clients != "none"
    known = identity.server_context

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, authority = _files(identity.directory)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority if asked else None)

    def renewed() -> grpc.ServerCertificateConfiguration | None:  # asked at every handshake
        # whoever looks first, HTTP's server or this one, sees the change: so by the context, not by `poll` alone
        nonlocal known
        identity.poll()
        if identity.server_context is known:
            return None
        known = identity.server_context
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        renewed,  # type: ignore[arg-type]  # None says that nothing has changed
        require_client_authentication=asked,
    )


def channel(identity: Identity | None) -> grpc.ChannelCredentials:
    """Trusts the authority of the identity, and shows its certificate; without one, what gRPC trusts by itself."""
    if identity is None:
        return grpc.ssl_channel_credentials()
    key, certificate, authority = _files(identity.directory)
    return grpc.ssl_channel_credentials(authority, key, certificate)


@functools.lru_cache(maxsize=256)
def described(pem: bytes) -> dict[str, Any] | None:
    """A certificate as `ssl.SSLSocket.getpeercert` describes it, as far as identities need it: subject, notAfter, and
    the DNS and URI names. None when it cannot be read, or `cryptography` is not installed."""
    try:
        from cryptography import x509
        from cryptography.x509.oid import NameOID
    except ImportError:
        log.warning("a caller's certificate is not looked at: pip install 'sampan[security]'")
        return None
    try:
        found = x509.load_pem_x509_certificate(pem)
        names = [str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        try:
            other = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            other = x509.SubjectAlternativeName([])
        alternatives = [("URI", uri) for uri in other.get_values_for_type(x509.UniformResourceIdentifier)]
        alternatives += [("DNS", name) for name in other.get_values_for_type(x509.DNSName)]
    except ValueError as error:
        log.warning("a caller's certificate cannot be read: %s", error)
        return None
    return {
        "subject": tuple((("commonName", name),) for name in names),
        "notAfter": found.not_valid_after_utc.strftime("%b %d %H:%M:%S %Y GMT"),
        "subjectAltName": tuple(alternatives),
    }
