"""A service of plain SQL, with outbox and inbox, does without SQLAlchemy and the 0.2 s of its import."""

import subprocess
import sys
from pathlib import Path

CODE = """
import asyncio, sys
import sampan.service.messaging.consumer, sampan.service.messaging.inbox, sampan.service.messaging.outbox
from sampan.service.bindings import Binding
from sampan.service.data.database import SqlDatabase

async def main():
    database = SqlDatabase("plain", Binding("plain", "sqlite", "sqlite:///" + sys.argv[1]))
    await database.ensure_tables()
    await database.check()
    assert await database.one(int, "SELECT count(*) FROM sampan_outbox") == 0
    assert "sqlalchemy" not in sys.modules
    async with database.session() as session:
        from sqlalchemy import text
        assert await session.scalar(text("SELECT count(*) FROM sampan_inbox")) == 0
    await database.close()

asyncio.run(main())
"""


def test_sqlalchemy_is_imported_by_the_first_session(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path / "plain.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
