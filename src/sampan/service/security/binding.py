"""Puts the security of a service together: authenticators, policy, guard, audit log, headers, limits, TLS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from sampan.model import Application, Service
from sampan.model.security import (
    DEV_ISSUER,
    Cel,
    Introspection,
    Oidc,
    Password,
    PeerIdentity,
    Rego,
    Security,
    present,
)
from sampan.service import security as exported
from sampan.service.bindings import BindingError
from sampan.service.http import tls
from sampan.service.http.limits import Limits
from sampan.service.http.middleware import Middleware
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, load_string
from sampan.service.security import policy
from sampan.service.security.authenticators import Authenticator
from sampan.service.security.caller import token
from sampan.service.security.cors import CorsHeaders
from sampan.service.security.guard import SecurityGuard
from sampan.service.security.trail import AuditLog
from sampan.service.security.trail import from_environment as trail_from_environment

DEV_ISSUER_URL: Final = "http://127.0.0.1:9400"

# on every answer that does not bear them: OWASP's for APIs, less what would break the page of a documentation
HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "frame-ancestors 'none'",
}
HSTS: Final = {"strict-transport-security": "max-age=31536000"}


class Secured:
    """What the server of a service needs to know: `app` in place of the middleware, `limits`, `tls`."""

    def __init__(self, app: Any, guard: SecurityGuard, limits: Limits, identity: tls.Identity | None) -> None:
        self.app, self.guard, self.limits, self.identity = app, guard, limits, identity

    @property
    def tls(self) -> tls.ServerTls | None:
        return tls.ServerTls(self.identity) if self.identity else None


def dev_issuer() -> str:
    """The issuer "dev" stands for. BindingError unless it is on this machine."""
    url = os.environ.get("SAMPAN_DEV_ISSUER", DEV_ISSUER_URL)
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise BindingError(f"SAMPAN_DEV_ISSUER={url}: a development issuer is on this machine, as {DEV_ISSUER_URL}")
    return url


def provide(process: Process, services: Sequence[Service]) -> None:
    """What services and jobs have alike: our own TLS identity, the token of the caller in hand, the audit log."""
    declared: Security | None = getattr(process.workload, "security", None)
    asks = any(isinstance(one, PeerIdentity) for one in declared.authenticate) if declared else False
    identity = tls.from_environment("optional" if asks else "none", process.registry)
    process.shared["tls identity"] = identity
    process.shared["caller token"] = token
    name, identified = process.workload.name, process.identity
    trail = trail_from_environment(name, identified, process.registry, process.redactor.clean)
    process.add(Stage.RESOURCES, "audit log", trail)
    process.shared["audit"] = trail
    exported.bind(None, trail, identity)
    if identity is not None:
        process.shared["client tls"] = lambda: identity.client_context


def secure(process: Process, service: Service, application: Application, middleware: Middleware) -> Secured:
    """Guard `middleware`, and start and stop what that takes with the process. BindingError when it cannot be."""
    environment = os.environ.get("SAMPAN_ENVIRONMENT", "dev")
    local = application.environment(environment).is_local
    declared = service.security or Security()
    known = [present(one, local) if isinstance(one, Oidc) else one for one in declared.authenticate]
    declared = replace(declared, authenticate=known)
    if not local and any(isinstance(one, Oidc) and one.issuer == DEV_ISSUER for one in declared.authenticate):
        raise BindingError(f"{service!r} believes the development issuer in the environment {environment!r}")
    trail: AuditLog = process.shared["audit"]
    identity: tls.Identity | None = process.shared["tls identity"]
    guard = _guard(process, declared, trail)
    guard.open(probe.path for probe in (service.readiness, service.liveness, service.startup))
    middleware.guards = (guard, *middleware.guards)
    _openapi(middleware.app, declared)
    added = {**HEADERS, **(HSTS if identity else {}), **{name.lower(): text for name, text in declared.headers.items()}}
    middleware.response_headers += tuple(
        (name.encode(), text.encode("latin-1")) for name, text in added.items() if text
    )
    exported.bind(guard, trail, identity)
    whole = CorsHeaders(middleware, declared.cors) if declared.cors else middleware
    limits = Limits(body=declared.body_limit, body_rate=declared.body_rate)
    return Secured(whole, guard, limits, identity)


def _guard(process: Process, declared: Security, trail: AuditLog) -> SecurityGuard:
    guard: SecurityGuard

    def forget() -> None:
        guard.forget()

    authenticators: list[Authenticator] = []
    peer = None
    for one in declared.authenticate:
        if isinstance(one, PeerIdentity):
            from sampan.service.security.peer import PeerAuthenticator

            peer = PeerAuthenticator(one)
            continue
        made = _authenticator(one, forget)
        authenticators.append(made)
        process.add(Stage.RESOURCES, f"authenticator {made.name}", made)
    judge = None
    if declared.authorize is not None:
        judge = policy.make(declared.authorize, lambda text: load_string(text, "the policy"))
        if isinstance(declared.authorize, (Rego, Cel)):
            process.add(Stage.BACKGROUND, "policy", policy.Watch(judge))
    guard = SecurityGuard(declared, authenticators, process.registry, peer=peer, policy=judge, audit=trail)
    return guard


def _authenticator(declared: Any, forget: Any) -> Authenticator:
    """The modules stand here because each brings libraries that only its users need."""
    if isinstance(declared, Oidc):
        from sampan.service.security.oidc import OidcAuthenticator

        return OidcAuthenticator(declared, dev_issuer() if declared.issuer == DEV_ISSUER else declared.issuer, forget)
    if isinstance(declared, Introspection):
        from sampan.service.security.introspection import IntrospectionAuthenticator

        return IntrospectionAuthenticator(declared)
    if isinstance(declared, Password):
        from sampan.service.security.password import PasswordAuthenticator

        return PasswordAuthenticator(declared, lambda text: load_string(text, "the accounts"))
    raise BindingError(f"{declared!r} authenticates nobody")


def _openapi(app: Any, declared: Security) -> None:
    if declared.authenticate:
        from sampan.service.security.openapi import install

        install(app, declared, {DEV_ISSUER: os.environ.get("SAMPAN_DEV_ISSUER", DEV_ISSUER_URL)})
