"""docs/guides/security.md, run: its files make a system that keeps its word."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs/guides/security.md"
SAMPAN = [sys.executable, "-m", "sampan"]


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for name, text in re.findall(r"```(?:python|text)\n# (\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


class Started:
    def __init__(self, directory: Path, name: str, *command: str, **environment: str) -> None:
        self.output = directory / f"{name}.out"
        known = {key: value for key, value in os.environ.items() if not key.startswith("SAMPAN_")}
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [*SAMPAN, *command], cwd=directory, env={**known, **environment}, stdout=file, stderr=file
            )

    def says(self, text: str) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if text in self.output.read_text():
                return self.output.read_text()
            time.sleep(0.05)
        raise AssertionError(self.output.read_text()[-3000:])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@pytest.fixture
def issuer(system: Path) -> Iterator[str]:
    started = Started(system, "issuer", "issuer", "--port", "0")
    try:
        yield re.findall(r"http://[\d.:]+", started.says("anybody any name"))[0]
    finally:
        assert started.stop() == 0


def token(system: Path, *words: str) -> str:
    done = subprocess.run(
        [*SAMPAN, "token", *words], cwd=system, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def ask(port: int, method: str, path: str, bearer: str = "", data: bytes | None = None) -> tuple[int, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, data=data)
    if bearer:
        asked.add_header("authorization", f"Bearer {bearer}")
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_guide(system: Path, issuer: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = system / "orders.audit"
    service = Started(
        system,
        "orders",
        "serve",
        "orders",
        SAMPAN_APP="orders.system:system",
        SAMPAN_POD_IP="127.0.0.1",
        SAMPAN_DRAIN_SECONDS="0",
        SAMPAN_DEV_ISSUER=issuer,
        SAMPAN_AUDIT_FILE=str(log),
        PORT=str(port),
    )
    try:
        service.says('"serving"')
        assert ask(port, "GET", "/catalog/7") == (200, '{"item":7}')
        assert ask(port, "GET", "/health")[0] == 200
        assert ask(port, "POST", "/orders")[0] == 401
        writer = token(system, "--subject", "ada", "--scope", "orders:write", "--audience", "orders")
        assert ask(port, "POST", "/orders", writer) == (200, '{"by":"ada"}')
        assert ask(port, "POST", "/orders", token(system, "--subject", "ada", "--audience", "orders"))[0] == 403
        assert ask(port, "POST", "/orders", token(system, "--subject", "ada", "--scope", "orders:write"))[0] == 401
        assert ask(port, "DELETE", "/orders/1", writer)[0] == 403
        canceller = token(system, "--subject", "bob", "--scope", "orders:cancel", "--audience", "orders")
        assert ask(port, "DELETE", "/orders/1", canceller) == (200, '"bob"')
        assert ask(port, "POST", "/orders", writer, b"x" * 70_000)[0] == 413
        schemes = json.loads(ask(port, "GET", "/openapi.json", writer)[1])["components"]["securitySchemes"]
        assert schemes["oidc"]["openIdConnectUrl"] == f"{issuer}/.well-known/openid-configuration"
        metrics = ask(port, "GET", "/metrics")[1]
        assert 'auth_decisions_total{authenticator="oidc",outcome="forbidden"} 1' in metrics
    finally:
        assert service.stop() == 0
    assert json.loads(log.read_text().partition("\n")[0])["action"] == "order.placed"
    done = subprocess.run(
        [*SAMPAN, "audit", "verify", str(log)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout[:7]) == (0, "whole: ")
    assert "audit head" in service.output.read_text()
    assert writer not in service.output.read_text()


def test_the_issuer_is_on_this_machine_alone(system: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "example.com", "::"):
        done = subprocess.run(
            [*SAMPAN, "issuer", "--host", host], cwd=system, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert "listens on 127.0.0.1, not on" in done.stderr


def test_the_issuer_gives_names(system: Path, issuer: str) -> None:
    def post(path: str, form: str, **headers: str) -> tuple[int, str]:
        asked = urllib.request.Request(issuer + path, form.encode(), headers)
        try:
            with urllib.request.build_opener(_Stay).open(asked, timeout=20) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("location", "")

    given = json.loads(post("/token", "grant_type=client_credentials&client_id=orders&audience=users&scope=a")[1])
    explained = json.loads(post("/introspect", f"token={given['access_token']}")[1])
    assert (explained["active"], explained["sub"], explained["aud"], explained["scope"]) == (
        True,
        "orders",
        "users",
        "a",
    )
    assert json.loads(post("/introspect", "token=x")[1]) == {"active": False}
    back = "redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fback"
    status, location = post("/authorize", f"{back}&client_id=web&state=s&username=ada&scope=openid&nonce=n")
    assert status == 302
    assert location.startswith("http://127.0.0.1:1/back?code=")
    assert location.endswith("&state=s")
    code = re.findall(r"code=([^&]+)", location)[0]
    form = f"grant_type=authorization_code&code={code}&{back}"
    assert json.loads(post("/token", form)[1])["id_token"].count(".") == 2
    assert post("/token", form)[0] == 400, "a code is good once"
    assert post("/authorize", "username=ada&redirect_uri=https%3A%2F%2Fevil.example%2F")[0] == 400
    assert post("/token", "grant_type=implicit")[0] == 400
    assert post("/rotate", "", Host="evil.example")[0] == 403, "a name that points here is not us"
    assert post("/rotate", "", Origin="https://evil.example")[0] == 403
    keys = system / ".sampan/issuer.json"
    assert keys.stat().st_mode & 0o777 == 0o600


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None
