"""New, empty databases on each engine, for the suites of the database port."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from sampan.service.bindings import Binding
from sampan.service.data.database import SqlDatabase

ENGINES = ("sqlite", "mariadb", "postgresql")


def binding(uri: str, **values: str) -> Binding:
    return Binding("database-test", uri.partition(":")[0], uri, values)


def new_database(kind: str, request: pytest.FixtureRequest, directory: Path) -> str:
    """The URI of a database that nobody else has."""
    name = f"t{os.urandom(6).hex()}"
    if kind == "sqlite":
        return f"sqlite:///{directory / name}.db"
    server: Any = request.getfixturevalue(kind)
    uri = server.uri if kind == "postgresql" else f"{server.uri}/mysql"
    asyncio.run(_create(uri, name))
    return f"{uri.rpartition('/')[0]}/{name}"


async def _create(uri: str, name: str) -> None:
    admin = SqlDatabase("admin", binding(uri))
    await admin.execute(f"CREATE DATABASE {name}" + " CHARACTER SET utf8mb4" * uri.startswith("mysql"))
    await admin.close()
