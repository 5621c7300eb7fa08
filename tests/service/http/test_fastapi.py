"""FastAPI, relieved of what it need not do, answers as it does by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# an application that has most of what FastAPI writes into a document; told of it late, the document is the same
DOCUMENTED = """
import json, sys
from sampan.service.http.fastapi import relieve
if sys.argv[1] == "late":
    relieve()
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


# what a request may ask of dependencies, parameters and the answer they share
ANSWERED = """
import asyncio, json, sys
from typing import Annotated, Any
from sampan.service.http.fastapi import relieve
if sys.argv[1] == "late":
    relieve()
from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Header, Query, Request, Response, WebSocket

app = FastAPI()
done = []

class Odd:  # metadata without a hash
    __hash__ = None

def counted(request: Request, response: Response) -> int:
    response.headers["x-times"] = request.query_params.get("times", "none")
    response.headers.append("x-more", "1")
    return 1

def kept(response: Response, one: int = Depends(counted)) -> int:
    response.set_cookie("kept", str(one))
    return one + 1

@app.get("/plain", status_code=203)
async def plain() -> dict[str, int]:
    return {"a": 1}

@app.get("/made", status_code=201)
def made(response: Response, behind: BackgroundTasks, two: int = Depends(kept)) -> Any:
    behind.add_task(done.append, two)
    if two > 1:
        response.status_code = 202
    return {"two": two}

@app.get("/own")
def own(two: int = Depends(kept)) -> Response:
    return Response(b"own", headers={"x-own": "1"})

@app.get("/many")
def many(
    one: int = 0, some: list[int] = Query([]), odd: Annotated[set[str], Odd(), Query()] = set(),
    either: list[int] | None = Query(None), x_tag: list[str] = Header([]), seen: str | None = Cookie(None),
) -> Any:
    return [one, some, sorted(odd), either, x_tag, seen]

@app.websocket("/socket")
async def socket(socket: WebSocket, some: list[int] = Query([])) -> None:
    await socket.accept()
    await socket.send_json([some, socket.query_params.multi_items()])
    await socket.close()

async def ask(target: str, *headers: tuple[bytes, bytes], kind: str = "http") -> None:
    path, _, query = target.partition("?")
    sent = []
    scope = {"type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "path": path,
             "raw_path": path.encode(), "query_string": query.encode(), "headers": list(headers), "root_path": "",
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "subprotocols": [], "state": {}}
    if kind == "http":
        scope["method"] = "GET"
    asked = [{"type": "websocket.connect"}] if kind == "websocket" else [{"type": "http.request", "body": b""}]

    async def receive():
        return asked.pop() if asked else await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    print(target, sent, done)

async def main() -> None:
    for _ in range(2):
        await ask("/plain")
        await ask("/plain?a=1")
        await ask("/made")
        await ask("/made?times=2")
        await ask("/own?times=3")
        await ask("/many")
        tags = [(b"x-tag", b"e"), (b"x-tag", b"f"), (b"cookie", b"seen=g")]
        await ask("/many?one=1&some=2&some=3&odd=c&odd=d&either=4", *tags)
        await ask("/many?one=x&some=y")
        await ask("/none")
        await ask("/socket", kind="websocket")
        await ask("/socket?some=1&some=2", kind="websocket")
    print("solve_dependencies", sys.modules["fastapi.routing"].solve_dependencies.__code__.co_filename)

asyncio.run(main())
"""


def both(script: str, directory: Path) -> list[str]:
    """What a script prints that relieves FastAPI, and what it prints when it does not."""
    now, late = [
        subprocess.run(
            [sys.executable, "-c", script, when], cwd=directory, capture_output=True, text=True, timeout=60, check=False
        )
        for when in ("now", "late")
    ]
    assert now.returncode == late.returncode == 0, now.stderr + late.stderr
    return [now.stdout, late.stdout]


def test_it_writes_the_same_document_and_refuses_the_same_models(tmp_path: Path) -> None:
    now, late = both(DOCUMENTED, tmp_path)
    assert len(now) > 2000
    assert now == late
    assert now.split()[-1] == "PydanticV1NotSupportedError"


def test_it_answers_the_same(tmp_path: Path) -> None:
    now, late = [printed.splitlines() for printed in both(ANSWERED, tmp_path)]
    assert now[:-1] == late[:-1]
    assert len(now) == 23
    assert now[-1].endswith("utils.py"), "FastAPI's own"
    assert late[-1].endswith("sampan/service/http/fastapi.py"), "it was not relieved"
