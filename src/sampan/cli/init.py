"""`sampan init`: a small complete project: an HTTP service with a database, an event, its consumer, and tests."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from sampan.cli.failure import Failure

_FILES = {
    "pyproject.toml": """\
[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["sampan[service]", "fastapi"]

[dependency-groups]
dev = ["sampan[cluster]", "pytest"]

[tool.sampan]
app = "{package}.system:{package}"
""",
    "README.md": """\
# {name}

    sampan up                                    # runs it; Ctrl-C stops it
    curl -d '{{"text": "hello"}}' -H 'content-type: application/json' http://127.0.0.1:8080/api/notes
    curl http://127.0.0.1:8080/api/notes
    pytest                                       # brings up its own and tries it
    sampan compile --env prod -o deploy          # the same system for any Kubernetes

| Where | What |
|---|---|
| `{package}/system.py` | the declaration: what there is, and who uses what |
| `{package}/notes.py` | an ordinary FastAPI application, and a handler of events |
| `{package}/migrations/` | Alembic revisions of its database |
| `tests/` | the whole system, started and tried |
""",
    ".gitignore": ".sampan/\n.venv/\n__pycache__/\n",
    "{package}/__init__.py": "",
    "{package}/system.py": '''\
"""What {name} is made of. Importing this starts nothing."""

from msgspec import Struct
from sampan import Application, Database, Environment, Service, Topic


class NoteWritten(Struct):
    id: int
    text: str


notes_db = Database("notes", engine="sqlite", migrations="{package}/migrations")
written = Topic("note-written", NoteWritten)

notes = Service(
    "notes",
    asgi="{package}.notes:app",
    uses=[
        notes_db.read_write(),
        written.publish(),
        written.subscribe("{package}.notes:on_written", group="counter"),
    ],
    public="/api/notes",
)

{package} = Application(
    "{name}",
    services=[notes],
    environments=[
        Environment("dev"),
        # a file cannot be shared by the pods of a real cluster
        Environment("prod", host="{name}.example.com", values={{notes_db: {{"engine": "postgresql"}}}}),
    ],
)
''',
    "{package}/notes.py": '''\
"""The HTTP interface, and what happens after a note is written."""

import logging
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from {package}.system import NoteWritten, notes_db, written

app = FastAPI()
log = logging.getLogger(__name__)


class NewNote(BaseModel):
    text: str


@app.get("/api/notes")
async def listed(session: Annotated[AsyncSession, Depends(notes_db.session)]) -> list[dict[str, Any]]:
    rows = await session.execute(text("SELECT id, text FROM notes ORDER BY id DESC LIMIT 100"))
    return [dict(row._mapping) for row in rows]


@app.post("/api/notes", status_code=201)
async def write(note: NewNote, session: Annotated[AsyncSession, Depends(notes_db.session)]) -> dict[str, Any]:
    statement = text("INSERT INTO notes (text) VALUES (:text) RETURNING id")
    number = (await session.execute(statement, {{"text": note.text}})).scalar_one()
    await written.publish(NoteWritten(number, note.text), session)  # with the row, or not at all
    await session.commit()
    return {{"id": number, "text": note.text}}


async def on_written(event: NoteWritten) -> None:
    log.info("note %d was written", event.id)
''',
    "tests/test_notes.py": '''\
"""The whole system, on a cluster of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the state of the running system is."""
    directory = tmp_path_factory.mktemp("state") / ".sampan"

    def sampan(command: str, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "sampan", command, *arguments, "--directory", directory], check=True)

    sampan("up", str(PROJECT), "--detach")
    yield directory
    sampan("down")


def call(state: Path, body: Any = None) -> Any:
    address = json.loads((state / "cluster.json").read_text())["ingress"]
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(address + "/api/notes", data, {{"content-type": "application/json"}}), timeout=10) as reply:
        return json.load(reply)


def test_a_note_is_kept(state: Path) -> None:
    written = call(state, {{"text": "buy rope"}})
    assert written["text"] == "buy rope"
    assert written in call(state)


def test_a_note_reaches_its_subscriber(state: Path) -> None:
    number = call(state, {{"text": "sell rope"}})["id"]
    command = [sys.executable, "-m", "sampan", "logs", "notes", "--directory", str(state)]
    deadline = time.monotonic() + 10
    while f"note {{number}} was written" not in subprocess.run(command, capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
''',
    "{package}/migrations/versions/0001_notes.py": '''\
"""The table of notes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text, nullable=False))


def downgrade() -> None:
    op.drop_table("notes")
''',
}


def init(arguments: argparse.Namespace) -> int:
    directory = Path(arguments.directory)
    name = re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")
    name = name if name[:1].isalpha() else f"app-{name}".rstrip("-")
    fields = {"name": name[:40].rstrip("-"), "package": name[:40].rstrip("-").replace("-", "_")}
    files = {path.format(**fields): content.format(**fields) if content else "" for path, content in _FILES.items()}
    taken = [path for path in files if (directory / path).exists()]
    if taken:
        raise Failure(f"{directory} already has {', '.join(taken)}; nothing was written", 2)
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    print(f"wrote {len(files)} files to {directory}")
    print("next: " + ("" if arguments.directory == "." else f"cd {directory} && ") + "sampan up")
    return 0
