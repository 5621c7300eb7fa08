"""What is told of statements: spans, reports in development, the revision a service waits for."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sampan.model import Database, Pool
from sampan.service.bindings import Binding
from sampan.service.data.binding import add_replicas, replica_uris
from sampan.service.data.database import SqlDatabase
from sampan.service.data.pool import size_of
from sampan.service.data.reports import Reports
from sampan.service.migrate import Expected, bring_up_to_date, status
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, from_headers
from sampan.service.telemetry.metrics import Registry


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase("users", Binding("d", "sqlite", f"sqlite:///{tmp_path}/d.db"), registry=Registry())
    await database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    yield database
    await database.close()


@pytest.fixture
def request_context() -> Any:
    token = CURRENT.set(from_headers({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}))
    yield
    CURRENT.reset(token)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch, request_context: None) -> list[tracing.Span]:
    found: list[tracing.Span] = []
    monkeypatch.setattr(tracing, "emit", found.append)
    return found


async def test_spans_follow_the_conventions_and_have_no_values(db: SqlDatabase, spans: list[tracing.Span]) -> None:
    await db.first(dict, "SELECT id FROM users WHERE name = :name AND id <> 77", name="hush")
    async with db.session() as session:
        await session.execute(text("SELECT name FROM users WHERE name = :name"), {"name": "hush"})
    with pytest.raises(Exception, match="nowhere"):
        await db.execute("DELETE FROM nowhere WHERE name = 'hush'")
    first, second, third = [span for span in spans if "BEGIN" not in span.name]
    assert (first.name, second.name, third.name) == ("SELECT users", "SELECT users", "DELETE nowhere")
    assert first.kind == tracing.CLIENT
    assert first.attributes == {
        "db.system.name": "sqlite",
        "db.namespace": "d",
        "db.query.text": "SELECT id FROM users WHERE name = :name AND id <> ?",
        "db.operation.name": "SELECT",
        "db.collection.name": "users",
    }
    assert third.attributes["error.type"]
    assert third.error
    assert not any("hush" in str(span.attributes) + span.description for span in spans)


async def test_nothing_is_recorded_outside_a_trace(db: SqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "span", lambda *_: pytest.fail("a span was made"))
    assert await db.all(int, "SELECT id FROM users") == []


async def test_repeated_statements_are_reported_once_with_their_place(
    db: SqlDatabase, request_context: None, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry()
    db.core.observer.reports = Reports("users", db.core, registry)

    async def page() -> None:
        for number in range(30):
            await db.first(dict, "SELECT id FROM users WHERE id = :id", id=number)

    with caplog.at_level(logging.WARNING):
        await page()
        token = CURRENT.set(from_headers({}))
        await page()
        CURRENT.reset(token)
        async with db.session() as session:
            for number in range(12):
                await session.execute(text("SELECT name FROM users WHERE id = :id"), {"id": number})
    records = [record for record in caplog.records if "more than 10 times" in record.message]
    assert len(records) == 2
    assert all("test_observed.py:" in record.place for record in records)  # type: ignore[attr-defined]
    assert registry.counter("db_repeated_statements_total", "").value("users") == 3


async def test_slow_statements_are_reported_with_their_plan(
    db: SqlDatabase, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPAN_SLOW_STATEMENT_MS", "1")
    db.core.observer.reports = reports = Reports("users", db.core, Registry())
    sql = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < :most)"
        " SELECT count(*) + (SELECT count(*) FROM users) FROM c"
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await db.value(int, sql.replace("WITH", "SELECT * FROM (WITH") + ")", most=60_000)
        for task in list(reports._tasks):
            await task
    (record,) = [record for record in caplog.records if record.message == "slow statement"]
    assert any("users" in line for line in record.plan)  # type: ignore[attr-defined]
    assert "test_observed.py:" in record.place  # type: ignore[attr-defined]
    assert "60000" not in str(record.__dict__)


REVISION = 'revision = "{0}"\ndown_revision = {1!r}\n\n\ndef upgrade():\n    pass\n'


async def test_readiness_waits_for_the_revision_the_code_expects(
    db: SqlDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "migrations/versions"
    versions.mkdir(parents=True)
    (versions / "one.py").write_text(REVISION.format("0003", None))
    monkeypatch.chdir(tmp_path)
    db.expected = Expected("migrations", "users")
    with pytest.raises(RuntimeError, match="revision none, code expects 0003"):
        await db.check()
    await bring_up_to_date(db.engine, db.binding, tmp_path / "migrations")
    await db.check()
    (versions / "two.py").write_text(REVISION.format("0004", "0003"))
    newer = Expected("migrations", "users")
    with pytest.raises(RuntimeError, match="revision 0003, code expects 0004"):
        await newer.check(db)
    await bring_up_to_date(db.engine, db.binding, tmp_path / "migrations")
    await newer.check(db)
    (versions / "two.py").unlink()
    old = Expected("migrations", "users")
    await old.check(db)  # the code of the release before goes on serving


def test_status_of_a_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "migrations/versions").mkdir(parents=True)
    (tmp_path / "migrations/versions/one.py").write_text(REVISION.format("0003", None))
    (tmp_path / "systemx.py").write_text(
        "from sampan import Application, Database, Service\n"
        "db = Database('users', engine='sqlite', migrations='migrations')\n"
        "app = Application('x', services=[Service('s', asgi='a:b', uses=[db.read_write()])])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMPAN_APP", "systemx:app")
    monkeypatch.setenv("SAMPAN_DATABASE_USERS_URI", f"sqlite:///{tmp_path}/d.db")
    assert status("users") == 1
    assert "database users: at none, newest 0003: migration needed" in capsys.readouterr().out
    from sampan.service.migrate import migrate

    assert migrate("users") == 0
    assert status("users") == 0
    assert status("nobody") == 2


def test_pool_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 4 <= size_of(None) <= 10
    assert size_of(Pool(size=3)) == 3
    monkeypatch.setenv("SAMPAN_POOL_SIZE", "7")
    assert size_of(Pool(size=3)) == 7


def test_replicas_are_named_by_binding_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    binding = Binding("d", "postgresql", "postgresql://p/x", {"replica-uri": "postgresql://a/x", "username": "u"})
    add_replicas(binding, Database("users").variable)
    assert replica_uris(binding) == ["postgresql://a/x"]
    monkeypatch.setenv("SAMPAN_DATABASE_USERS_REPLICA_URI", "postgresql://b/x postgresql://c/x")
    add_replicas(binding, Database("users").variable)
    assert replica_uris(binding) == ["postgresql://b/x", "postgresql://c/x"]


async def test_reports_cost_little(db: SqlDatabase, request_context: None) -> None:
    """A guard against looking for the place at every statement; ten times what it takes here."""
    db.core.observer.reports = reports = Reports("users", db.core, Registry())
    statement = db.core.statements["SELECT id FROM users"]
    started = time.perf_counter()
    for _ in range(10_000):
        reports.saw(statement, 0.001)
    assert time.perf_counter() - started < 1.0
