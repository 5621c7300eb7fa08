"""PostgreSQL as its container image starts it: `python -m ... PROGRAM [postgres options]`.

First start: `initdb` with POSTGRES_PASSWORD (given through a pipe), then POSTGRES_DB. As root it runs as nobody, for
PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sampan.cluster.kubelet.entrypoints.common import address, quoted, secret, unprivileged


def main() -> None:
    server, options = sys.argv[1], sys.argv[2:]
    home = Path(server).resolve().parent
    data = Path(os.environ.get("PGDATA") or "/var/lib/postgresql/data")
    data.mkdir(parents=True, exist_ok=True)
    if (owner := unprivileged()) is not None:
        os.chown(data, *owner)
        os.setgroups([])
        os.setgid(owner[1])
        os.setuid(owner[0])
    if not (data / "PG_VERSION").exists():
        initialise(home, data)
    # Without a socket in the file system where its path would be longer than unix(7) allows.
    sockets = str(data) if len(str(data)) < 80 else ""
    command = [server, "-D", str(data), "-h", address(), "-p", "5432", "-k", sockets, *options]
    os.execv(server, command)  # noqa: S606


def initialise(home: Path, data: Path) -> None:
    user = secret("POSTGRES_USER") or "postgres"
    password = secret("POSTGRES_PASSWORD")
    trust = os.environ.get("POSTGRES_HOST_AUTH_METHOD") == "trust"
    if not (password or trust):
        sys.exit("set POSTGRES_PASSWORD, or POSTGRES_HOST_AUTH_METHOD=trust")
    read, write = os.pipe()
    os.write(write, (password or "unused").encode() + b"\n")
    os.close(write)
    method = "trust" if trust else "scram-sha-256"
    command = [
        str(home / "initdb"), "-D", str(data), "-U", user, f"--pwfile=/dev/fd/{read}", f"--auth-host={method}",
        "--auth-local=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--no-instructions",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=[read], check=False)
    os.close(read)
    if done.returncode:
        sys.exit(f"initdb failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    with (data / "pg_hba.conf").open("a") as file:
        file.write(f"host all all all {method}\n")
    database = secret("POSTGRES_DB") or user
    if database != "postgres":
        name = database.replace('"', '""')
        single = [str(home / "postgres"), "--single", "-D", str(data), "postgres"]
        done = subprocess.run(single, input=f'CREATE DATABASE "{name}"\n', capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"database {quoted(database)} cannot be made: {done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
