"""Who asks, and what is asked: the values that authenticators make and policies judge."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qs

_HIDDEN: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"x-forwarded-client-cert"})


@dataclass(frozen=True)
class Caller:
    """Somebody an authenticator vouches for. `claims` are the token's, or an account's own."""

    subject: str
    issuer: str = ""
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    spiffe_id: str = ""
    authenticator: str = ""


@dataclass(frozen=True)
class Account:
    """What a function for `Password(users=...)` may return: the argon2 hash of a password, and what its owner may."""

    hash: str = field(repr=False)
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Request:
    """What a policy may know of a request. Header names are in lower case; credentials are left out."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self._scope = scope
        self.method: str = scope.get("method", "GET")
        self.path: str = scope["path"]

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path})"

    @property
    def client(self) -> str:
        """The address of the client, or empty."""
        client = self._scope.get("client")
        return str(client[0]) if client else ""

    @cached_property
    def headers(self) -> dict[str, str]:
        pairs = self._scope["headers"]
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs if name not in _HIDDEN}

    @cached_property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self._scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)

    def as_data(self) -> dict[str, Any]:
        """As Rego and CEL see it: `segments` are the parts of the path."""
        return {
            "method": self.method,
            "path": self.path,
            "segments": [part for part in self.path.split("/") if part],
            "query": self.query,
            "headers": self.headers,
            "client": self.client,
        }


def caller_data(caller: Caller) -> dict[str, Any]:
    """As Rego and CEL see it."""
    return {
        "subject": caller.subject,
        "issuer": caller.issuer,
        "scopes": sorted(caller.scopes),
        "claims": dict(caller.claims),
        "spiffe_id": caller.spiffe_id,
    }


CALLER: ContextVar[Caller | None] = ContextVar("sampan_caller", default=None)
AUTHORIZATION: ContextVar[bytes] = ContextVar("sampan_authorization", default=b"")


def caller() -> Caller | None:
    """Who asks for the work in hand; None when nobody is known."""
    return CALLER.get()


def token() -> str | None:
    """The Authorization that the caller in hand sent, to pass on to a callee that trusts the same issuer.

    Only of a caller who was verified, and only a token: nobody's password is passed on.
    """
    if CALLER.get() is None:
        return None
    sent = AUTHORIZATION.get()
    return sent.decode("latin-1") if sent[:7].lower() == b"bearer " else None
