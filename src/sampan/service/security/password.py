"""Names and passwords of our own, kept as argon2id hashes and sent as HTTP Basic (RFC 7617).

A verification takes memory and some 20 ms of a core on purpose: it runs in threads of its own, a few at a time, and
what would wait too long is refused with 503. A name that nobody has costs as much as a wrong password.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from sampan.model.security import Password
from sampan.service.security.authenticators import Credentials, Rejected, Unavailable, Verified, basic
from sampan.service.security.caller import Account, Caller

log = logging.getLogger("sampan.security")

# OWASP's second choice of argon2id: 19 MiB and two passes, which a small pod can afford several times at once
HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_MAX_PASSWORD: Final = 1024
_WAITING: Final = 16  # verifications a thread may have before it


def hash_password(password: str) -> str:
    """The argon2id hash to keep. Takes some 20 ms: call it in a thread."""
    return HASHER.hash(password)


class PasswordAuthenticator:
    name = "password"

    def __init__(self, declared: Password, load: Callable[[str], Any]) -> None:
        """`load` resolves import strings."""
        self.declared = declared
        self.challenge = f'Basic realm="{declared.realm}", charset="UTF-8"'
        self._find = load(declared.users) if isinstance(declared.users, str) else self._from_secret
        self._rehashed = load(declared.rehashed) if declared.rehashed else None
        self._threads = ThreadPoolExecutor(declared.threads, thread_name_prefix="password")
        self._waiting = 0
        self._nobody = ""
        self.verifications = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def recognises(self, credentials: Credentials) -> bool:
        return credentials.scheme == "basic"

    async def authenticate(self, credentials: Credentials) -> Verified:
        name, password = basic(credentials.value)
        return Verified(await self.login(name, password), time.time() + self.declared.cache)

    async def login(self, name: str, password: str) -> Caller:
        """The caller `name`, if `password` is right. Rejected, Unavailable."""
        if not name or len(name) > 256 or len(password) > _MAX_PASSWORD:
            raise Rejected("a name or password that nobody has")
        account = await self._account(name)
        right = await self._verify(account.hash if account else "", password)
        if account is None or not right:
            raise Rejected("a wrong name or password")
        if self._rehashed is not None and weaker(account.hash):
            task = asyncio.create_task(self._rehash(name, password), name="rehash")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return Caller(name, "", account.scopes, account.claims, authenticator=self.name)

    async def _account(self, name: str) -> Account | None:
        try:
            found = self._find(name)
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:
            raise Unavailable(f"accounts cannot be read: {type(error).__name__}") from error
        return Account(found) if isinstance(found, str) else found

    def _from_secret(self, name: str) -> str | None:
        users: Any = self.declared.users
        try:
            return str(users[name]) if name not in ("type", "uri") else None
        except KeyError:
            return None

    async def _verify(self, hashed: str, password: str) -> bool:
        if self._waiting >= self.declared.threads * _WAITING:
            raise Unavailable("too many passwords to verify")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._matches, hashed, password)
        finally:
            self._waiting -= 1

    def _matches(self, hashed: str, password: str) -> bool:
        if not self._nobody:
            self._nobody = HASHER.hash("nobody")
        self.verifications += 1
        try:
            return HASHER.verify(hashed or self._nobody, password) and bool(hashed)
        except InvalidHashError:
            log.error("an account's password hash is not an argon2 hash")
            return False
        except VerificationError:
            return False

    async def _rehash(self, name: str, password: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            done = self._rehashed(name, await loop.run_in_executor(self._threads, HASHER.hash, password))  # type: ignore[misc]
            if inspect.isawaitable(done):
                await done
        except Exception as error:
            log.warning("a password could not be hashed anew: %s", type(error).__name__)


def weaker(hashed: str) -> bool:
    """Whether a hash was made with less than is asked today."""
    now, then = HASHER, extract_parameters(hashed)
    less = then.time_cost < now.time_cost or then.memory_cost < now.memory_cost or then.hash_len < now.hash_len
    return less or then.type is not now.type
