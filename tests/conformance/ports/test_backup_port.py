"""Backup and restore, on every engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.service.bindings import Binding
from sampan.service.data.backup import BackupError, back_up, restore, unpack
from sampan.service.data.backup_store import surplus
from sampan.service.data.database import SqlDatabase
from tests.conformance.ports.databases import binding

SCHEMA = {
    "sqlite": [
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, photo BLOB, score NUMERIC)",
        "CREATE TABLE pets (id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES people (id), name TEXT)",
        "CREATE VIEW names AS SELECT name FROM people",
    ],
    "mysql": [
        "CREATE TABLE people (id INTEGER PRIMARY KEY AUTO_INCREMENT, name VARCHAR(200) COMMENT 'a; b\n:c', photo BLOB,"
        " score DECIMAL(20,4), at TIMESTAMP NULL, took TIME(3), doc JSON, upper_ VARCHAR(200) AS (upper(name)) STORED)",
        "CREATE TABLE pets (id INTEGER PRIMARY KEY, person INTEGER NOT NULL, name VARCHAR(99),"
        " CONSTRAINT owner FOREIGN KEY (person) REFERENCES people (id))",
        "CREATE VIEW names AS SELECT name FROM people",
        "CREATE TRIGGER named BEFORE INSERT ON pets FOR EACH ROW SET NEW.name = coalesce(NEW.name, 'nobody; ''x''')",
        "CREATE PROCEDURE many() SELECT count(*) FROM people",
    ],
    "postgresql": [
        "CREATE TABLE people (id SERIAL PRIMARY KEY, name TEXT, photo BYTEA, score NUMERIC(20,4))",
        "CREATE TABLE pets (id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES people (id), name TEXT)",
        "CREATE VIEW names AS SELECT name FROM people",
    ],
}


@pytest.fixture
async def db(database_uri: str) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase("people", binding(database_uri))
    for statement in SCHEMA[database.dialect]:
        await script(database, statement)
    rows = [
        {"id": n, "name": f"n {n} \\ ' \" \n ✓ 𝄞 :x ?", "photo": bytes([n % 256, 0, 39, 92]), "score": "1.2500"}
        for n in range(1, 500)
    ]
    score = "CAST(:score AS NUMERIC(20,4))" if database.dialect == "postgresql" else ":score"
    await database.execute_many(
        f"INSERT INTO people (id, name, photo, score) VALUES (:id, :name, :photo, {score})", rows
    )
    if database.dialect == "mysql":
        await database.execute(
            "UPDATE people SET at = '2026-01-02 03:04:05', took = '-12:00:01.5', doc = '{\"a\": [1]}'"
        )
    await database.execute("INSERT INTO pets (id, person, name) VALUES (0, 7, 'cat')")
    yield database
    await database.close()


async def script(database: SqlDatabase, statement: str) -> None:
    """As it is: a trigger's body has what looks like parameters."""
    async with database.begin() as tx:
        slot: Any = tx._enter()
        if database.dialect == "mysql":
            await slot.raw.query(statement)
        else:
            await slot.raw.execute(statement)


async def everything(database: SqlDatabase) -> list[Any]:
    people = await database.all(tuple, "SELECT * FROM people ORDER BY id")
    return [
        people,
        await database.all(tuple, "SELECT * FROM pets"),
        await database.value(int, "SELECT count(*) FROM names"),
    ]


async def test_what_was_saved_comes_back(db: SqlDatabase, database_uri: str, tmp_path: Path) -> None:
    before = await everything(db)
    path, manifest = await back_up("people", binding(database_uri), tmp_path / "to")
    assert {name: table.rows for name, table in manifest.tables.items() if "p" in name} == {
        **dict.fromkeys([name for name in manifest.tables if name.endswith("people")], 499),
        **dict.fromkeys([name for name in manifest.tables if name.endswith("pets")], 1),
    }
    assert path.stat().st_mode & 0o077 == 0
    assert (await restore("people", binding(database_uri), path, verify=True)).sha256 == manifest.sha256

    await db.execute("DELETE FROM pets")
    await db.execute("DELETE FROM people WHERE id > 3")
    with pytest.raises(BackupError, match=r"is not empty .* --replace"):
        await restore("people", binding(database_uri), path)
    await restore("people", binding(database_uri), path, replace=True)
    fresh = SqlDatabase("people", binding(database_uri))
    assert await everything(fresh) == before
    if db.dialect == "mysql":
        await fresh.execute("INSERT INTO pets (id, person) VALUES (9, 1)")
        assert await fresh.value(str, "SELECT name FROM pets WHERE id = 9") == "nobody; 'x'"
        assert not [
            n
            for n in await fresh.all(str, "SELECT schema_name AS n FROM information_schema.schemata")
            if "_restore_" in n and (db.url.database or "") in n
        ]
    await fresh.close()


