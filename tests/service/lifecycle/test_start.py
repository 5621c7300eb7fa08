"""What a start leaves for later, and what it must not."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.imports import uncollected, without
from tests.service.lifecycle.test_preload import SYSTEM, WEB

BOUND = """
import sys
from sampan.service.main import Runner
from sampan.service.process import Process, load_application
app = load_application()
process = Process(app.service("web"))
process.bind(app.services)
Runner(process, app.service("web"), app)
print([name for name in sys.modules if name.partition(".")[0] in ("nats", "sqlalchemy", "watchfiles")])
"""
# an application that has most of what FastAPI writes into a document; told of it late, the document is the same
DOCUMENTED = """
import json, sys
from sampan.service.http.fastapi import start_sooner
if sys.argv[1] == "late":
    start_sooner()
from pydantic import BaseModel
from fastapi import Cookie, Depends, FastAPI, Header, Query
from fastapi.openapi import models
from fastapi.security import (
    APIKeyHeader, HTTPBearer, OAuth2AuthorizationCodeBearer, OAuth2PasswordBearer, OpenIdConnect
)

assert models.Schema.__pydantic_complete__ is models.OpenAPI.__pydantic_complete__ is (sys.argv[1] == "now")
assert "defer_build" not in BaseModel.model_config

class Item(BaseModel):
    name: str
    parts: list["Item"] = []

assert Item.__pydantic_complete__ and Item.model_rebuild(force=True)
app = FastAPI(servers=[{"url": "/v1"}], openapi_tags=[{"name": "a", "externalDocs": {"url": "http://a.test"}}])
back = FastAPI().router

@back.post("{$callback_url}", responses={404: {"model": Item}})
def told(item: Item) -> Item: ...

schemes = [
    APIKeyHeader(name="key"), HTTPBearer(), OpenIdConnect(openIdConnectUrl="http://a.test"),
    OAuth2PasswordBearer("token", scopes={"read": "Read"}), OAuth2AuthorizationCodeBearer("a", "t", refreshUrl="r"),
]

@app.post("/items", tags=["a"], callbacks=back.routes, dependencies=[Depends(one) for one in schemes])
def add(item: Item, agent: str = Header(), seen: str | None = Cookie(None, examples=["x"])) -> dict[str, Item]: ...

@app.put("/files/{number}", deprecated=True, openapi_extra={"x-own": 1})
def put(number: int, size: int = Query(gt=0, description="how big")) -> None: ...

print(json.dumps(app.openapi()))
assert ("pydantic.v1" in sys.modules) is (sys.argv[1] == "now")

from pydantic import v1

class Old(v1.BaseModel):
    name: str

try:
    @app.get("/old")
    def old(item: Old) -> None: ...
except Exception as error:
    print(type(error).__name__)
"""


def test_fastapi_started_sooner_writes_the_same_document_and_refuses_the_same(tmp_path: Path) -> None:
    now, late = [
        subprocess.run(
            [sys.executable, "-c", DOCUMENTED, when],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for when in ("now", "late")
    ]
    assert now.returncode == late.returncode == 0, now.stderr + late.stderr
    assert len(now.stdout) > 2000
    assert now.stdout == late.stdout
    assert now.stdout.split()[-1] == "PydanticV1NotSupportedError"


def test_nothing_that_a_start_can_do_without_is_imported_to_bind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "system.py").write_text(SYSTEM.replace(', engine="mysql"', ""))
    (tmp_path / "web.py").write_text(WEB)
    monkeypatch.setenv("SAMPAN_APP", "system:app")
    monkeypatch.setenv("SAMPAN_DATABASE_WORK_URI", "sqlite:///work.db")
    monkeypatch.setenv("SAMPAN_CACHE_PRICES_URI", "redis://127.0.0.1:1")
    monkeypatch.setenv("SAMPAN_MESSAGING_URI", "nats://127.0.0.1:1")
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", BOUND], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


async def test_what_is_hidden_is_hidden_from_one_thread_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sampan_hidden.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with without("sampan_hidden"):
        with pytest.raises(ModuleNotFoundError, match="sampan_hidden"):
            __import__("sampan_hidden")
        await asyncio.to_thread(__import__, "sampan_hidden")
        __import__("sampan_hidden")  # it is there now
    monkeypatch.delitem(sys.modules, "sampan_hidden")
    __import__("sampan_hidden")


def test_garbage_is_collected_again_afterwards() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    try:
        gc.disable()
        with uncollected():
            pass
        assert not gc.isenabled(), "whoever switched it off wants it off"
    finally:
        gc.enable()
        gc.unfreeze()
