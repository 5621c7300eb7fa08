"""The pages of the documentation are asked last, unless that could change an answer."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Host, Mount, Route, Router

from sampan.service.http.order import documentation_last

PAGES = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/users/{user_id}")
    async def user(user_id: int) -> int:
        return user_id

    return app


def paths(app: FastAPI) -> list[str]:
    return [getattr(route, "path", "") for route in app.router.routes]


def test_the_pages_are_asked_last_and_answer_as_before() -> None:
    app = application()
    app.mount("/files", Router())
    asked, before = TestClient(app), [TestClient(app).get(page).text for page in PAGES]
    documentation_last(app)
    assert paths(app) == ["/users/{user_id}", "/files", *PAGES]
    assert [asked.get(page).text for page in PAGES] == before
    assert asked.get("/users/42").json() == 42
    assert asked.post("/docs").status_code == 405


def catch_all(app: FastAPI) -> None:
    app.get("/{path:path}")(lambda path: path)


def included(app: FastAPI) -> None:
    router = APIRouter()
    router.get("/{name}")(lambda name: name)
    app.include_router(router)


def other_method(app: FastAPI) -> None:
    app.post("/docs")(lambda: "written")


def mounted(app: FastAPI) -> None:
    app.mount("/", Router())


def by_host(app: FastAPI) -> None:
    app.router.routes.append(Host("docs.example.com", Router()))


def of_their_own(app: FastAPI) -> None:
    class Special(Route): ...

    app.router.routes.append(Special("/special", lambda request: None))


@pytest.mark.parametrize("add", [catch_all, included, other_method, mounted, by_host, of_their_own])
def test_nothing_moves_where_another_route_might_answer_a_page(add: Any) -> None:
    app = application()
    add(app)
    before = paths(app)
    documentation_last(app)
    assert paths(app) == before


def test_other_applications_are_left_alone() -> None:
    plain = FastAPI(openapi_url=None)
    documentation_last(plain)
    assert paths(plain) == []
    documentation_last(Mount("/", Router()))
    documentation_last(lambda: None)
