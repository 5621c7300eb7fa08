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
