"""The public keys of an issuer (RFC 7517), found by discovery, kept, and followed through rotation.

A key id that is not known makes the set be fetched again, at most once in REFETCH_SECONDS whoever asks, so that
neither a rotation fails a request nor an invented id storms the issuer. While the issuer is away the keys of before
stay good for KEEP_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from sampan.service.security.authenticators import Rejected, Unavailable
from sampan.service.security.fetch import Fetcher
from sampan.service.tasks import end

log = logging.getLogger("sampan.security")

REFETCH_SECONDS: Final = 5.0
REFRESH_SECONDS: Final = 600.0
KEEP_SECONDS: Final = 24 * 3600.0
_MAX_KEYS: Final = 100
_RSA_BITS: Final = 2048

Key = RSAKey | ECKey | OKPKey

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
# what a key may verify, by its type and curve: never HMAC, never none
ALGORITHMS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
}
_KINDS: Final[dict[str, Any]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class Usable:
    """A key and the algorithms it verifies."""

    def __init__(self, jwk: dict[str, Any]) -> None:
        """ValueError when it is no public signature key we would use."""
        kind = str(jwk.get("kty", ""))
        self.algorithms = ALGORITHMS.get((kind, str(jwk.get("crv", ""))), ())
        if not self.algorithms or jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
            raise ValueError("not a signature key of a kind that is used")
        if (alg := jwk.get("alg")) is not None:
            self.algorithms = tuple(name for name in self.algorithms if name == alg)
        public = {name: jwk[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in jwk}
        try:
            self.key: Key = _KINDS[kind].import_key(public)
        except (JoseError, ValueError, TypeError) as error:
            raise ValueError(str(error)) from error
        if kind == "RSA" and int(getattr(self.key.public_key, "key_size", 0)) < _RSA_BITS:
            raise ValueError(f"an RSA key of less than {_RSA_BITS} bits")
        self.print = tuple(sorted(public.items()))


class Keys:
    """`changed` is called when a key is gone or has become another one."""

    def __init__(self, issuer: str, jwks_uri: str | None, fetcher: Fetcher, changed: Callable[[], None]) -> None:
        self.issuer, self.jwks_uri, self.fetcher, self.changed = issuer, jwks_uri, fetcher, changed
        self.known: list[tuple[str, Usable]] = []
        self.fetches = 0
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str, algorithm: str) -> list[Usable]:
        """The keys a token may be signed with. Rejected when there is none, Unavailable when none can be had."""
        now = time.monotonic()
        if now - self._fetched > KEEP_SECONDS:
            await self._fetch(now)
        elif now - self._fetched > REFRESH_SECONDS and now - self._tried > REFETCH_SECONDS:
            self._begin(now)  # the request does not wait for it
        found = self._candidates(kid, algorithm)
        if not found:
            await self._fetch(now)
            found = self._candidates(kid, algorithm)
        if not found:
            raise Rejected("signed with a key the issuer does not have")
        return found

    def _candidates(self, kid: str, algorithm: str) -> list[Usable]:
        """By id; without one all that fit, should the issuer name none."""
        return [one for name, one in self.known if algorithm in one.algorithms and (name == kid or not kid)][:4]

    async def _fetch(self, now: float) -> None:
        """Have the set fetched, unless it just was. Unavailable when there is none, old or new."""
        if self._fetching is None and now - self._tried <= REFETCH_SECONDS:
            if not self.known:
                raise Unavailable(f"the keys of {self.issuer} could not be had")
            return
        task = self._fetching or self._begin(now)
        try:
            await asyncio.shield(task)
        except Unavailable:
            if not self.known or now - self._fetched > KEEP_SECONDS:
                raise

    def _begin(self, now: float) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried = now
            self._fetching = asyncio.create_task(self.refresh(), name="jwks")
            self._fetching.add_done_callback(self._ended)
        return self._fetching

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and (error := task.exception()):
            log.warning("the keys of %s: %s", self.issuer, error)

    async def refresh(self) -> None:
        self.fetches += 1
        uri = self.jwks_uri or await self._discover()
        document = await self.fetcher.json(uri)
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise Unavailable(f"{uri}: no key set")
        known: list[tuple[str, Usable]] = []
        for jwk in listed[:_MAX_KEYS]:
            try:
                known.append((str(jwk.get("kid", "")), Usable(jwk)))
            except (ValueError, AttributeError, TypeError):
                continue  # encryption keys and kinds of the future stand beside ours
        if not known:
            raise Unavailable(f"{uri}: no key that can be used")
        before, self.known = self.known, known
        self._fetched = time.monotonic()
        prints = {(name, one.print) for name, one in known}
        if any((name, one.print) not in prints for name, one in before):
            self.changed()

    async def _discover(self) -> str:
        """`jwks_uri` of the discovery document, which must be that of this issuer (OpenID Connect Discovery, 4.3)."""
        document = await self.fetcher.json(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != self.issuer:
            raise Unavailable(f"{self.issuer}: its discovery document is that of another issuer")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str) or urlsplit(uri).scheme not in {"https", urlsplit(self.issuer).scheme}:
            raise Unavailable(f"{self.issuer}: its discovery document names no key set")
        return uri

    async def close(self) -> None:
        if self._fetching is not None:
            await end(self._fetching)
