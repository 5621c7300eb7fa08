"""Opaque tokens, explained by the server that issued them (RFC 7662)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sampan.model.security import Introspection
from sampan.service.security.authenticators import Credentials, Rejected, Unavailable, Verified, scopes_of
from sampan.service.security.caller import Caller
from sampan.service.security.fetch import Fetcher

_MAX_TOKEN = 4 * 1024


class IntrospectionAuthenticator:
    name = "introspection"
    challenge = "Bearer"

    def __init__(self, declared: Introspection) -> None:
        self.declared = declared
        self.fetcher = Fetcher(declared.timeout)
        self._asking: dict[str, asyncio.Task[Any]] = {}

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.fetcher.close()

    def recognises(self, credentials: Credentials) -> bool:
        return credentials.scheme == "bearer" and len(credentials.value) <= _MAX_TOKEN

    async def authenticate(self, credentials: Credentials) -> Verified:
        if len(credentials.value) > _MAX_TOKEN:
            raise Rejected("a token of more than 4 KiB")
        answer = await self._ask(credentials.value)
        declared, now = self.declared, time.time()
        if not isinstance(answer, dict) or answer.get("active") is not True:
            raise Rejected("a token that is not active")
        expires = answer.get("exp", now + declared.cache)
        if isinstance(expires, bool) or not isinstance(expires, (int, float)) or expires <= now:
            raise Rejected("an expired token")
        if declared.issuer is not None and answer.get("iss") != declared.issuer:
            raise Rejected("a token of another issuer")
        audience = answer.get("aud", [])
        meant = [audience] if isinstance(audience, str) else audience
        if declared.audience and not (isinstance(meant, list) and set(declared.audience).intersection(map(str, meant))):
            raise Rejected("a token for another audience")
        subject = next((answer[name] for name in ("sub", "username", "client_id") if answer.get(name)), "")
        if not isinstance(subject, str) or not subject:
            raise Rejected("a token of nobody")
        issuer = declared.issuer or str(answer.get("iss", ""))
        caller = Caller(subject, issuer, scopes_of(answer.get("scope")), answer, authenticator=self.name)
        return Verified(caller, min(float(expires), now + declared.cache))

    async def _ask(self, token: str) -> Any:
        """One question a token, however many requests bear it."""
        task = self._asking.get(token)
        if task is None:
            declared = self.declared
            try:
                secret = declared.credentials[declared.key]
            except (KeyError, RuntimeError) as error:
                raise Unavailable(f"{declared.credentials!r} has no {declared.key!r}") from error
            form = {"token": token, "token_type_hint": "access_token"}
            question = self.fetcher.json(declared.url, form, (declared.client_id, secret))
            task = self._asking[token] = asyncio.create_task(question, name="introspection")
            task.add_done_callback(lambda done: (self._asking.pop(token, None), done.cancelled() or done.exception()))
        return await asyncio.shield(task)
