"""MariaDB on a free port, with the user `sampan` who may do all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers.base import Server, free_port, until

PASSWORD = "s3cret/Pa55:word"


class MariaDB(Server):
    """`uri` names no database. It listens before it has read its users, so `start` waits for them."""

    def start(self) -> None:
        super().start()
        until(self.answers, 30, "MariaDB knows its users")

    def answers(self) -> bool:
        import asyncio
        import threading

        import asyncmy

        found: list[bool] = []

        async def look() -> None:
            try:
                connection = await asyncmy.connect(
                    host="127.0.0.1", port=self.port, user="sampan", password=PASSWORD, connect_timeout=5
                )
                await connection.ensure_closed()
                found.append(True)
            except Exception:
                found.append(False)

        thread = threading.Thread(target=lambda: asyncio.run(look()))  # a loop of this thread's may be running
        thread.start()
        thread.join()
        return found == [True]


def start_mariadb(directory: Path, options: Sequence[str] = ()) -> MariaDB:
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    program, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if program is None or install is None:
        pytest.skip("mariadbd is missing: apt-get install mariadb-server-core mariadb-client-core")
    data, port = directory / "mysql", free_port()
    user = ["--user=root"] if os.geteuid() == 0 else []
    setup = directory / "setup.sql"
    setup.write_text(
        f"CREATE USER IF NOT EXISTS sampan@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO sampan@'%';\n"
    )
    setup.chmod(0o600)
    subprocess.run(
        [
            *(install, "--no-defaults", f"--datadir={data}", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", *user),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    command = [
        *(program, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", *user),
        *(f"--socket={directory / 'm.sock'}", "--innodb-buffer-pool-size=32M", "--skip-name-resolve"),
        *(f"--init-file={setup}", f"--pid-file={directory / 'm.pid'}", "--innodb-flush-log-at-trx-commit=0"),
        *options,
    ]
    uri = f"mysql://sampan:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"
    return MariaDB(command, port, directory / "mariadb.log", uri)
