"""The code of the guide runs, in a process of its own, beside the modules it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs/guides/model.md"
MODULES = {
    "orders": "app = object()",
    "pricing": "app = object()",
    "mailer": "async def on_placed(event): ...",
    "jobs": "async def cleanup(): ...",
}


def test_the_guide_runs(tmp_path: Path) -> None:
    package = tmp_path / "bookshop"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(text + "\n")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    script = tmp_path / "guide.py"
    script.write_text("\n\n".join(blocks))
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
