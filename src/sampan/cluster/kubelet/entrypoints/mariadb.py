"""MariaDB or MySQL as its container image starts it: `python -m ... PROGRAM [mariadbd options]`.

First start: makes the data directory, from a template kept in the user's cache (its making costs a second, its copy
20 ms). Every start: the accounts that MARIADB_* / MYSQL_* variables ask for are statements the server reads from a
nameless file in memory before it accepts connections, so that no password is ever an argument or on a disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sampan.cluster.kubelet.entrypoints.common import address, quoted, secret

SMALL = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-method=fsync",
    "--innodb-buffer-pool-dump-at-shutdown=0",
    "--performance-schema=0",
    "--skip-name-resolve",
    "--max-connections=200",
)
TEMPORARY = ".tmp"
LONGEST_SOCKET = 107  # bytes of a path, unix(7)


def main() -> None:
    server, options = sys.argv[1], sys.argv[2:]
    data = Path(os.environ.get("SAMPAN_DATA") or "/var/lib/mysql")
    user = ["--user=root"] if os.getuid() == 0 else []
    # Only what we say: the machine's own option files are about another server.
    base = [server, "--no-defaults", *user, *SMALL]
    script, sock = accounts(), f"{data}/mysqld.sock"
    if not (data / "mysql").is_dir():
        os.write(1, b"Initialising the database directory\n")
        with template(server, base) as made:
            take(made, data)
    statements = os.memfd_create("accounts", 0)
    os.write(statements, script.encode())
    os.lseek(statements, 0, os.SEEK_SET)
    run = [
        *base,
        f"--datadir={data}",
        f"--bind-address={address()}",
        f"--socket={sock if len(sock) < LONGEST_SOCKET else 'mysqld.sock'}",  # that is: in the data directory
        f"--pid-file={data}/mysqld.pid",
        f"--init-file=/proc/self/fd/{statements}",
        "--port=3306",
        own_tmpdir(data),
        f"--ignore-db-dirs={TEMPORARY}",
        *options,
    ]
    os.execv(server, run)  # noqa: S606


@contextlib.contextmanager
def template(server: str, base: list[str]) -> Iterator[Path]:
    """A data directory with the system tables and nobody in it, of this very server; made once, one maker at a time."""
    about = Path(server).resolve().stat()
    mark = f"{server} {about.st_size} {about.st_mtime_ns} {base} {os.getuid()}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "sampan"
    ready = cache / f"mariadb-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = ready.with_suffix(".lock").open("w")
    except OSError:  # nowhere to keep it: made for this once
        with tempfile.TemporaryDirectory(prefix="mariadb-") as folder:
            make(base, Path(folder))
            yield Path(folder)
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_dir():
            fresh = ready.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(mode=0o700)
            make(base, fresh)
            fresh.rename(ready)
        yield ready


def _home() -> Path:
    """The user's, whatever HOME is in the pod; a user without an account has only that."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path(os.environ.get("HOME") or "/nonexistent")


def make(base: list[str], directory: Path) -> None:
    """System tables. Ends the process with what the installer said when it cannot."""
    base = [*base, own_tmpdir(directory)]
    installer = next((p for n in ("mariadb-install-db", "mysql_install_db") if (p := shutil.which(n))), None)
    if installer:
        command = [
            installer,
            "--no-defaults",
            f"--datadir={directory}",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            *base[2:],
        ]
    else:  # MySQL proper
        command = [*base, f"--datadir={directory}", "--initialize-insecure"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the database directory cannot be initialised:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    shutil.rmtree(directory / TEMPORARY)


def own_tmpdir(data: Path) -> str:
    """The option for a directory of its own for temporary tables: a server that starts deletes those of others."""
    shutil.rmtree(data / TEMPORARY, ignore_errors=True)
    (data / TEMPORARY).mkdir(mode=0o700)
    return f"--tmpdir={data / TEMPORARY}"


def take(made: Path, data: Path) -> None:
    """Copy a template; it takes its place only when complete: `mysql`, which says so, comes last."""
    fresh = data / ".initialising"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(made, fresh)
    for entry in sorted(fresh.iterdir(), key=lambda path: path.name == "mysql"):
        target = data / entry.name
        if target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        entry.rename(target)
    fresh.rmdir()


def accounts() -> str:
    """One statement a line, read by the server at every start: each holds whether or not it held before."""
    root = secret("MARIADB_ROOT_PASSWORD", "MYSQL_ROOT_PASSWORD")
    empty = secret("MARIADB_ALLOW_EMPTY_ROOT_PASSWORD", "MYSQL_ALLOW_EMPTY_PASSWORD")
    if not root and not empty and secret("MARIADB_RANDOM_ROOT_PASSWORD", "MYSQL_RANDOM_ROOT_PASSWORD"):
        root = secrets.token_urlsafe(24)  # nobody learns it; the next start makes another
    database = secret("MARIADB_DATABASE", "MYSQL_DATABASE")
    user, password = secret("MARIADB_USER", "MYSQL_USER"), secret("MARIADB_PASSWORD", "MYSQL_PASSWORD")
    if not (root or empty or user):
        sys.exit("set MARIADB_ROOT_PASSWORD (or MYSQL_ROOT_PASSWORD), or MARIADB_ALLOW_EMPTY_ROOT_PASSWORD")
    host = secret("MARIADB_ROOT_HOST", "MYSQL_ROOT_HOST") or "%"
    # The installer leaves accounts without a password for every name of this machine.
    unwanted = f"User = '' OR (User = 'root' AND Host NOT IN ('localhost', {quoted(host)}))"
    lines = [
        f"DELETE FROM mysql.global_priv WHERE {unwanted};",  # noqa: S608
        "FLUSH PRIVILEGES;",
    ]
    if root or empty:
        for place in sorted({"localhost", host}):
            lines.append(f"CREATE USER IF NOT EXISTS 'root'@{quoted(place)};")
            lines.append(f"ALTER USER 'root'@{quoted(place)} IDENTIFIED BY {quoted(root)};")
            lines.append(f"GRANT ALL PRIVILEGES ON *.* TO 'root'@{quoted(place)} WITH GRANT OPTION;")
    if database:
        name = database.replace("`", "``")
        lines.append(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4;")
    if user and user != "root":
        lines.append(f"CREATE USER IF NOT EXISTS {quoted(user)}@'%' IDENTIFIED BY {quoted(password)};")
        lines.append(f"ALTER USER {quoted(user)}@'%' IDENTIFIED BY {quoted(password)};")
        if database:
            lines.append(f"GRANT ALL PRIVILEGES ON `{name}`.* TO {quoted(user)}@'%';")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
