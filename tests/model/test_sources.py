"""What is known of modules without importing them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sampan.model.imports import check_handler, check_import
from sampan.model.sources import find_module, local_source_files

FILES = {
    "boat/__init__.py": "",
    "boat/app.py": "from boat import hull\nfrom .sails import main as jib\nimport json\napp = 1\nraise SystemExit\n",
    "boat/hull.py": "def f():\n    import boat.keel\n",
    "boat/keel.py": "",
    "boat/sails/__init__.py": "from . import main\n",
    "boat/sails/main.py": "from ..events import *\n",
    "boat/events.py": "class Placed: ...\nclass Paid: ...\n",
    "boat/unrelated.py": "",
    "boat/broken.py": "def (\n",
    "boat/handlers.py": (
        "from boat.events import Placed, Paid\nfrom boat.events import Placed as P\n"
        "async def on_placed(event: Placed, session): ...\n"
        "async def on_paid(event: 'Paid'): ...\n"
        "async def aliased(event: P): ...\n"
        "async def untyped(event): ...\n"
        "async def empty(): ...\n"
        "def plain(event: Placed): ...\n"
        "try:\n    late = 1\nexcept Exception:\n    pass\n"
    ),
    "boat/magic.py": "def __getattr__(name): ...\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_source_files_are_the_import_graph_inside_the_project(project: Path) -> None:
    found = [str(path.relative_to(project)) for path in local_source_files("boat.app:app", project)]
    assert found == [
        "boat/__init__.py",
        "boat/app.py",
        "boat/events.py",
        "boat/hull.py",
        "boat/keel.py",
        "boat/sails/__init__.py",
        "boat/sails/main.py",
    ]


def test_nothing_is_imported(project: Path) -> None:
    assert find_module("boat.app") == project / "boat/app.py"
    assert check_import("boat.app:app") is None  # importing it would raise SystemExit
    assert not [name for name in sys.modules if name.partition(".")[0] == "boat"]


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("boat.app", "is not an import string", "package.module:attribute"),
        ("boat.ap:app", "names the module boat.ap, which does not exist", "did you mean boat.app?"),
        ("bot.app:app", "names the module bot.app, which does not exist", "searched for"),
        ("boat.app:ap", "names 'ap', which boat.app does not define", "did you mean 'app'?"),
        ("boat.broken:app", "has a syntax error", "broken.py:1"),
    ],
)
def test_import_strings_that_do_not_resolve(project: Path, text: str, message: str, remedy: str) -> None:
    wrong = check_import(text)
    assert wrong is not None
    assert message in wrong[0]
    assert remedy in wrong[1]


@pytest.mark.parametrize("text", ["boat.app:app.router", "boat.magic:anything", "boat.handlers:late", "boat:app"])
def test_import_strings_that_may_resolve(project: Path, text: str) -> None:
    assert check_import(text) is None


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        ("on_placed", None),
        ("aliased", None),
        ("untyped", None),
        ("on_paid", "takes Paid (line 4), while the topic carries Placed"),
        ("empty", "takes no event"),
        ("plain", "is not an async function"),
    ],
)
def test_handlers_take_the_event_of_their_topic(project: Path, handler: str, message: str | None) -> None:
    wrong = check_handler(f"boat.handlers:{handler}", type("Placed", (), {}))
    assert (wrong and wrong[0]) == message
