"""The list that a warm parent imports names what exists, and holds what a process would import when it starts."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.service.preload import MODULES


@pytest.mark.parametrize("name", MODULES)
def test_every_name_imports(name: str) -> None:
    importlib.import_module(name)


SYSTEM = """
from msgspec import Struct
from sampan import Application, Cache, Config, Database, Every, Service, Topic

class Placed(Struct):
    id: int

class Settings(Struct):
    rate: float = 0.5

db, prices, placed = Database("work", engine="mysql"), Cache("prices"), Topic("placed", Placed)
users = Service("users", asgi="web:app")
web = Service("web", asgi="web:app", calls=[users], background=[Every(60, "web:work")], uses=[
    db.read_write(), prices.read_write(), placed.publish(), placed.subscribe("web:on"), Config("settings", Settings)])
app = Application("p", services=[web, users])
"""
WEB = """
from fastapi import FastAPI
from system import Placed
app = FastAPI()
async def on(event: Placed) -> None: ...
async def work() -> None: ...
"""
LATER = """
import sys
import sampan.service.preload
before = set(sys.modules)
from sampan.service.main import Runner
from sampan.service.process import Process, load_application
app = load_application()
process = Process(app.service("web"))
process.bind(app.services)
Runner(process, app.service("web"), app)
print(sorted(n for n in set(sys.modules) - before if n.partition(".")[0] not in ("system", "web")))
"""


def test_a_fork_of_a_warm_parent_has_next_to_nothing_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "system.py").write_text(SYSTEM)
    (tmp_path / "web.py").write_text(WEB)
    for name, value in {
        "APP": "system:app",
        "DATABASE_WORK_URI": "mysql://u:p@127.0.0.1:1/x",
        "CACHE_PRICES_URI": "redis://127.0.0.1:1",
        "MESSAGING_URI": "nats://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(f"SAMPAN_{name}", value)
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", LATER], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
