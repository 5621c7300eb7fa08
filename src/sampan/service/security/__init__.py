"""Security inside a service: what its code uses.

from sampan.service import security

security.caller()                                   # who asks; None when nobody is known
Depends(security.require("orders:write"))           # in FastAPI: the caller, or 401, 403
security.require_scopes("orders:write")             # the same anywhere
security.audit("order.cancelled", resource="orders/42")
await security.login("ada", password)               # by the declared Password; None when it is wrong
security.hash_password(password)                    # what to keep of one
security.client_context()                           # an SSLContext that shows our own certificate
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.service.security.caller import Account, Caller, Request, caller
from sampan.service.security.require import require, require_scopes

if TYPE_CHECKING:
    import ssl

    from sampan.service.security.guard import SecurityGuard
    from sampan.service.security.trail import AuditLog

__all__ = [
    "Account",
    "Caller",
    "Request",
    "audit",
    "bind",
    "caller",
    "client_context",
    "hash_password",
    "login",
    "require",
    "require_scopes",
]

_bound: dict[str, Any] = {}


def bind(guard: SecurityGuard | None, trail: AuditLog | None, tls: Any = None) -> None:
    """Put those of a process behind the functions here; None takes them away."""
    _bound.update(guard=guard, trail=trail, tls=tls)


def audit(action: str, *, resource: str = "", outcome: str = "ok", **detail: Any) -> None:
    """An entry in the audit log, with the caller and trace of the work in hand.

    `action` is a name such as "order.cancelled"; `detail` what else there is to know, no secrets. AuditError (answered
    with 503) when it cannot be kept, NotBound outside a service process.
    """
    from sampan.model import NotBound
    from sampan.service.security.trail import current

    trail: AuditLog | None = _bound.get("trail")
    if trail is None:
        raise NotBound("there is an audit log in `sampan serve`; elsewhere call security.bind(None, AuditLog(...))")
    who, trace_id = current()
    trail.record(action, resource=resource, outcome=outcome, caller=who, trace_id=trace_id, detail=detail)


async def login(name: str, password: str) -> Caller | None:
    """Who `name` is, if the declared Password says that `password` is theirs. Unavailable when it cannot tell."""
    from sampan.model import NotBound
    from sampan.service.security.authenticators import Rejected
    from sampan.service.security.password import PasswordAuthenticator

    guard: SecurityGuard | None = _bound.get("guard")
    for one in guard.authenticators if guard else ():
        if isinstance(one, PasswordAuthenticator):
            try:
                found = await one.login(name, password)
            except Rejected:
                audit("login", resource=name, outcome="rejected")
                return None
            audit("login", resource=name)
            return found
    raise NotBound("no Password is declared in the security of this service")


def hash_password(password: str) -> str:
    """The argon2id hash to keep of a password. Takes some 20 ms of a core: call it in a thread."""
    from sampan.service.security.password import hash_password as hashed

    return hashed(password)


def client_context() -> ssl.SSLContext | None:
    """For calls to others: our certificate and the CAs we trust, of SAMPAN_TLS_DIRECTORY; None without one.

    Ask anew for each connection: it changes when the files do.
    """
    identity = _bound.get("tls")
    context: ssl.SSLContext | None = identity.client_context if identity else None
    return context
