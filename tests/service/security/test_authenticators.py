"""Opaque tokens, passwords and peers."""

from __future__ import annotations

import asyncio
import base64
import sys
import threading
import types
from typing import Any

import pytest
from argon2 import PasswordHasher

from sampan.model import Introspection, Oidc, Password, PeerIdentity, Secret, Security
from sampan.service import security
from sampan.service.security.password import HASHER
from tests.service.security.conftest import Dev, Securing, whoami


def secret(values: dict[str, str]) -> Secret:
    handle = Secret("idp")
    handle.bind(values)
    return handle


def login(name: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


async def test_introspection(securing: Securing, dev: Dev) -> None:
    credentials = secret({"client-secret": "s3cret-of-orders"})
    declared = Introspection(
        f"{dev.url}/introspect", "orders", credentials, audience="orders", issuer=dev.url, cache=30
    )
    async with securing(whoami, Security(authenticate=[declared])) as service:
        token = dev.sign("ada", scope="a b")
        for _ in range(3):
            status, answer, _ = await service.ask("/", token)
            assert (status, answer["subject"], answer["scopes"]) == (200, "ada", ["a", "b"])
        assert (await service.ask("/", "opaque"))[0] == 401
        assert (await service.ask("/", dev.sign(audience="billing")))[0] == 401
        assert (await service.ask("/", "x" * 5000))[0] == 401
        await dev.server.stop()
        assert (await service.ask("/", token))[0] == 200, "believed for a while"
        status, answer, headers = await service.ask("/", dev.sign("bob"))
        assert (status, headers["retry-after"]) == (503, "2"), "never let through unasked"
        assert "s3cret" not in str(answer)


async def test_one_question_a_token(securing: Securing) -> None:
    asked: list[bytes] = []

    async def explains(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await whoami(scope, receive, send)
            return
        asked.append((await receive())["body"])
        await asyncio.sleep(0.1)
        data = b'{"active": true, "sub": "ada"}' if b"good" in asked[-1] else b'{"active": "true", "sub": "ada"}'
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(data))]})
        await send({"type": "http.response.body", "body": data})

    async with securing(explains) as other:
        declared = Introspection(f"{other.url}/i", "orders", secret({"client-secret": "s3cret"}))
        async with securing(whoami, Security(authenticate=[declared])) as service:
            answers = await asyncio.gather(*(service.ask("/", "good") for _ in range(20)))
            assert {status for status, _, _ in answers} == {200}
            assert len(asked) == 1
            assert (await service.ask("/", "bad"))[0] == 401, "active is true, or it is not"


async def test_tokens_of_several_issuers(securing: Securing, dev: Dev) -> None:
    other = Oidc("https://other.example", "orders", jwks_uri="http://127.0.0.1:1/jwks")
    asking = Introspection(f"{dev.url}/introspect", "orders", secret({"client-secret": "s"}), audience="opaque")
    declared = Security(authenticate=[other, Oidc(dev.url, "orders"), asking])
    async with securing(whoami, declared) as service:
        assert (await service.ask("/", dev.sign("ada")))[1]["subject"] == "ada"
        assert (await service.ask("/", dev.sign(iss="https://other.example")))[0] == 503
        assert service.decisions("introspection", "allowed") == 0


WEAK = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1)


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("accounts")
    module.hashes = {"ada": HASHER.hash("right"), "old": WEAK.hash("right"), "broken": "plain-text"}
    module.anew = []

    async def find(name: str) -> security.Account | None:
        if name == "down":
            raise ConnectionError("no database")
        found = module.hashes.get(name)
        return security.Account(found, frozenset({"orders:read"})) if found else None

    def rehashed(name: str, made: str) -> None:
        module.anew.append((name, made))

    module.find, module.rehashed = find, rehashed
    monkeypatch.setitem(sys.modules, "accounts", module)
    return module


