"""JSON Web Tokens of an OpenID Connect issuer (RFC 7519, RFC 8725).

What a token says of its own verification is not believed: the algorithm must fit the key, which is found by id alone
among those of the issuer; `jwk`, `jku` and `x5u` are never followed; `crit` is never understood.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import time
from collections.abc import Callable
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from sampan.model.security import Oidc
from sampan.service.security.authenticators import Credentials, Rejected, Verified, scopes_of
from sampan.service.security.caller import Caller
from sampan.service.security.fetch import Fetcher
from sampan.service.security.keys import Keys

MAX_TOKEN: Final = 16 * 1024
_JWS: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})


class _Registry(JWSRegistry):
    max_header_length = MAX_TOKEN
    max_payload_length = MAX_TOKEN
    max_signature_length = MAX_TOKEN


class OidcAuthenticator:
    name = "oidc"
    challenge = "Bearer"

    def __init__(self, declared: Oidc, issuer: str, changed: Callable[[], None]) -> None:
        """`issuer` is the declared one, or what "dev" stands for; `changed` is called when keys are withdrawn."""
        self.declared, self.issuer = declared, issuer
        self.fetcher = Fetcher()
        self.keys = Keys(issuer, declared.jwks_uri, self.fetcher, changed)
        self._registries = {
            name: _Registry(algorithms=[name], strict_check_header=False) for name in declared.algorithms
        }

    async def start(self) -> None:
        """Keys are fetched when the first token comes: a service starts without its issuer."""

    async def stop(self) -> None:
        await self.keys.close()
        await self.fetcher.close()

    def recognises(self, credentials: Credentials) -> bool:
        if (
            credentials.scheme != "bearer"
            or not _JWS.fullmatch(credentials.value)
            or len(credentials.value) > MAX_TOKEN
        ):
            return False
        try:
            return bool(_part(credentials.value.split(".")[1]).get("iss") == self.issuer)
        except Rejected:
            return False

    async def authenticate(self, credentials: Credentials) -> Verified:
        token = credentials.value
        if len(token) > MAX_TOKEN:
            raise Rejected("a token of more than 16 KiB")
        if not _JWS.fullmatch(token):
            raise Rejected("not a signed token")
        header = _part(token.split(".")[0])
        algorithm = header.get("alg")
        registry = self._registries.get(algorithm) if isinstance(algorithm, str) else None
        if registry is None:
            raise Rejected("an algorithm that is not accepted")
        if "crit" in header or "b64" in header or "enc" in header:
            raise Rejected("a header that is not understood")
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            raise Rejected("a token of another type")
        kid = header.get("kid", "")
        if not isinstance(kid, str) or len(kid) > 256:
            raise Rejected("a key id that is none")
        for usable in await self.keys.find(kid, str(algorithm)):
            try:
                payload = jws.deserialize_compact(token, usable.key, [str(algorithm)], registry).payload
            except (JoseError, ValueError, TypeError):
                continue
            return self._judged(_claims(payload or b""))
        raise Rejected("a signature that does not fit")

    def _judged(self, claims: dict[str, Any]) -> Verified:
        """The caller that `claims`, which the issuer signed, name now."""
        now, leeway, declared = time.time(), self.declared.leeway, self.declared
        if claims.get("iss") != self.issuer:
            raise Rejected("a token of another issuer")
        audience = claims.get("aud")
        meant = [audience] if isinstance(audience, str) else audience
        if not isinstance(meant, list) or not any(one in declared.audience for one in meant if isinstance(one, str)):
            raise Rejected("a token for another audience")
        expires = _time(claims, "exp")
        if expires is None:
            raise Rejected("a token that never expires")
        if now >= expires + leeway:
            raise Rejected("an expired token")
        for name in ("nbf", "iat"):
            begins = _time(claims, name)
            if begins is not None and now < begins - leeway:
                raise Rejected("a token that is not valid yet")
        subject = next((claims[name] for name in ("sub", "client_id", "azp") if claims.get(name)), "")
        if not isinstance(subject, str) or not subject:
            raise Rejected("a token of nobody")
        scopes = frozenset[str]().union(*(scopes_of(claims.get(name)) for name in declared.scope_claims))
        return Verified(Caller(subject, self.issuer, scopes, claims, authenticator=self.name), expires + leeway)


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Rejected(f"a {name} that is no time")
    return float(value)


def _part(text: str) -> dict[str, Any]:
    try:
        return _claims(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError) as error:
        raise Rejected("not a signed token") from error


def _claims(data: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice (RFC 8725, 2.4)."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise Rejected("a claim that stands twice")
        return made

    try:
        found = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Rejected("claims that are no JSON") from error
    if not isinstance(found, dict):
        raise Rejected("claims that are no object")
    return found
