"""Who may ask a service for what, declared: authenticators, authorization, scopes, CORS and limits. Inert values.

    Service("orders", asgi="shop.orders:app", security=Security(
        authenticate=[Oidc("https://id.example.com", audience="orders")],
        authorize="shop.policy:allow",
        public=["/catalog/*"],
        scopes={"POST /orders": "orders:write"},
    ))

A service without a declaration has safe response headers and limits, and asks nobody who they are.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

from sampan.model.values import several

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sampan.model.handles.configuration import Secret

Mistake = tuple[str, str, Literal["error", "warning"]]
"""What is wrong, the remedy, how bad."""

ASYMMETRIC: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
DEV_ISSUER: Final = "dev"
_RULE: Final = re.compile(r"(?:(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|QUERY) )?(/[^*\s]*)(\*?)")
_FILE: Final = "name a file relative to the project"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def _tuple(thing: Any, *names: str) -> None:
    for name in names:
        force_setattr(thing, name, several(getattr(thing, name)))


class Oidc(Struct, frozen=True, eq=False):
    """JSON Web Tokens of an OpenID Connect issuer, as `Authorization: Bearer` (RFC 6750, RFC 9068).

    The keys come from `jwks_uri`, or from the issuer's discovery document. `audience` is what a token must be meant
    for, one of them if several. `leeway` is in seconds. `issuer="dev"` is the issuer of `sampan issuer`, which `up`
    runs, refused wherever an environment is not local. `local` is the issuer there ("dev", or a URL), with the keys of
    its discovery document.
    """

    issuer: str
    audience: str | Sequence[str]
    jwks_uri: str | None = None
    algorithms: Sequence[str] = ASYMMETRIC
    leeway: float = 30.0
    scope_claims: Sequence[str] = ("scope", "scp")
    local: str | None = None

    def __post_init__(self) -> None:
        _tuple(self, "audience", "algorithms", "scope_claims")


def present(declared: Oidc, local: bool) -> Oidc:
    """As it is in an environment, `local` or not."""
    if not local or declared.local is None:
        return declared
    return replace(declared, issuer=declared.local, jwks_uri=None, local=None)


class Introspection(Struct, frozen=True, eq=False):
    """Opaque tokens that another server explains (RFC 7662). `credentials[key]` is our client secret there.

    Active answers are believed for `cache` seconds. When the server is away, requests are refused with 503.
    """

    url: str
    client_id: str
    credentials: Secret
    key: str = "client-secret"
    audience: str | Sequence[str] = ()
    issuer: str | None = None
    cache: float = 30.0
    timeout: float = 3.0

    def __post_init__(self) -> None:
        _tuple(self, "audience")


class Password(Struct, frozen=True, eq=False):
    """Names and passwords over HTTP Basic (RFC 7617), kept as argon2id hashes.

    `users` is a Secret whose keys are names and whose values are hashes, or the import string of a function
    `find(name) -> Account | str | None` (a hash; may be async). `rehashed(name, hash)` is called when a password was
    right and its hash has weaker parameters than today's. A success is remembered for `cache` seconds.
    """

    users: Secret | str
    rehashed: str | None = None
    realm: str = "sampan"
    cache: float = 60.0
    threads: int = 2


class PeerIdentity(Struct, frozen=True, eq=False):
    """The SPIFFE id (or subject) of a client's TLS certificate.

    From the connection itself, or from `x-forwarded-client-cert` when the connection comes from one of `proxies`
    (addresses or networks). `trust_domains` limits whose ids count; empty means every one that our CA signed.
    """

    trust_domains: Sequence[str] = ()
    proxies: Sequence[str] = ()

    def __post_init__(self) -> None:
        _tuple(self, "trust_domains", "proxies")


class Rego(Struct, frozen=True, eq=False):
    """A policy file in Rego (v1). The request is allowed when `query` is exactly `true`. Re-read when it changes."""

    path: str
    query: str = "data.policy.allow"


class Cel(Struct, frozen=True, eq=False):
    """An expression in CEL over `caller` and `request`, or a `file` that holds one. Allowed when exactly `true`."""

    expression: str = ""
    file: str | None = None


class Cors(Struct, frozen=True, eq=False):
    """Which browser pages of other origins may call (https://fetch.spec.whatwg.org). `origins` are exact, or "*"."""

    origins: Sequence[str]
    methods: Sequence[str] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    headers: Sequence[str] = ("authorization", "content-type", "idempotency-key", "x-request-id")
    exposed: Sequence[str] = ("x-request-id",)
    credentials: bool = False
    max_age: int = 600

    def __post_init__(self) -> None:
        _tuple(self, "origins", "methods", "headers", "exposed")


class Tls(Struct, frozen=True):
    """The certificate of a service or job: the Kubernetes TLS Secret `secret` (None: NAME-tls) with `tls.crt`,
    `tls.key`, and in `ca.crt` the authority of those it believes, as cert-manager makes it; locally `up` does.

    `clients` says whether those who call are asked for theirs: "none", or "optional". Who must show one is a matter of
    `Security(authenticate=[PeerIdentity()])`: a kubelet's probes have none.
    """

    secret: str | None = None
    clients: Literal["none", "optional"] = "none"


def tls_mistakes(tls: Tls) -> Iterator[Mistake]:
    if tls.clients not in ("none", "optional"):
        yield (
            f"has clients={tls.clients!r}",
            'write "none" or "optional", and have PeerIdentity() among the authenticators, which leaves probes alone',
            "error",
        )
    if tls.secret is not None and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", tls.secret):
        yield (
            f"names the Secret {tls.secret!r}",
            "the name of a Secret has lower-case letters, digits and hyphens",
            "error",
        )


Authenticate = Oidc | Introspection | Password | PeerIdentity
Authorize = str | Rego | Cel


class Security(Struct, frozen=True, eq=False):
    """What guards a service. With `authenticate`, every path needs a caller, save those of `public`.

    `public` and the keys of `scopes` are paths ("/catalog"), or prefixes ("/catalog/*"), of `scopes` also with a
    method ("POST /orders"); every matching entry of `scopes` must be met. `headers` are added to every answer that
    does not bear them, over the defaults; an empty value takes a default away. `hosts` are the Host headers that are
    answered, "*.example.com" included; empty means all. `body_limit` is in bytes; a body that comes with less than
    `body_rate` bytes a second after 10 s is given up, 0 waits for ever.
    """

    authenticate: Sequence[Authenticate] = ()
    authorize: Authorize | None = None
    public: Sequence[str] = ()
    scopes: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    cors: Cors | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hosts: Sequence[str] = ()
    body_limit: int = 1024 * 1024
    body_rate: int = 240

    def __post_init__(self) -> None:
        if isinstance(self.authenticate, (Oidc, Introspection, Password, PeerIdentity)):
            force_setattr(self, "authenticate", (self.authenticate,))
        _tuple(self, "authenticate", "public", "hosts")

    @property
    def secrets(self) -> list[Secret]:
        """The handles its authenticators read; a service that bears this declaration uses them."""
        found: list[Any] = [one.credentials for one in self.authenticate if isinstance(one, Introspection)]
        found += [one.users for one in self.authenticate if isinstance(one, Password)]
        return [secret for secret in found if getattr(secret, "kind", "") == "secret"]

    @property
    def functions(self) -> Iterator[tuple[str, str]]:
        """Import strings, each with what it is for."""
        if isinstance(self.authorize, str):
            yield "authorize", self.authorize
        for one in self.authenticate:
            if isinstance(one, Password):
                if isinstance(one.users, str):
                    yield "users", one.users
                if one.rehashed:
                    yield "rehashed", one.rehashed


def rule(text: str) -> tuple[str, str, bool] | None:
    """A path rule as (method or "", path, whether a prefix); None when it is none."""
    found = _RULE.fullmatch(text)
    return (found[1] or "", found[2], bool(found[3])) if found else None


def policy_file(path: str) -> Path | None:
    """The policy file `path`, in the working directory or where Python looks for modules; None when there is none."""
    for place in ("", *sys.path):
        found = Path(place, path)
        if found.is_file():
            return found
    return None


def mistakes(security: Security) -> Iterator[Mistake]:
    """Everything wrong with a declaration, save its import strings."""
    for one in security.authenticate:
        yield from _CHECKS[type(one)](one) if type(one) in _CHECKS else _no_authenticator(one)
    for text in security.public:
        found = rule(text)
        if found is None or found[0]:
            yield (
                f"has the public path {text!r}",
                'a path starts with a slash: "/catalog", or "/catalog/*" below',
                "error",
            )
    for text in security.scopes:
        if rule(text) is None:
            yield f"has scopes for {text!r}", 'write "/orders", "/orders/*" or "POST /orders"', "error"
    if not security.authenticate and (security.authorize or security.scopes):
        yield (
            "decides by caller, but knows none",
            "say who vouches for callers: authenticate=[Oidc(issuer, audience)]",
            "error",
        )
    yield from _policy(security.authorize)
    if security.cors is not None:
        yield from _cors(security.cors)
    for name in ("body_limit", "body_rate"):
        if getattr(security, name) < 0:
            yield f"has {name}={getattr(security, name)}", "a limit is a number of bytes: 1024 * 1024", "error"
    for name, value in security.headers.items():
        if not re.fullmatch(r"[A-Za-z0-9-]+", name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            yield f"adds the header {name!r}: {value!r}", "a header is a name and one line of text", "error"


def _no_authenticator(one: Any) -> Iterator[Mistake]:
    yield (
        f"authenticates with {one!r}",
        "use Oidc, Introspection, Password or PeerIdentity, in a list",
        "error",
    )


def _url(what: str, url: str) -> Iterator[Mistake]:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        yield f"has the {what} {url!r}", f'a {what} is a URL: "https://id.example.com"', "error"
    elif parts.username or parts.password:
        yield f"has a {what} with a password in it", "keep passwords in a Secret", "error"
    elif parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        yield f"asks {url!r} without TLS", "whoever sits between can forge callers; use https", "warning"


def _oidc(one: Oidc) -> Iterator[Mistake]:
    for issuer in filter(None, (one.issuer, one.local)):
        if issuer != DEV_ISSUER:
            yield from _url("issuer", issuer)
    if one.jwks_uri:
        yield from _url("jwks_uri", one.jwks_uri)
    if not one.audience or "" in one.audience:
        yield "accepts tokens meant for anybody", 'name itself: audience="orders"', "error"
    for name in one.algorithms:
        if name not in ASYMMETRIC:
            yield f"accepts the algorithm {name!r}", f"asymmetric ones are safe: {', '.join(ASYMMETRIC)}", "error"
    if not 0 <= one.leeway <= 300:
        yield f"has leeway={one.leeway}", "clocks differ by seconds: 0 to 300", "error"


def _introspection(one: Introspection) -> Iterator[Mistake]:
    yield from _url("url", one.url)
    if getattr(one.credentials, "kind", "") != "secret":
        yield (
            "has the credentials of introspection written in the declaration",
            'give a handle: credentials=Secret("idp", keys=["client-secret"])',
            "error",
        )


def _password(one: Password) -> Iterator[Mistake]:
    if not isinstance(one.users, str) and getattr(one.users, "kind", "") != "secret":
        yield "has passwords written in the declaration", 'give users=Secret("operators") or "module:function"', "error"
    if one.threads < 1:
        yield f"verifies passwords in {one.threads} threads", "at least 1", "error"


def _peer(one: PeerIdentity) -> Iterator[Mistake]:
    for text in one.proxies:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield f"trusts the proxy {text!r}", 'write an address or a network: "10.0.0.0/8"', "error"


_CHECKS: Final[dict[type, Any]] = {
    Oidc: _oidc,
    Introspection: _introspection,
    Password: _password,
    PeerIdentity: _peer,
}


def _policy(policy: Any) -> Iterator[Mistake]:
    if isinstance(policy, Rego):
        if policy_file(policy.path) is None:
            yield (
                f"has the policy {policy.path!r}, which does not exist",
                "name a file relative to the project",
                "error",
            )
        if not re.fullmatch(r"data(\.[A-Za-z_]\w*)+", policy.query):
            yield f"asks the policy {policy.query!r}", 'name a rule: "data.shop.allow"', "error"
    elif isinstance(policy, Cel):
        if bool(policy.expression) == bool(policy.file):
            yield "has a CEL policy without text, or with two", 'write Cel("...") or Cel(file="policy.cel")', "error"
        elif policy.file and policy_file(policy.file) is None:
            yield (
                f"has the policy {policy.file!r}, which does not exist",
                "name a file relative to the project",
                "error",
            )
    elif policy is not None and not isinstance(policy, str):
        yield f"authorizes with {policy!r}", 'use "module:function", Rego(...) or Cel(...)', "error"


def _cors(cors: Cors) -> Iterator[Mistake]:
    if "*" in cors.origins and (cors.credentials or len(cors.origins) > 1):
        yield 'lets pages of every origin ("*") call with credentials, or names others beside', "list origins", "error"
    for origin in cors.origins:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query):
            yield f"has the origin {origin!r}", 'an origin has no path: "https://shop.example.com"', "error"
