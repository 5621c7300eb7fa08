"""TLS for both sides, from a directory: tls.crt, tls.key, ca.crt (as cert-manager and the TLS Secrets of Kubernetes
name them). The files are read again when they change; a connection made after that uses the new ones.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import grpc

log = logging.getLogger("sampan.rpc")

_CERTIFICATE, _KEY, _AUTHORITY = "tls.crt", "tls.key", "ca.crt"
_FILES: Final = (_CERTIFICATE, _KEY, _AUTHORITY)


class Files:
    """The PEM files of a directory: `read` gives (key, certificate, authority or None), `changed` says whether to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen = self._state()

    def _state(self) -> tuple[tuple[int, int] | None, ...]:
        found = []
        for name in _FILES:
            try:
                status = (self.directory / name).stat()
                found.append((status.st_mtime_ns, status.st_ino))
            except OSError:
                found.append(None)  # type: ignore[arg-type]
        return tuple(found)

    def changed(self) -> bool:
        before, self._seen = self._seen, self._state()
        return before != self._seen

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Raises OSError when certificate or key cannot be read."""
        authority = self.directory / _AUTHORITY
        return (
            (self.directory / _KEY).read_bytes(),
            (self.directory / _CERTIFICATE).read_bytes(),
            authority.read_bytes() if authority.exists() else None,
        )


def directory() -> Path | None:
    """The directory SAMPAN_TLS_DIRECTORY names; None where connections are not encrypted by the process."""
    named = os.environ.get("SAMPAN_TLS_DIRECTORY", "")
    return Path(named) if named else None


def server(files: Files) -> grpc.ServerCredentials:
    """Where there is an authority (ca.crt), callers must show a certificate it signed."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, authority = files.read()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def renewed() -> grpc.ServerCertificateConfiguration | None:  # asked at every handshake
        if not files.changed():
            return None
        try:
            return configuration()
        except OSError as error:
            log.error("the certificate in %s cannot be read, the old one stays: %s", files.directory, error)
            return None

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        renewed,  # type: ignore[arg-type]  # None says that nothing has changed
        require_client_authentication=(files.directory / _AUTHORITY).exists(),
    )


def channel(files: Files | None) -> grpc.ChannelCredentials:
    """Trusts the authority of the directory, and shows its certificate; without one, what the system trusts."""
    if files is None:
        return grpc.ssl_channel_credentials()
    key, certificate, authority = files.read()
    return grpc.ssl_channel_credentials(authority, key, certificate)
