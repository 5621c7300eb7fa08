"""docs/guides/service.md, run: its files make a system, its promises are kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[3] / "docs/guides/service.md"


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, text in (("bindings/secret-signing/key", "s1gning-key"), ("config/limits/length", "40")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_guide(system: Path, serve: Any, nats_server: Any, redis_server: Any) -> None:
    common = {
        "SAMPAN_APP": "notes.system:notes",
        "SAMPAN_DATABASE_NOTES_URI": f"sqlite:///{system / 'notes.db'}",
        "SAMPAN_DATABASE_COUNTS_URI": f"sqlite:///{system / 'counts.db'}",
        "SAMPAN_MESSAGING_URI": nats_server.uri,
        "SAMPAN_CACHE_RECENT_URI": redis_server.uri,
    }

    def command(module: str, function: str, name: str) -> int:
        program = f"import sys; from sampan.service.{module} import {function}; sys.exit({function}({name!r}))"
        return subprocess.run(
            [sys.executable, "-c", program], cwd=system, env={**os.environ, **common}, timeout=60, check=False
        ).returncode

    assert command("migrate", "migrate", "notes") == 0
    assert command("migrate", "migrate", "counts") == 0
    counting = serve("counting", **common)
    writing = serve("writing", **common, SAMPAN_SERVICE_COUNTING_URL=f"http://127.0.0.1:{counting.port}").ready()
    counting.ready()

    def post(author: str, body: str) -> int:
        status: int = writing.http("/api/notes", json.dumps({"author": author, "body": body}).encode())[0]
        return status

    assert post("ada", "x" * 41) == 422
    assert [post("ada", "hello"), post("ada", "again"), post("nobody", "gone")] == [201, 201, 201]
    assert json.loads(writing.http("/api/notes/1")[1]) == {"author": "ada", "body": "hello"}
    give_up = time.monotonic() + 20
    while json.loads(writing.http("/api/authors/ada")[1]) != {"notes": 2}:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert command("job", "run_job", "purge") == 0
    assert writing.http("/api/notes/3")[0] == 404
    metrics = writing.http("/metrics")[1].decode()
    assert 'http_requests_total{method="GET",path="/api/notes/{note_id}",status="404"} 1' in metrics
    assert 'client_requests_total{service="counting",method="GET",status="200"}' in metrics
    assert [writing.stop(), counting.stop()] == [0, 0]
    assert "s1gning-key" not in writing.output()
