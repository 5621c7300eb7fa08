"""docs/guides/data.md, run on every engine: its files make a system, its promises are kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[3] / "docs/guides/data.md"


def test_the_guide(tmp_path: Path, serve: Any, database_uri: str) -> None:
    for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {"SAMPAN_APP": "stock.system:stock", "SAMPAN_DATABASE_ITEMS_URI": database_uri}
    web = serve("web", **environment)

    def sampan(*words: str) -> int:
        command = [sys.executable, "-m", "sampan", *words]
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, check=False).returncode

    assert sampan("migrate", "items", "--status") == 1
    assert sampan("migrate", "items") == 0
    assert sampan("migrate", "items", "--status") == 0
    web.ready()

    def put(path: str) -> int:
        import urllib.request

        request = urllib.request.Request(f"http://127.0.0.1:{web.port}{path}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                status: int = reply.status
                return status
        except urllib.error.HTTPError as error:
            return error.code

    assert [put("/items/1/anchor"), put("/items/2/rope"), put("/items/3/rope")] == [200, 200, 409]
    assert json.loads(web.http("/items/1")[1]) == {"id": 1, "name": "anchor", "stock": 10}
    assert web.http("/items/9")[0] == 404
    assert web.http("/moves/1/2/4", b"")[0] == 200
    assert web.http("/moves/1/2/40", b"")[0] == 409
    assert [item["stock"] for item in json.loads(web.http("/items?least=1")[1])] == [6, 14]
    assert json.loads(web.http("/total")[1]) == 20
    metrics = web.http("/metrics")[1].decode()
    assert 'db_client_operation_duration_seconds_count{database="items",operation="UPDATE"}' in metrics
    assert 'db_pool_connections{database="items",state="idle"}' in metrics
    assert web.stop() == 0