async def test_passwords(securing: Securing, accounts: Any) -> None:
    declared = Security(authenticate=[Password("accounts:find", rehashed="accounts:rehashed", realm="shop")])
    async with securing(whoami, declared) as service:
        one = service.guard.authenticators[0]
        status, answer, _ = await service.ask("/", headers=login("ada", "right"))
        assert (status, answer["subject"], answer["scopes"]) == (200, "ada", ["orders:read"])
        assert one.verifications == 1
        await service.ask("/", headers=login("ada", "right"))
        assert one.verifications == 1, "a success is remembered"
        status, answer, headers = await service.ask("/", headers=login("ada", "wrong"))
        assert (status, answer) == (401, {"error": "unauthorized"})
        assert headers["www-authenticate"] == 'Basic realm="shop", charset="UTF-8"'
        assert one.verifications == 2
        unknown = await service.ask("/", headers=login("nobody", "right"))
        assert unknown[:2] == (status, answer), "an unknown name is answered as a wrong password is"
        assert one.verifications == 3, "and argon2 is run for it all the same"
        assert (await service.ask("/", headers=login("broken", "plain-text")))[0] == 401
        assert (await service.ask("/", headers=login("down", "right")))[0] == 503
        for bad in ("", "!!!", base64.b64encode(b"ada").decode(), base64.b64encode(b"\xff:\xff").decode()):
            assert (await service.ask("/", headers={"authorization": f"Basic {bad}"}))[0] == 401
        assert (await service.ask("/", headers=login("ada", "x" * 2000)))[0] == 401
        assert (await service.ask("/", headers=login("old", "right")))[0] == 200
    assert [name for name, _ in accounts.anew] == ["old"]
    assert HASHER.verify(accounts.anew[0][1], "right")
    assert not HASHER.check_needs_rehash(accounts.anew[0][1])


async def test_verifications_run_beside_the_loop_and_are_bounded(securing: Securing, accounts: Any) -> None:
    declared = Security(authenticate=[Password("accounts:find", threads=1)])
    async with securing(whoami, declared) as service:
        one, threads = service.guard.authenticators[0], set()
        original = one._matches

        def matches(hashed: str, password: str) -> bool:
            threads.add(threading.current_thread().name)
            return bool(original(hashed, password))

        one._matches = matches
        answers = await asyncio.gather(*(service.ask("/", headers=login("ada", f"wrong{n}")) for n in range(60)))
        statuses = [status for status, _, _ in answers]
        assert set(statuses) == {401, 503}
        assert statuses.count(401) >= 16
        assert len(threads) == 1
        assert threading.main_thread().name not in threads


async def test_the_login_helper(securing: Securing, accounts: Any) -> None:
    async with securing(whoami, Security(authenticate=[Password("accounts:find")], public=["/login"])):
        found = await security.login("ada", "right")
        assert found is not None
        assert found.subject == "ada"
        assert await security.login("ada", "wrong") is None
    assert HASHER.verify(security.hash_password("x"), "x")


async def test_passwords_from_a_secret(securing: Securing) -> None:
    users = secret({"ada": HASHER.hash("right"), "type": HASHER.hash("right")})
    async with securing(whoami, Security(authenticate=[Password(users)])) as service:
        assert (await service.ask("/", headers=login("ada", "right")))[0] == 200
        assert (await service.ask("/", headers=login("type", "right")))[0] == 401
        assert (await service.ask("/", headers=login("bob", "right")))[0] == 401


XFCC = "x-forwarded-client-cert"
ADA = 'By=spiffe://shop/ns/a/sa/b;Hash=00;Subject="CN=x, O=\\"a,b\\"";URI=spiffe://shop.example/ns/shop/sa/ada'


@pytest.mark.parametrize(
    ("proxies", "header", "status", "subject"),
    [
        ((), ADA, 401, None),
        (("10.0.0.0/8",), ADA, 401, None),
        (("127.0.0.0/8",), ADA, 200, "spiffe://shop.example/ns/shop/sa/ada"),
        (("127.0.0.1",), "", 401, None),
        (("127.0.0.1",), "Hash=00", 401, None),
        (("127.0.0.1",), "URI=spiffe://evil.example/ada", 401, None),
        (("127.0.0.1",), "URI=spiffe://shop.example.evil/ada", 401, None),
        (("127.0.0.1",), "URI=spiffe://SHOP.example/ada?x", 401, None),
        (("127.0.0.1",), f"{ADA},URI=spiffe://shop.example/nearest", 200, "spiffe://shop.example/nearest"),
        (("127.0.0.1",), 'Subject="CN=a,URI=spiffe://shop.example/root"', 401, None),
    ],
)
async def test_a_peer_vouched_for_by_a_proxy(
    securing: Securing, proxies: tuple[str, ...], header: str, status: int, subject: str | None
) -> None:
    declared = Security(authenticate=[PeerIdentity(["shop.example"], proxies)])
    async with securing(whoami, declared) as service:
        got, answer, _ = await service.ask("/", headers={XFCC: header, "x-forwarded-for": "127.0.0.1"})
        assert (got, answer.get("subject")) == (status, subject)
