"""What code asks of the caller itself: `require` as a dependency of a framework, `require_scopes` anywhere."""

from __future__ import annotations

from sampan.service.http.errors import refusal_error
from sampan.service.security.caller import CALLER, Caller


def require_scopes(*scopes: str) -> Caller:
    """The caller of the work in hand, who has all `scopes`.

    Otherwise an error that is answered with 401 when nobody is known, 403 when a scope is lacking.
    """
    caller = CALLER.get()
    if caller is None:
        raise refusal_error(401, "unauthorized", {"www-authenticate": "Bearer"})
    if not caller.scopes.issuperset(scopes):
        lacking = f'Bearer error="insufficient_scope", scope="{" ".join(sorted(scopes))}"'
        raise refusal_error(403, "forbidden", {"www-authenticate": lacking})
    return caller


class Require:
    """A dependency: `Depends(security.require("orders:write"))` gives the caller, or refuses. OpenAPI shows it."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = scopes

    async def __call__(self) -> Caller:
        return require_scopes(*self.scopes)

    def __hash__(self) -> int:
        return hash(self.scopes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Require) and other.scopes == self.scopes


def require(*scopes: str) -> Require:
    return Require(*scopes)
