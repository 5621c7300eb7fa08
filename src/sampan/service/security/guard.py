"""The guard of a service: who asks, and whether they may. It runs before everything else a request meets.

The way of most requests is one pass over the headers and one look into a table: what an authenticator answered is
remembered under a keyed hash of the credentials until it expires, or its issuer withdraws a key.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sampan.model.security import Cors, Security
from sampan.service.http.middleware import leave_nothing
from sampan.service.http.refusal import Refusal
from sampan.service.security.authenticators import Authenticator, Credentials, Rejected, Unavailable
from sampan.service.security.caller import AUTHORIZATION, CALLER, Caller, Request
from sampan.service.security.cors import preflight
from sampan.service.security.policy import Policy
from sampan.service.security.rules import Rules
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from sampan.service.security.peer import PeerAuthenticator
    from sampan.service.security.trail import AuditLog

log = logging.getLogger("sampan.security")

KEEP_SECONDS: Final = 300.0  # the longest that an answer is believed
_MAX_KEPT: Final = 10_000
_SECRET: Final = secrets.token_bytes(32)
_QUERY_TOKEN: Final = re.compile(rb"(^|&)access_token=")
_CHALLENGE: Final = b"www-authenticate"
_ERRORS: Final = {
    400: "bad request",
    401: "unauthorized",
    403: "forbidden",
    413: "the body is too large",
    421: "this host is not served here",
    503: "callers cannot be verified just now",
}


def refusal(status: int, *headers: tuple[bytes, bytes]) -> Refusal:
    return Refusal(status, msgspec.json.encode({"error": _ERRORS[status]}), headers)


_TOO_LARGE: Final = refusal(413)
_WRONG_HOST: Final = refusal(421)
_UNAVAILABLE: Final = refusal(503, (b"retry-after", b"2"))


class SecurityGuard:
    """Implements `http.middleware.Guard`."""

    def __init__(
        self,
        declared: Security,
        authenticators: Sequence[Authenticator],
        registry: Registry,
        *,
        peer: PeerAuthenticator | None = None,
        policy: Policy | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self.authenticators, self.peer, self.policy, self.audit = tuple(authenticators), peer, policy, audit
        self.guarded = bool(self.authenticators) or peer is not None
        self.cors: Cors | None = declared.cors
        self.rules = Rules(declared.public, declared.scopes)
        self.hosts = _hosts(declared.hosts)
        self.idle = not self.guarded and self.hosts is None and self.cors is None
        self.probed: frozenset[str] = frozenset()
        self.decisions = registry.counter(
            "auth_decisions_total", "Requests judged, by who judged and how.", ("authenticator", "outcome")
        )
        self._kept: dict[bytes | str, tuple[Caller, float]] = {}
        schemes = dict.fromkeys(one.challenge for one in self.authenticators if one.challenge)
        self._challenges = tuple((_CHALLENGE, text.encode()) for text in schemes) or ((_CHALLENGE, b"Mutual"),)

    def open(self, paths: Iterable[str]) -> None:
        """Let GET of exactly these through unasked: whoever probes an application has no token, and no name for it."""
        self.probed = frozenset(paths)

    def forget(self) -> None:
        """Look at all credentials anew: a key was withdrawn."""
        self._kept.clear()

    def enter(self, scope: Any, context: Context) -> Refusal | Awaitable[Refusal | None] | None:
        if "sampan.too_large" in scope:
            return _TOO_LARGE
        if self.idle:
            return None
        if scope["path"] in self.probed and scope.get("method") == "GET":
            return None
        authorization = host = origin = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                if authorization is not None:
                    return refusal(400)
                authorization = value
            elif name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if self.hosts is not None and not self.hosts.fullmatch(host or b"") and "sampan.rpc" not in scope:
            return _WRONG_HOST
        if self.cors is not None and origin is not None and scope.get("method") == "OPTIONS":
            answer = preflight(self.cors, scope, origin)
            if answer is not None:
                return answer
        if not self.guarded:
            return None
        evidence = "" if self.peer is None or authorization is not None else self.peer.evidence(scope)
        if authorization is not None:
            AUTHORIZATION.set(authorization)
            key: bytes | str = hashlib.blake2b(authorization, key=_SECRET, digest_size=16).digest()
        elif evidence:
            key = evidence
        else:
            return self._nobody(scope, context)
        kept = self._kept.get(key)
        if kept is not None and kept[1] > time.monotonic():
            return self._judge(scope, context, kept[0])
        return self._ask(scope, context, authorization, evidence, key)

    leave = leave_nothing

    def _judge(self, scope: Any, context: Context, caller: Caller) -> Refusal | Awaitable[Refusal | None] | None:
        """Whether `caller` may."""
        scope["sampan.caller"] = caller
        CALLER.set(caller)
        path = scope["path"]
        if self.rules.is_public(path, scope.get("raw_path", b"")):
            self._allowed(caller)
            return None
        asked = self.rules.scopes(scope.get("method", "GET"), path)
        if not asked <= caller.scopes:
            return self._forbidden(scope, context, caller, "it lacks a scope", asked)
        if self.policy is None:
            self._allowed(caller)
            return None
        verdict = self.policy.judge(caller, Request(scope))
        if verdict is None:
            self._allowed(caller)
            return None
        if isinstance(verdict, str):
            return self._forbidden(scope, context, caller, verdict)
        return self._later(scope, context, caller, verdict)

    async def _later(
        self, scope: Any, context: Context, caller: Caller, verdict: Awaitable[str | None]
    ) -> Refusal | None:
        why = await verdict
        if why is not None:
            return self._forbidden(scope, context, caller, why)
        self._allowed(caller)
        return None

    def _allowed(self, caller: Caller) -> None:
        values, key = self.decisions.values, (caller.authenticator, "allowed")
        values[key] = values.get(key, 0.0) + 1

    def _forbidden(
        self, scope: Any, context: Context, caller: Caller, why: str, scopes: frozenset[str] = frozenset()
    ) -> Refusal:
        self.decisions.add(caller.authenticator, "forbidden")
        log.info("forbidden: %s", why, extra={"caller": caller.subject, "path": scope["path"]})
        self._record(scope, context, ("access.denied", "forbidden", why), caller)
        if not scopes:
            return refusal(403)
        text = f'Bearer error="insufficient_scope", scope="{" ".join(sorted(scopes))}"'
        return refusal(403, (_CHALLENGE, text.encode()))

    def _nobody(self, scope: Any, context: Context) -> Refusal | None:
        """The answer to a request without credentials."""
        if self.rules.is_public(scope["path"], scope.get("raw_path", b"")):
            self.decisions.add("none", "public")
            return None
        if _QUERY_TOKEN.search(scope.get("query_string", b"")):
            return self._refused(scope, context, "none", "a token in the URL", "invalid_request")
        self.decisions.add("none", "missing")
        return refusal(401, *self._challenges)

    async def _ask(
        self, scope: Any, context: Context, authorization: bytes | None, evidence: str, key: bytes | str
    ) -> Refusal | None:
        """Have the credentials verified, then judge."""
        public = self.rules.is_public(scope["path"], scope.get("raw_path", b""))
        name = "none"
        try:
            credentials = _credentials(scope, authorization, evidence)
            one = self._authenticator(credentials)
            name = one.name
            verified = await one.authenticate(credentials)
        except Rejected as error:
            if public:  # anybody may, and so may they
                self.decisions.add(name, "public")
                return None
            return self._refused(scope, context, name, str(error), "invalid_token")
        except Unavailable as error:
            if public:
                self.decisions.add(name, "public")
                return None
            self.decisions.add(name, "unavailable")
            log.error("callers cannot be verified: %s", error)
            return _UNAVAILABLE
        seconds = min(KEEP_SECONDS, verified.until - time.time())
        if seconds > 0:
            if len(self._kept) >= _MAX_KEPT:
                for old in list(self._kept)[: _MAX_KEPT // 2]:
                    del self._kept[old]
            self._kept[key] = (verified.caller, time.monotonic() + seconds)
        if name == "password":
            self._record(scope, context, ("login", "ok", ""), verified.caller)
        answer = self._judge(scope, context, verified.caller)
        return await answer if answer is not None and not isinstance(answer, Refusal) else answer

    def _authenticator(self, credentials: Credentials) -> Authenticator:
        known = [*self.authenticators, *([self.peer] if self.peer else [])]
        for one in known:
            if one.recognises(credentials):
                return one
        scheme = {"bearer": "Bearer", "basic": "Basic"}.get(credentials.scheme, "?")
        for one in known:  # it says what is wrong with them
            if one.challenge.startswith(scheme):
                return one
        raise Rejected("credentials of a kind that is not accepted")

    def _refused(self, scope: Any, context: Context, name: str, why: str, error: str) -> Refusal:
        self.decisions.add(name, "rejected")
        client = (scope.get("client") or ("",))[0]
        log.info("credentials refused: %s", why, extra={"authenticator": name, "client": client})
        action = "login" if name == "password" else "access.denied"
        self._record(scope, context, (action, "rejected", why), None)
        text = b'Bearer error="%b"' % error.encode()
        challenges = [(k, text if v == b"Bearer" else v) for k, v in self._challenges]
        return refusal(401, *challenges)

    def _record(self, scope: Any, context: Context, what: tuple[str, str, str], caller: Caller | None) -> None:
        """`what` is action, outcome and why."""
        if self.audit is None:
            return
        action, outcome, why = what
        client = (scope.get("client") or ("",))[0]
        resource = f"{scope.get('method', 'GET')} {scope['path']}"
        self.audit.automatic((action, outcome, resource), caller, context.trace_id, {"why": why, "client": client})


def _credentials(scope: Any, authorization: bytes | None, evidence: str) -> Credentials:
    if authorization is None:
        return Credentials("peer", evidence, scope)
    scheme, _, value = authorization.decode("latin-1").strip().partition(" ")
    if not value:
        raise Rejected("an Authorization header without credentials")
    return Credentials(scheme.lower(), value.strip(), scope)


def _hosts(names: Sequence[str]) -> re.Pattern[bytes] | None:
    """One pattern for all hosts, each with any port; "*.example.com" is every name below."""
    if not names:
        return None
    each = (r"[^.:]+(\.[^.:]+)*" + re.escape(name[1:]) if name.startswith("*.") else re.escape(name) for name in names)
    return re.compile(f"({'|'.join(each)})(:[0-9]+)?".encode(), re.IGNORECASE)
