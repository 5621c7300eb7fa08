"""Who is at the other end of the TLS connection: the SPIFFE id, or the subject, of the client's certificate.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md - exactly one URI name, `spiffe://DOMAIN/PATH`.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final

from sampan.model.security import PeerIdentity
from sampan.service.http.proxies import Proxies
from sampan.service.security.authenticators import Credentials, Rejected, Verified
from sampan.service.security.caller import Caller

XFCC: Final = b"x-forwarded-client-cert"
_SPIFFE: Final = re.compile(r"spiffe://([a-z0-9._-]{1,255})(/[A-Za-z0-9._/-]+)?")
_PAIR: Final = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^;,]*)')


class PeerAuthenticator:
    name = "peer"
    challenge = ""

    def __init__(self, declared: PeerIdentity) -> None:
        self.domains = frozenset(declared.trust_domains)
        self.proxies = Proxies(declared.proxies)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def recognises(self, credentials: Credentials) -> bool:
        return credentials.scheme == "peer"

    def evidence(self, scope: Any) -> str:
        """What identifies the peer, as text: its certificate, or what a trusted proxy says of one. Empty without."""
        tls = (scope.get("extensions") or {}).get("tls")
        if tls and tls["client_cert_chain"]:
            return str(tls["client_cert_chain"][0])
        if self.proxies.networks and self.proxies.trusts(scope.get("sampan.peer", "")):
            return next((value.decode("latin-1") for name, value in scope["headers"] if name == XFCC), "")
        return ""

    async def authenticate(self, credentials: Credentials) -> Verified:
        return self.verify(credentials.scope, credentials.value)

    def verify(self, scope: Any, evidence: str) -> Verified:
        """The caller whose certificate it is. Rejected when it is of another trust domain, or names nobody."""
        tls = (scope.get("extensions") or {}).get("tls")
        if tls and tls["client_cert_chain"]:
            certificate = tls["client_certificate"]
            until: float = ssl.cert_time_to_seconds(certificate["notAfter"])
            names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
            subject = next(
                (value for part in certificate["subject"] for name, value in part if name == "commonName"), ""
            )
        else:
            pairs = dict(_last(evidence))
            names, subject, until = (
                [pairs["uri"]] if pairs.get("uri") else [],
                pairs.get("subject", ""),
                time.time() + 300,
            )
        ids = [name for name in names if name.startswith("spiffe://")]
        found = _SPIFFE.fullmatch(ids[0]) if len(ids) == 1 == len(names) else None
        if ids and found is None:
            raise Rejected("a certificate with a SPIFFE id that is none")
        if self.domains and (found is None or found[1] not in self.domains):
            raise Rejected("a certificate of another trust domain")
        if not found and not subject:
            raise Rejected("a certificate that names nobody")
        spiffe = found[0] if found else ""
        return Verified(
            Caller(spiffe or subject, found[1] if found else "", spiffe_id=spiffe, authenticator="peer"), until
        )


def _last(header: str) -> Iterator[tuple[str, str]]:
    """The pairs of the last element, which the nearest proxy wrote; names in lower case."""
    quoted, start = False, 0
    for index, character in enumerate(header):
        if character == '"' and header[index - 1 : index] != "\\":
            quoted = not quoted
        elif character == "," and not quoted:
            start = index + 1
    for name, value in _PAIR.findall(header[start:]):
        yield name.lower(), value[1:-1].replace('\\"', '"') if value.startswith('"') else value
