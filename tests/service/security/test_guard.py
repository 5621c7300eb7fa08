"""Who may do what: public paths, scopes, policies, dependencies, CORS, headers, websockets."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Annotated, Any

import fastapi
import litestar
import pytest

from sampan.model import Cel, Cors, Oidc, Rego, Security
from sampan.service import security
from sampan.service.bindings import BindingError
from sampan.service.security.rules import Rules
from tests.service.security.conftest import Dev, Secured, Securing, whoami
from tests.service.security.raw import exchange, statuses


async def test_public_paths_and_scopes(securing: Securing, dev: Dev) -> None:
    declared = Security(
        authenticate=[Oidc(dev.url, "orders")],
        public=["/", "/catalog/*"],
        scopes={"POST /orders": "orders:write", "/admin*": ["admin", "mfa"], "GET /orders/*": "orders:read"},
    )
    async with securing(whoami, declared) as service:
        for method, path, scope, status in [
            ("GET", "/", None, 200),
            ("GET", "/catalog/1", None, 200),
            ("GET", "/catalog", None, 401),
            ("GET", "/other", None, 401),
            ("GET", "/other", "", 200),
            ("POST", "/orders", "", 403),
            ("POST", "/orders/", "", 403),
            ("POST", "/orders", "orders:write", 200),
            ("GET", "/orders/1", "", 403),
            ("HEAD", "/orders/1", "", 403),
            ("GET", "/orders/1", "orders:read", 200),
            ("GET", "/admin", "admin", 403),
            ("GET", "/admin/x", "admin mfa", 200),
            ("GET", "/administrators", "admin", 403),
        ]:
            token = "" if scope is None else dev.sign(scope=scope)
            got, answer, headers = await service.ask(path, token, method)
            assert got == status, (method, path, scope)
            if status == 403 and method != "HEAD":
                assert answer == {"error": "forbidden"}
                assert "insufficient_scope" in headers["www-authenticate"]
        assert (await service.ask("/catalog/1", dev.sign("ada")))[1]["subject"] == "ada", "known there, too"
        assert (await service.ask("/catalog/1", "nonsense"))[0] == 200
        assert service.decisions("oidc", "forbidden") == 6
        assert service.decisions("none", "missing") == 2


@pytest.mark.parametrize(
    "target",
    ["/catalog/../admin", "/catalog/%2e%2e/admin", "/catalog//admin", "/catalog/..%2fadmin", "/catalog/x%00",
     "/catalog/..;/admin", "/catalog/%5c..%5cadmin", "/catalog/./x", "/catalog/%2Fadmin"],
)  # fmt: skip
async def test_a_path_of_two_meanings_is_not_public(securing: Securing, dev: Dev, target: str) -> None:
    declared = Security(authenticate=[Oidc(dev.url, "orders")], public=["/catalog/*"])
    async with securing(whoami, declared) as service:
        answer = await exchange(service.port, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert statuses(answer) == [401]


def test_duties_are_read_widely() -> None:
    rules = Rules((), {"/admin/*": "admin", "DELETE /orders/*": "w"})
    for path in ("/admin/x", "//admin/x", "/a/../admin/x", "/admin//x/"):
        assert rules.scopes("GET", path) == {"admin"}, path
    assert rules.scopes("GET", "/orders/1") == frozenset()


async def test_health_is_open_and_the_documentation_is_not(securing: Securing, dev: Dev) -> None:
    app = fastapi.FastAPI()
    async with securing(app, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        assert (await service.ask("/docs"))[0] == 401
        assert (await service.ask("/nowhere"))[0] == 401, "what exists is not told to anybody"

    @app.get("/ready")
    async def ready() -> str:
        return "the application's own"

    declared = Security(authenticate=[Oidc(dev.url, "orders")], hosts=["shop.example.com"])
    async with securing(app, declared) as service:
        assert (await service.ask("/ready"))[:2] == (200, "the application's own")
        assert (await service.ask("/ready", method="POST"))[0] == 421
        assert (await service.ask("/ready/", headers={"host": "shop.example.com"}))[0] == 401


Writer = Annotated[security.Caller, fastapi.Depends(security.require("orders:write"))]


def api() -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post("/orders")
    async def place(caller: Writer) -> str:
        return caller.subject

    @app.get("/catalog/{item}")
    async def look(item: int) -> int:
        return item

    @app.get("/orders/{order}")
    def read(order: int) -> str:
        return security.require_scopes("orders:read").subject  # in a thread: the caller goes with it

    return app


async def test_fastapi_dependencies_and_openapi(securing: Securing, dev: Dev) -> None:
    declared = Security(authenticate=[Oidc(dev.url, "orders")], public=["/catalog/*"], scopes={"GET /orders/*": "o:r"})
    async with securing(api(), declared) as service:
        assert (await service.ask("/orders", dev.sign("ada", scope="orders:write"), "POST"))[:2] == (200, "ada")
        status, _, headers = await service.ask("/orders", dev.sign("ada"), "POST")
        assert status == 403
        assert "orders:write" in headers["www-authenticate"]
        assert (await service.ask("/orders/1", dev.sign("ada", scope="o:r orders:read")))[:2] == (200, "ada")
        assert (await service.ask("/orders/1", dev.sign("ada", scope="o:r")))[0] == 403
        _, document, _ = await service.ask("/openapi.json", dev.sign())
        assert document["components"]["securitySchemes"] == {
            "oidc": {"type": "openIdConnect", "openIdConnectUrl": f"{dev.url}/.well-known/openid-configuration"}
        }
        paths = document["paths"]
        assert paths["/orders"]["post"]["security"] == [{"oidc": ["orders:write"]}]
        assert paths["/orders/{order}"]["get"]["security"] == [{"oidc": ["o:r"]}]
        assert paths["/catalog/{item}"]["get"]["security"] == []
        assert set(paths["/orders"]["post"]["responses"]) >= {"401", "403"}
        assert "/require" not in str(document)


async def test_require_without_a_caller_is_401(securing: Securing) -> None:
    async with securing(api()) as service:
        status, _, headers = await service.ask("/orders", method="POST")
        assert (status, headers["www-authenticate"]) == (401, "Bearer")


async def test_litestar_openapi(securing: Securing, dev: Dev) -> None:
    @litestar.get("/orders/{order:int}", sync_to_thread=False)
    def read(order: Annotated[int, litestar.params.PathParameter()]) -> str:
        return security.require_scopes("orders:read").subject

    declared = Security(authenticate=[Oidc(dev.url, "orders")], scopes={"GET /orders/*": "o:r"})
    async with securing(litestar.Litestar([read]), declared) as service:
        assert (await service.ask("/orders/1", dev.sign("ada", scope="o:r orders:read")))[0] == 200
        assert (await service.ask("/orders/1", dev.sign("ada", scope="o:r")))[0] == 403
        _, document, _ = await service.ask("/schema/openapi.json", dev.sign())
        assert document["components"]["securitySchemes"]["oidc"]["type"] == "openIdConnect"
        assert document["paths"]["/orders/{order}"]["get"]["security"] == [{"oidc": ["o:r"]}]


POLICY = """package shop
default allow := false
allow if input.caller.claims.privileged == true
allow if {
    input.request.method == "GET"
    input.request.segments[0] == "orders"
    input.caller.subject == "ada"
}
"""


async def test_rego(securing: Securing, dev: Dev, tmp_path: Path) -> None:
    path = tmp_path / "policy.rego"
    path.write_text(POLICY)
    declared = Security(authenticate=[Oidc(dev.url, "orders")], authorize=Rego(str(path), "data.shop.allow"))
    async with securing(whoami, declared) as service:
        asking: list[tuple[dict[str, Any], str, int]] = [
            ({"privileged": True}, "/x", 200),
            ({"privileged": 1}, "/x", 403),
            ({"privileged": "true"}, "/x", 403),
            ({"privileged": None}, "/x", 403),
            ({}, "/x", 403),
            ({}, "/orders/1", 200),
            ({"sub": "bob"}, "/orders/1", 403),
        ]
        for claims, asked, status in asking:
            assert (await service.ask(asked, dev.sign("ada", **claims)))[0] == status, (claims, asked)
        await changed(service, path, POLICY + "allow if {", dev.sign("ada"), "/orders/1", 200)  # refused; the old stays
        await changed(service, path, "package other\nallow := true", dev.sign("ada"), "/x", 403)
        await changed(service, path, "package shop\nallow := 1", dev.sign("ada"), "/orders/1", 403)
        await changed(service, path, "package shop\nallow := 1 / 0", dev.sign("ada"), "/orders/1", 403)
        await changed(service, path, "package shop\nallow if input.request.path == `/x`", dev.sign("bob"), "/x", 200)
        path.unlink()
        await changed(service, None, "", dev.sign("bob"), "/x", 200)
    del service
    await asyncio.to_thread(gc.collect)  # an engine left to another thread fails this test


async def changed(service: Secured, path: Path | None, text: str, token: str, asked: str, status: int) -> None:
    """Within a while the answer is `status`, and stays."""
    if path is not None:
        path.write_text(text)
    for _ in range(60):
        await asyncio.sleep(0.05)
        if (await service.ask(asked, token))[0] == status:
            break
    await asyncio.sleep(0.6)  # longer than the policy is left unlooked at
    assert (await service.ask(asked, token))[0] == status


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (lambda at: Rego(str(at / "none.rego")), "no file"),
        (lambda at: written(at, "package x\nallow if {"), "expecting expression"),
        (lambda at: written(at, "package x\nallow := true"), "no rule data.policy.allow"),
        (lambda at: Cel("caller. =="), "Syntax error"),
    ],
)
async def test_a_policy_that_cannot_be_used_stops_the_start(
    securing: Securing, dev: Dev, tmp_path: Path, policy: Any, why: str
) -> None:
    declared = Security(authenticate=[Oidc(dev.url, "orders")], authorize=policy(tmp_path))
    with pytest.raises(BindingError, match=why) as error:
        async with securing(whoami, declared):
            raise AssertionError
    assert "Stack backtrace" not in str(error.value)
    del error
    await asyncio.to_thread(gc.collect)  # an engine left to another thread fails this test


def written(directory: Path, text: str) -> Rego:
    (directory / "p.rego").write_text(text)
    return Rego(str(directory / "p.rego"))


async def test_cel(securing: Securing, dev: Dev) -> None:
    policy = Cel('caller.claims.privileged == true || request.path.startsWith("/of/" + caller.subject)')
    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")], authorize=policy)) as service:
        assert (await service.ask("/of/ada/1", dev.sign("ada", privileged=False)))[0] == 200
        assert (await service.ask("/of/bob/1", dev.sign("ada", privileged=False)))[0] == 403
        assert (await service.ask("/of/bob/1", dev.sign("ada", privileged=1)))[0] == 403
        assert (await service.ask("/of/bob/1", dev.sign("ada", privileged=True)))[0] == 200
        assert (await service.ask("/of/bob/1", dev.sign("ada")))[0] == 403, "no such claim"


def by_name(caller: security.Caller, request: security.Request) -> Any:
    answers: dict[str, Any] = {"ada": True, "text": "not today", "one": 1, "none": None, "list": ["x"]}
    assert "authorization" not in request.headers
    return answers[caller.subject]


async def by_name_later(caller: security.Caller, request: security.Request) -> Any:
    await asyncio.sleep(0)
    return by_name(caller, request)


@pytest.mark.parametrize("function", ["by_name", "by_name_later"])
async def test_functions(securing: Securing, dev: Dev, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "allowing", sys.modules[__name__])
    declared = Security(authenticate=[Oidc(dev.url, "orders")], authorize=f"allowing:{function}")
    async with securing(whoami, declared) as service:
        for subject, status in {"ada": 200, "text": 403, "one": 403, "none": 403, "list": 403, "raises": 403}.items():
            got, answer, _ = await service.ask("/", dev.sign(subject))
            assert got == status, subject
            assert "not today" not in str(answer)


CORS = Cors(["https://shop.example.com"], credentials=True)


async def test_cors(securing: Securing, dev: Dev) -> None:
    ours, theirs = {"origin": "https://shop.example.com"}, {"origin": "https://shop.example.com.evil.com"}
    asking = {"access-control-request-method": "PUT", "access-control-request-headers": "authorization"}
    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")], cors=CORS)) as service:
        status, body, headers = await service.ask("/x", method="OPTIONS", headers=ours | asking)
        assert (status, body) == (200, b"")
        assert headers["access-control-allow-origin"] == ours["origin"]
        assert headers["access-control-allow-credentials"] == "true"
        assert "PUT" in headers["access-control-allow-methods"]
        assert "Origin" in headers.getall("vary")
        _, _, headers = await service.ask("/x", method="OPTIONS", headers=theirs | asking)
        assert not [name for name in headers if name.lower().startswith("access-control")]
        assert (await service.ask("/x", method="OPTIONS", headers=ours))[0] == 401, "no preflight"
        status, _, headers = await service.ask("/x", headers=ours)
        assert (status, headers["access-control-allow-origin"]) == (401, ours["origin"])
        status, _, headers = await service.ask("/x", dev.sign(), headers=ours)
        assert (status, headers["access-control-expose-headers"]) == (200, "x-request-id")
        for origin in (theirs["origin"], "null", "https://SHOP.example.com", "http://shop.example.com"):
            _, _, headers = await service.ask("/x", dev.sign(), headers={"origin": origin})
            assert "access-control-allow-origin" not in headers
            assert "Origin" in headers.getall("vary")


async def test_response_headers(securing: Securing) -> None:
    async def own(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"X-Frame-Options", b"SAMEORIGIN"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    async with securing(own, Security(headers={"X-Team": "shop", "referrer-policy": ""})) as service:
        _, _, headers = await service.ask("/")
        assert headers.getall("x-frame-options") == ["SAMEORIGIN"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["x-team"] == "shop"
        assert "referrer-policy" not in headers
        assert "strict-transport-security" not in headers, "not without TLS"
        assert "server" not in headers


async def test_websockets_are_guarded(securing: Securing, dev: Dev) -> None:
    import aiohttp

    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await service.session.ws_connect(service.url + "/ws")
        assert refused.value.status in (401, 403)
        bearer = {"authorization": f"Bearer {dev.sign('ada')}"}
        async with service.session.ws_connect(service.url + "/ws", headers=bearer) as socket:
            assert await socket.receive_str() == "ada"


async def test_the_token_in_hand_can_be_passed_on(securing: Securing, dev: Dev) -> None:
    passed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(service.process.shared["caller token"]())
        await whoami(scope, receive, send)

    async with securing(app, Security(authenticate=[Oidc(dev.url, "orders")], public=["/"])) as service:
        passed.clear()
        token = dev.sign()
        await service.ask("/", token)
        await service.ask("/", "nonsense")
        await service.ask("/")
        assert passed == [f"Bearer {token}", None, None]
