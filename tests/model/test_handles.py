"""Handles: inert until bound, clients afterwards."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from sampan import Bucket, Cache, Config, Database, Grant, NotBound, Secret, Service, Topic
from sampan.model import Location


@dataclass
class Placed:
    id: int = 0


class FakeDatabase:
    def __init__(self) -> None:
        self.log: list[str] = []

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        self.log.append("open")
        try:
            yield self
        finally:
            self.log.append("close")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        try:
            yield self
        except BaseException:
            self.log.append("rollback")
            raise
        self.log.append("commit")


def test_a_handle_knows_where_it_was_declared() -> None:
    line = sys._getframe().f_lineno + 1
    db = Database("users")
    assert db.location == Location(__file__, line)
    assert db.location.source == 'db = Database("users")'
    grant = db.read_write()
    assert grant.location.line == line + 3


def test_names_of_bindings_follow_the_contract() -> None:
    assert Database("users").variable == "SAMPAN_DATABASE_USERS_URI"
    assert Cache("price-list").variable == "SAMPAN_CACHE_PRICE_LIST_URI"
    assert Topic("placed", Placed).directory == "messaging"
    assert Topic("placed", Placed).variable == "SAMPAN_MESSAGING_URI"
    assert Secret("stripe").directory == "secret-stripe"
    assert Service("users").variable == "SAMPAN_SERVICE_USERS_URL"


async def test_using_a_handle_that_is_not_bound_says_how_to_bind_it() -> None:
    with pytest.raises(
        NotBound, match=r"Cache\('prices'\), declared at .*test_handles.py:\d+.*SAMPAN_CACHE_PRICES_URI"
    ):
        await Cache("prices").get("x")
    with pytest.raises(NotBound, match="SAMPAN_MESSAGING_URI"):
        await Topic("placed", Placed).publish(Placed())
    with pytest.raises(NotBound, match="sampan serve"):
        Secret("stripe")["key"]
    with pytest.raises(NotBound, match=r"`calls`"):
        await Service("users").client.get("/")
    with pytest.raises(NotBound):
        async with Database("users").transaction():
            pass
    with pytest.raises(NotBound):
        Config("checkout", Placed).value  # noqa: B018
    with pytest.raises(NotBound):
        async for _ in Bucket("photos").list():
            pass


shared = Database("shared")


async def test_a_session_is_a_dependency_of_fastapi() -> None:
    db, bound = shared, FakeDatabase()
    db.bind(bound)
    assert inspect.isasyncgenfunction(db.session)
    assert not inspect.signature(db.session).parameters
    app = FastAPI()

    @app.get("/")
    async def read(session: Annotated[Any, Depends(shared.session)]) -> bool:
        return session is bound and bound.log == ["open"]

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "http_version": "1.1"}
    await app(scope, receive, send)
    assert sent[1]["body"] == b"true"
    assert bound.log == ["open", "close"]
    db.bind(None)


async def test_a_transaction_commits_or_rolls_back() -> None:
    db = Database("users")
    bound = FakeDatabase()
    db.bind(bound)
    async with db.transaction() as session:
        assert session is bound  # type: ignore[comparison-overlap]
    with pytest.raises(ValueError, match="no"):
        async with db.transaction():
            raise ValueError("no")
    assert bound.log == ["commit", "rollback"]


async def test_publish_is_a_grant_without_an_event_and_a_call_with_one() -> None:
    topic = Topic("placed", Placed)
    assert isinstance(topic.publish(), Grant)
    sent: list[tuple[Any, Any]] = []

    class Bound:
        async def publish(self, event: Any, session: Any = None) -> None:
            sent.append((event, session))

    topic.bind(Bound())
    assert isinstance(topic.publish(), Grant)
    await topic.publish(Placed(1))
    assert sent == [(Placed(1), None)]


IMPORTED = """
import sys
import sampan
from sampan import Application, Database, Service
heavy = {"asyncio", "aiohttp", "sqlalchemy", "fastapi", "starlette", "yaml", "pydantic"} & sys.modules.keys()
print(*heavy)
"""


def test_importing_the_model_loads_no_framework() -> None:
    """Its time is a benchmark (`compile`)."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == []
