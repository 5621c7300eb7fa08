"""What every authenticator is: given credentials, it names a caller, refuses, or cannot tell just now.

The guard asks the first one that recognises the credentials, and its answer is final. What it answers is remembered
until `until`, so an authenticator is off the path of most requests.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import MutableMapping
from typing import Any, Protocol

from msgspec import Struct

from sampan.service.security.caller import Caller


class Rejected(Exception):
    """The credentials are not good. The text is for the log; the client is told no more than `invalid_token`."""


class Unavailable(Exception):
    """Whether they are good cannot be told now; the request is refused with 503, never let through."""


class Credentials(Struct, frozen=True):
    """`scheme` is that of the Authorization header in lower case, empty without one; `value` what follows it."""

    scheme: str
    value: str
    scope: MutableMapping[str, Any]

    def __repr__(self) -> str:
        return f"Credentials({self.scheme})"


class Verified(Struct, frozen=True):
    """`until` is Unix time, after which the credentials must be looked at again."""

    caller: Caller
    until: float


class Authenticator(Protocol):
    """`challenge` is its value of WWW-Authenticate (RFC 9110, 11.6.1), empty when it has none."""

    name: str
    challenge: str

    def recognises(self, credentials: Credentials) -> bool: ...

    async def authenticate(self, credentials: Credentials) -> Verified:
        """Raises Rejected, Unavailable."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def basic(value: str) -> tuple[str, str]:
    """User and password of HTTP Basic credentials (RFC 7617). Rejected when they are not such."""
    try:
        name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Rejected("credentials that are not Basic") from error
    if not colon:
        raise Rejected("credentials that are not Basic")
    return name, password


def scopes_of(value: object) -> frozenset[str]:
    """Scopes as tokens carry them: words in a text, or a list (RFC 8693, 4.2)."""
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list):
        return frozenset(text for text in value if isinstance(text, str))
    return frozenset()
