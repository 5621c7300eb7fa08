"""Backups that a database is declared with: compiled to a CronJob, and run as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sampan.compile import compile_application
from sampan.model import Application, Backup, Bucket, Database, Service

SYSTEM = """
from sampan import Application, Backup, Bucket, Database, Service

archive = Bucket("archive")
db = Database("order-book", engine="sqlite", backup=Backup(archive, schedule="5 4 * * *", keep=2))
app = Application("x", services=[Service("web", asgi="system:asgi", uses=[db.read_write()])])

async def asgi(scope, receive, send): ...
"""


def test_it_is_a_cron_job_that_may_read_the_database_and_write_the_bucket() -> None:
    archive = Bucket("archive")
    database = Database("order-book", backup=Backup(archive, schedule="5 4 * * *"))
    service = Service("web", asgi="tests.service.data.test_scheduled:SYSTEM", uses=[database.read_write()])
    app = Application("x", services=[service])
    objects = compile_application(app, "dev", images=lambda name: f"x/{name}:1", reference="system:app")
    (cron,) = [found for found in objects if found["kind"] == "CronJob"]
    assert (cron["metadata"]["name"], cron["spec"]["schedule"]) == ("backup-order-book", "5 4 * * *")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["sampan", "run", "backup-order-book"]
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {"/bindings/database-order-book", "/bindings/bucket-archive"} <= mounts


def test_its_run_keeps_the_newest(tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "system.py").write_text(SYSTEM)
    with sqlite3.connect(tmp_path / "d.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    connection.close()
    place = tmp_path / "archive"
    place.mkdir()
    for day in (1, 2, 3):
        (place / f"order-book-2025010{day}T000000Z.sampan-backup").write_bytes(b"old")
    (place / "notes.txt").write_text("mine")
    environment = {
        **os.environ,
        "SAMPAN_APP": "system:app",
        "SAMPAN_DATABASE_ORDER_BOOK_URI": f"sqlite:///{tmp_path}/d.db",
        "SAMPAN_BUCKET_ARCHIVE_URI": f"file://{place}",
    }
    command = [sys.executable, "-m", "sampan", "run", "backup-order-book"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(path.name for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    assert len(names) == 3
    assert names[0] == "notes.txt"
    assert names[1] == "order-book-20250103T000000Z.sampan-backup"
