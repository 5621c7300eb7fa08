"""The guards of a service, as they are, before gRPC: one declaration of who may do what, and how often."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest

from sampan.model import Limits, Service
from sampan.model.security import Security
from sampan.service.resilience.guards import guards
from sampan.service.security.authenticators import Credentials, Rejected, Verified
from sampan.service.security.caller import Caller
from sampan.service.security.guard import SecurityGuard
from sampan.service.telemetry.context import Context
from sampan.service.telemetry.metrics import Registry
from tests.service.rpc.echo import NAME, Echo, plain_client, say, serving

Code = grpc.StatusCode


class Words:
    """An authenticator that knows two bearers by heart."""

    name, challenge = "words", "Bearer"

    def recognises(self, credentials: Credentials) -> bool:
        return credentials.scheme == "bearer"

    async def authenticate(self, credentials: Credentials) -> Verified:
        scopes = {"reader": frozenset({"read"}), "writer": frozenset({"read", "write"})}
        if credentials.value not in scopes:
            raise Rejected("nobody knows this word")
        return Verified(Caller(credentials.value, scopes=scopes[credentials.value]), time.time() + 60)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


async def test_one_declaration_of_security_holds_for_both() -> None:
    declared = Security(
        public=[f"/{NAME}/Down"], scopes={f"/{NAME}/Order": "write"}, hosts=["shop.example.com"], authenticate=()
    )
    guard = SecurityGuard(declared, [Words()], Registry())
    whom: list[Any] = []

    def look(text: str, context: Any) -> str:
        from sampan.service import security

        whom.append(security.caller())
        return text

    async with serving(Echo(look), guards=(guard,)) as served, plain_client(served.target) as stub_:
        stub: Any = stub_

        async def code(method: str, word: str) -> grpc.StatusCode:
            metadata = (("authorization", f"Bearer {word}"),) if word else ()
            call = getattr(stub, method)(say("a"), metadata=metadata)
            try:
                await call if method != "Down" else [m async for m in call]
            except grpc.aio.AioRpcError as error:
                if error.code() is Code.UNAUTHENTICATED:
                    assert "www-authenticate" in dict(error.trailing_metadata())
                return error.code()
            return Code.OK

        assert await code("Say", "") is Code.UNAUTHENTICATED
        assert await code("Say", "forged") is Code.UNAUTHENTICATED
        assert await code("Down", "") is Code.OK
        assert whom == [None]
        for _ in range(2):  # the second time from what is remembered
            assert await code("Say", "reader") is Code.OK
        assert whom[-1].subject == "reader"
        assert await code("Order", "reader") is Code.PERMISSION_DENIED
        assert await code("Order", "writer") is Code.OK
        assert [getattr(caller, "subject", None) for caller in whom] == [None, "reader", "reader", "writer"]


async def test_limits_refuse_with_a_time_to_wait() -> None:
    service = Service("echo", grpc="tests:echo", limits=Limits(rate=1, burst=2))
    async with serving(guards=guards(service, Registry())) as served, plain_client(served.target) as stub_:
        stub: Any = stub_
        assert [(await stub.Order(say("a"))).value for _ in range(2)] == ["a", "a"]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Order(say("a"))
    assert (failed.value.code(), failed.value.details()) == (Code.RESOURCE_EXHAUSTED, "too many requests")
    assert int(dict(failed.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000


async def test_a_trusted_proxy_says_who_the_client_is() -> None:
    class Seeing:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def enter(self, scope: Any, context: Context) -> None:
            self.seen.append((scope["client"][0], scope["sampan.peer"]))

        def leave(self, scope: Any, context: Context, status: int, seconds: float) -> None: ...

    guard = Seeing()
    async with serving(guards=(guard,)) as served, plain_client(served.target) as stub_:
        stub: Any = stub_
        for forwarded in ("", "203.0.113.9, 10.0.0.7", "nonsense"):
            await stub.Say(say("a"), metadata=(("x-forwarded-for", forwarded),) if forwarded else ())
    here = "127.0.0.1"
    assert guard.seen == [(here, here), ("203.0.113.9", here), (here, here)]
