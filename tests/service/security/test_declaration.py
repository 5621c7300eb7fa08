"""Mistakes in a declaration, each with what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sampan.model import (
    Application,
    Cel,
    Cors,
    Environment,
    Introspection,
    Oidc,
    Password,
    PeerIdentity,
    Rego,
    Secret,
    Security,
    Service,
)
from sampan.service.bindings import BindingError
from tests.service.security.conftest import Securing, whoami

OIDC = Oidc("https://id.example.com", "orders")


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (Security(authenticate=["oidc"]), "authenticates with 'oidc'"),  # type: ignore[list-item]
        (Security(authenticate=Oidc("id.example.com", "x")), "issuer 'id.example.com'"),  # type: ignore[arg-type]
        (Security(authenticate=[Oidc("https://u:pw@id", "x")]), "with a password in it"),
        (Security(authenticate=[Oidc("http://keycloak:8080", "x")]), "without TLS"),
        (Security(authenticate=[Oidc("https://id", "")]), "meant for anybody"),
        (Security(authenticate=[Oidc("https://id", "x", algorithms=["HS256"])]), "'HS256'"),
        (Security(authenticate=[Oidc("https://id", "x", algorithms=["none"])]), "'none'"),
        (Security(authenticate=[Oidc("https://id", "x", leeway=3600)]), "leeway=3600"),
        (Security(authenticate=[Introspection("https://id/i", "me", "hunter2")]), "written in the declaration"),  # type: ignore[arg-type]
        (Security(authenticate=[Password({"ada": "x"})]), "passwords written in"),  # type: ignore[arg-type]
        (Security(authenticate=[Password("nowhere:find")]), "users='nowhere:find' names the module nowhere"),
        (Security(authenticate=[PeerIdentity(proxies=["10.0.0.0/99"])]), "'10.0.0.0/99'"),
        (Security(authenticate=[OIDC], public=["catalog"]), "public path 'catalog'"),
        (Security(authenticate=[OIDC], public=["/a/*/b"]), "public path '/a/*/b'"),
        (Security(authenticate=[OIDC], scopes={"FETCH /x": "y"}), "'FETCH /x'"),
        (Security(authenticate=[OIDC], authorize="sampan.nothing:allow"), "authorize='sampan.nothing:allow'"),
        (Security(authenticate=[OIDC], authorize=Rego("none.rego")), "'none.rego', which does not exist"),
        (Security(authenticate=[OIDC], authorize=Rego("README.md", "allow")), "asks the policy 'allow'"),
        (Security(authenticate=[OIDC], authorize=Cel()), "without text"),
        (Security(authenticate=[OIDC], authorize=Cel(file="none.cel")), "'none.cel', which does not exist"),
        (Security(authorize=Cel("true")), "knows none"),
        (Security(scopes={"/x": "y"}), "knows none"),
        (Security(cors=Cors(["*"], credentials=True)), "every origin"),
        (Security(cors=Cors(["https://shop.example.com/"])), "'https://shop.example.com/'"),
        (Security(headers={"x-a": "b\r\nc: d"}), "'x-a'"),
        (Security(body_limit=-1), "body_limit=-1"),
    ],
)
def test_mistakes_are_told(declared: Security, told: str) -> None:
    problems = Application("shop", services=[Service("orders", "sampan.model:Service", security=declared)]).problems()
    assert any(told in problem.message for problem in problems), problems
    assert "hunter2" not in "".join(map(str, problems)).replace('Introspection("https://id/i", "me", "hunter2")', "")


def test_a_service_uses_the_secrets_its_authenticators_read() -> None:
    secret = Secret("idp", keys=["client-secret"])
    declared = Security(authenticate=[Introspection("https://id/i", "orders", secret)])
    own = Service("own", "sampan.model:Service", security=Security())
    service = Service("orders", "sampan.model:Service", uses=[secret])
    application = Application("shop", services=[service, own], security=declared)
    assert service.security is declared
    assert service.handles == [secret]
    assert own.security is not declared
    assert not own.handles
    assert not application.problems()


async def test_the_development_issuer_is_for_local_environments(
    securing: Securing, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = Security(authenticate=[Oidc("dev", "orders")])
    original = Application.environment
    monkeypatch.setattr(
        Application, "environment", lambda self, name: Environment(name) if name == "prod" else original(self, name)
    )
    async with securing(whoami, declared) as service:
        assert (await service.ask("/"))[0] == 401
    monkeypatch.setenv("SAMPAN_DEV_ISSUER", "https://id.example.com")
    with pytest.raises(BindingError, match="is on this machine"):
        async with securing(whoami, declared):
            raise AssertionError
    monkeypatch.setenv("SAMPAN_ENVIRONMENT", "prod")
    with pytest.raises(BindingError, match="in the environment 'prod'"):
        async with securing(whoami, declared):
            raise AssertionError


def test_what_is_not_declared_is_not_imported() -> None:
    heavy = ("joserfc", "argon2", "regorus", "cel", "cryptography", "aiohttp", "uvicorn")
    code = f"import sys, sampan.service.security.binding; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
