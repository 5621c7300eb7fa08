"""The function of a job `backup-NAME`, which a database declared with `backup=` brings with it.

`backup_orders` of this module backs up the database `orders`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

log = logging.getLogger("sampan.backup")

_PREFIX = "backup_"


def __getattr__(name: str) -> Callable[[], Awaitable[None]]:
    if not name.startswith(_PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    async def run() -> None:
        await back_up_to_bucket(name.removeprefix(_PREFIX))

    return run


async def back_up_to_bucket(written: str) -> None:
    """Back up the database whose name is spelt `written` in an import string, and delete what is too old."""
    from sampan.service import bindings
    from sampan.service.data.backup import back_up
    from sampan.service.data.backup_store import surplus
    from sampan.service.process import StartError, load_application

    for database in load_application().databases:
        if database.name.replace("-", "_") == written and database.backup is not None:
            break
    else:
        raise StartError(f"no database {written!r} is declared with backup=")
    bucket, keep = database.backup.to, database.backup.keep
    with tempfile.TemporaryDirectory(prefix="sampan-backup-") as made:
        binding = bindings.find(database.directory, database.variable)
        path, manifest = await back_up(database.name, binding, Path(made))
        await bucket.put(path.name, path)
    old = surplus([found.key async for found in bucket.scan(f"{database.name}-")], database.name, keep)
    for key in old:
        await bucket.delete(key)
    rows = sum(table.rows for table in manifest.tables.values())
    log.info("backed up", extra={"database": database.name, "key": path.name, "rows": rows, "deleted": len(old)})
