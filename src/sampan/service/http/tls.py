"""TLS from a mounted directory: our certificate, its key, and the CA whose clients we know. Re-read when it changes.

The files are those of a Kubernetes TLS secret: `tls.crt` (with its chain), `tls.key`, and `ca.crt`. A change makes new
contexts; new handshakes get them, connections that are open live on. Files that do not fit together are refused and
the old ones stay.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any, Final, Literal

from sampan.service.bindings import BindingError
from sampan.service.configuration.files import fingerprint
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.tls")

Clients = Literal["none", "optional", "required"]
_VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
CLIENTS_VARIABLE: Final = "SAMPAN_TLS_CLIENTS"


class Identity:
    """The certificate of this process and the CAs it trusts, from `directory`. BindingError when they cannot be read.

    `server_context` and `client_context` are the present ones; `poll` looks for a change and tells whether there was.
    """

    def __init__(self, directory: Path, clients: Clients = "none", registry: Registry | None = None) -> None:
        self.directory, self.clients = directory, clients
        self.reloads = None
        if registry is not None:
            self.reloads = registry.counter("tls_reloads_total", "Changes of the TLS files seen.", ("outcome",))
        self._print = fingerprint(directory)
        try:
            self.server_context, self.client_context = self._read()
        except (OSError, ssl.SSLError) as error:
            raise BindingError(f"TLS of {directory}: {_said(error)}; it holds tls.crt, tls.key and ca.crt") from error

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        crt, key, ca = (self.directory / name for name in ("tls.crt", "tls.key", "ca.crt"))
        if self.clients != "none" and not ca.is_file():
            raise FileNotFoundError(f"clients are to show certificates, but there is no {ca}")
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca) if ca.is_file() else None)
        server.minimum_version = ssl.TLSVersion.TLSv1_2
        server.load_cert_chain(crt, key)
        server.verify_mode = _VERIFY[self.clients]
        server.set_alpn_protocols(["http/1.1"])
        client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca) if ca.is_file() else None)
        client.minimum_version = ssl.TLSVersion.TLSv1_2
        client.load_cert_chain(crt, key)
        return server, client

    def poll(self) -> bool:
        now = fingerprint(self.directory)
        if now == self._print:
            return False
        self._print = now
        try:
            self.server_context, self.client_context = self._read()
        except (OSError, ssl.SSLError) as error:
            log.error("new TLS files of %s refused, the old ones stay: %s", self.directory, _said(error))
            self._count("refused")
            return False
        log.info("TLS files of %s changed", self.directory)
        self._count("applied")
        return True

    def _count(self, outcome: str) -> None:
        if self.reloads is not None:
            self.reloads.add(outcome)


def _said(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error)


class ServerTls:
    """What the server needs of an identity: `context`, which hands every handshake the present one."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.context = identity.server_context
        self.context.sni_callback = self._present

    def _present(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        present = self.identity.server_context
        if present is not context:
            connection.context = present

    def poll(self) -> None:
        self.identity.poll()

    @staticmethod
    def extension(connection: Any) -> dict[str, Any]:
        """The TLS extension of ASGI (https://asgi.readthedocs.io/en/latest/specs/tls.html), and the parsed certificate
        as `client_certificate` (of `ssl.SSLSocket.getpeercert`), both of a client that our CA signed."""
        der = connection.getpeercert(binary_form=True)
        chain = [ssl.DER_cert_to_PEM_cert(der)] if der else []
        version = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}.get(connection.version() or "")
        return {
            "server_cert": None,
            "client_cert_chain": chain,
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": version,
            "cipher_suite": None,
            "client_certificate": connection.getpeercert() if der else None,
        }


def from_environment(clients: Clients = "none", registry: Registry | None = None) -> Identity | None:
    """The identity SAMPAN_TLS_DIRECTORY names, if it does; SAMPAN_TLS_CLIENTS wins over `clients`. BindingError."""
    directory = os.environ.get("SAMPAN_TLS_DIRECTORY", "")
    if not directory:
        return None
    asked = os.environ.get(CLIENTS_VARIABLE, clients)
    if asked not in _VERIFY:
        raise BindingError(f"{CLIENTS_VARIABLE}={asked}: it is none, optional or required")
    return Identity(Path(directory), asked, registry)  # type: ignore[arg-type]