async def test_a_backup_is_of_one_moment(db: SqlDatabase, database_uri: str, tmp_path: Path) -> None:
    stop = False

    async def write() -> None:
        number = 1000
        while not stop:
            async with db.begin() as tx:  # always a person and a pet together
                await tx.execute("INSERT INTO people (id, name) VALUES (:id, 'x')", id=number)
                await tx.execute("INSERT INTO pets (id, person, name) VALUES (:id, :id, 'x')", id=number)
            number += 1

    writer = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    _, manifest = await back_up("people", binding(database_uri), tmp_path)
    stop = True
    await writer
    rows = {name.rpartition(".")[2]: table.rows for name, table in manifest.tables.items()}
    assert rows["people"] - 499 == rows["pets"] - 1


async def test_a_damaged_file_is_refused_before_anything_is_touched(
    db: SqlDatabase, database_uri: str, tmp_path: Path
) -> None:
    path, _ = await back_up("people", binding(database_uri), tmp_path)
    before = await everything(db)
    whole = path.read_bytes()
    middle = whole.index(b"dump") + 1500
    for number, damaged in enumerate(
        (
            whole[:middle],
            whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            b"not a backup",
            b"",
        )
    ):
        broken = tmp_path / f"broken{number}"
        broken.write_bytes(damaged)
        with pytest.raises(BackupError, match="damaged"):
            await restore("people", binding(database_uri), broken, replace=True)
    with pytest.raises(BackupError, match="there is no file"):
        await restore("people", binding(database_uri), tmp_path / "none")
    assert await everything(db) == before


async def test_a_restore_that_fails_leaves_what_was_there(
    db: SqlDatabase, database_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manifest = await back_up("people", binding(database_uri), tmp_path)
    before = await everything(db)
    next(table for name, table in manifest.tables.items() if name.endswith("pets")).rows += 1
    monkeypatch.setattr("sampan.service.data.backup.unpack", lambda path, dump: unpack(path, dump) and manifest)
    with pytest.raises(BackupError, match="pets has 1 rows"):
        await restore("people", binding(database_uri), path, replace=True)
    assert await everything(db) == before


async def test_into_another_engine_is_refused(database_uri: str, db: SqlDatabase, tmp_path: Path) -> None:
    path, _ = await back_up("people", binding(database_uri), tmp_path)
    other = f"sqlite:///{tmp_path}/o.db" if db.dialect != "sqlite" else "mysql://u:p@127.0.0.1:1/x"
    with pytest.raises(BackupError, match="is of"):
        await restore("people", Binding("o", other.partition(":")[0], other), path)


async def test_commands_keep_the_password_out_of_sight(db: SqlDatabase, database_uri: str, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "SAMPAN_DATABASE_PEOPLE_URI": database_uri, "HOME": str(tmp_path)}

    def sampan(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sampan", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "s3cret" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    for _ in range(2):
        sampan("backup", "people", "--to", "kept", "--keep", "1")
        await asyncio.sleep(1.01)  # names have seconds
    (path,) = (tmp_path / "kept").iterdir()
    sampan("backup", "people", "--to", f"file://{tmp_path}/kept")
    assert "2 tables, 500 rows" in sampan("restore", "people", str(path), "--verify")
    assert "is not empty" in sampan("restore", "people", str(path), code=1)
    sampan("restore", "people", str(path), "--replace")
    assert "no cluster runs" in sampan("backup", "others", code=2)


def test_which_backups_go() -> None:
    names = [f"a-2026010{n}T000000Z.sampan-backup" for n in range(1, 6)]
    others = ["a-b-20260101T000000Z.sampan-backup", "b-20260101T000000Z.sampan-backup", "notes.txt"]
    assert surplus([*reversed(names), *others], "a", 2) == names[:3]
    assert surplus(names, "a", 0) == []
