"""Known secrets in every binding of a real process, errors of every kind: no output bears one of them."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from argon2 import PasswordHasher

from tests.servers.certificates import Authority

SYSTEM = """
import msgspec
from sampan import (
    Application, Bucket, Cache, Database, Introspection, Oidc, Password, Secret, Security, Service, Topic
)

class Placed(msgspec.Struct):
    id: int

db, prices, photos = Database("orders"), Cache("prices"), Bucket("photos")
placed, stripe, idp = Topic("placed", Placed), Secret("stripe", keys=["api-key"]), Secret("idp", keys=["client-secret"])
users = Secret("users")
other = Service("other", asgi="web:app")
web = Service("web", asgi="web:app", calls=[other],
    uses=[db.read_write(), prices.read_write(), photos.read_write(), placed.publish(), stripe],
    security=Security(authenticate=[
        Password(users), Oidc("http://127.0.0.1:1", "web"), Introspection("http://127.0.0.1:1/i", "web", idp),
    ], public=["/open/*"]))
app = Application("shop", services=[web, other])
"""
WEB = """
import logging
from fastapi import FastAPI, Request
from sampan.service import security
from system import db, idp, other, photos, placed, Placed, prices, stripe

app = FastAPI()
log = logging.getLogger("shop")

@app.get("/open/{what}")
async def fail(what: str, request: Request) -> str:
    match what:
        case "database":
            async with db.transaction() as session:
                from sqlalchemy import text
                await session.execute(text("SELECT 1"))
        case "cache":
            await prices.set("k", b"v")
        case "bucket":
            await photos.get("x")
        case "topic":
            await placed.publish(Placed(1))
        case "service":
            await other.client.get("/x")
        case "error":
            raise ValueError("stripe said no to " + stripe["api-key"])
        case "log":
            log.warning("key %s", stripe["api-key"], extra={"key": stripe["api-key"]})
        case "audit":
            security.audit("paid", resource=stripe["api-key"], key=stripe["api-key"])
        case "handles":
            log.warning("%r %r %r %s", db, prices, stripe, vars(request.scope["app"]))
        case "nested":
            try:
                raise KeyError(stripe["api-key"])
            except KeyError as error:
                raise RuntimeError("outer") from error
    return "ok"
"""
SECRETS = {
    "database password": "pw-Da7a/b@se:1",
    "cache password": "pw-C4che+2",
    "broker password": "pw-Br0ker-3",
    "bucket key": "pw-Buck3t-4",
    "stripe key": "sk_live_51H8-5",
    "client secret": "idp-cl1ent-6",
    "user password": "ada-passw0rd-7",
    "token": "opaque-t0ken-8",
    "audit key": "aud1t-key-of-sixteen-9",
}
PATHS = ("database", "cache", "bucket", "topic", "service", "error", "log", "audit", "handles", "nested")


def binding(root: Path, name: str, **entries: str) -> None:
    (root / name).mkdir(parents=True)
    for key, value in entries.items():
        (root / name / key.replace("_", "-")).write_text(value)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "system.py").write_text(SYSTEM)
    (tmp_path / "web.py").write_text(WEB)
    root = tmp_path / "bindings"
    pw = {name: quote(value, safe="") for name, value in SECRETS.items()}
    binding(root, "database-orders", type="mysql", uri=f"mysql://ada:{pw['database password']}@127.0.0.1:1/orders")
    binding(root, "cache-prices", type="redis", uri=f"redis://:{pw['cache password']}@127.0.0.1:1/0")
    binding(root, "messaging", type="nats", uri=f"nats://ada:{pw['broker password']}@127.0.0.1:1")
    binding(
        root,
        "bucket-photos",
        type="s3",
        uri="s3://photos?endpoint=http://127.0.0.1:1",
        access_key="photos-access",
        secret_key=SECRETS["bucket key"],
    )
    binding(root, "secret-stripe", type="opaque", api_key=SECRETS["stripe key"])
    binding(root, "secret-idp", type="opaque", client_secret=SECRETS["client secret"])
    hashed = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("another")
    binding(root, "secret-users", type="opaque", ada=hashed)
    (tmp_path / "audit.key").write_text(SECRETS["audit key"])
    Authority().directory(tmp_path / "tls", "web")
    return tmp_path


def test_no_output_bears_a_secret(directory: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SAMPAN_")},
        "SAMPAN_APP": "system:app",
        "SAMPAN_POD_IP": "127.0.0.1",
        "SAMPAN_DRAIN_SECONDS": "0",
        "SAMPAN_LOG_LEVEL": "DEBUG",
        "SERVICE_BINDING_ROOT": str(directory / "bindings"),
        "SAMPAN_AUDIT_FILE": str(directory / "web.audit"),
        "SAMPAN_AUDIT_KEY_FILE": str(directory / "audit.key"),
        "PORT": str(port),
    }
    output = directory / "output"
    command = [sys.executable, "-m", "sampan", "serve", "web"]
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=file, stderr=file)
    said: dict[str, bytes] = {}
    try:
        deadline = time.monotonic() + 60
        while b'"serving"' not in output.read_bytes() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert b'"serving"' in output.read_bytes(), output.read_text()[-3000:]
        basic = base64.b64encode(f"ada:{SECRETS['user password']}".encode()).decode()
        for path in PATHS:
            said[path] = get(port, f"/open/{path}", "")
        said["basic"] = get(port, "/closed", f"Basic {basic}")
        said["bearer"] = get(port, "/closed", f"Bearer {SECRETS['token']}")
        said["url"] = get(port, f"/closed?access_token={SECRETS['token']}", "")
        said["ready"], said["metrics"] = get(port, "/ready", ""), get(port, "/metrics", "")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)
    said["output"], said["audit"] = output.read_bytes(), (directory / "web.audit").read_bytes()
    assert said["log"] == b'200 "ok"'
    assert said["error"].startswith(b"500")
    assert said["basic"].startswith(b"401")
    assert said["bearer"].startswith(b"503")
    assert b"[redacted]" in said["output"]
    assert b'"paid"' in said["audit"]
    found = [
        (name, where, data[max(0, data.find(spelling) - 200) : data.find(spelling) + 60])
        for name, secret in SECRETS.items()
        for spelling in {
            secret.encode(),
            quote(secret, safe="").encode(),
            json.dumps(secret)[1:-1].encode(),
            basic.encode(),
        }
        for where, data in said.items()
        if spelling in data
    ]
    assert not found
    assert not [where for where, data in said.items() if basic.encode() in data]
    for kept in (directory / "tls" / "tls.key", directory / "bindings/secret-users/ada"):
        for line in kept.read_text().splitlines():
            assert len(line) < 20 or line.startswith("---") or line.encode() not in said["output"]


def get(port: int, path: str, authorization: str) -> bytes:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if authorization:
        asked.add_header("authorization", authorization)
    asked.add_header("x-request-timeout-ms", "3000")
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:
            return b"%d %b" % (reply.status, reply.read())
    except urllib.error.HTTPError as error:
        return b"%d %b %b" % (error.code, str(error.headers).encode(), error.read())
