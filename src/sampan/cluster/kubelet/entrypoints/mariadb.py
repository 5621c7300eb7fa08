"""MariaDB or MySQL as its container image starts it: `python -m ... PROGRAM [mariadbd options]`.

First start: makes the data directory and the accounts that MARIADB_* / MYSQL_* variables ask for, by statements the
server reads on standard input, so that no password is ever an argument or in a file. Then becomes the server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sampan.cluster.kubelet.entrypoints.common import address, quoted, secret

SMALL = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-method=fsync",
    "--performance-schema=0",
    "--skip-name-resolve",
    "--max-connections=200",
)


def main() -> None:
    server, options = sys.argv[1], sys.argv[2:]
    data = Path(os.environ.get("SAMPAN_DATA") or "/var/lib/mysql")
    user = ["--user=root"] if os.getuid() == 0 else []
    # Only what we say: the machine's own option files are about another server.
    base = [server, "--no-defaults", f"--datadir={data}", *user, *SMALL]
    if not (data / "mysql").is_dir():
        initialise(server, data, base)
    run = [
        *base,
        f"--bind-address={address()}",
        f"--socket={data}/mysqld.sock",
        f"--pid-file={data}/mysqld.pid",
        "--port=3306",
        *options,
    ]
    os.execv(server, run)  # noqa: S606


def initialise(server: str, data: Path, base: list[str]) -> None:
    """System tables and accounts, in a directory beside; it takes its place only when complete."""
    fresh = data / ".initialising"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    own = [f"--datadir={fresh}" if word.startswith("--datadir=") else word for word in base]
    installer = next((p for n in ("mariadb-install-db", "mysql_install_db") if (p := shutil.which(n))), None)
    os.write(1, b"Initialising the database directory\n")
    if installer:
        command = [
            installer,
            "--no-defaults",
            f"--datadir={fresh}",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            "--skip-name-resolve",
            *(["--user=root"] if os.getuid() == 0 else []),
        ]
    else:  # MySQL proper
        command = [*own, "--initialize-insecure"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the database directory cannot be initialised:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    script = accounts()
    done = subprocess.run(
        [*own, "--bootstrap", "--skip-networking"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the accounts cannot be made: {done.stderr[-2000:]}")
    for entry in sorted(fresh.iterdir(), key=lambda path: path.name == "mysql"):  # `mysql` last: it says "complete"
        target = data / entry.name
        if target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        entry.rename(target)
    fresh.rmdir()


def accounts() -> str:
    """One statement a line, as the bootstrap mode reads them."""
    root = secret("MARIADB_ROOT_PASSWORD", "MYSQL_ROOT_PASSWORD")
    open_root = secret(
        "MARIADB_ALLOW_EMPTY_ROOT_PASSWORD", "MYSQL_ALLOW_EMPTY_PASSWORD", "MARIADB_RANDOM_ROOT_PASSWORD"
    )
    database = secret("MARIADB_DATABASE", "MYSQL_DATABASE")
    user, password = secret("MARIADB_USER", "MYSQL_USER"), secret("MARIADB_PASSWORD", "MYSQL_PASSWORD")
    if not (root or open_root or user):
        sys.exit("set MARIADB_ROOT_PASSWORD (or MYSQL_ROOT_PASSWORD), or MARIADB_ALLOW_EMPTY_ROOT_PASSWORD")
    lines = ["FLUSH PRIVILEGES;", "DELETE FROM mysql.global_priv WHERE User = '';", "FLUSH PRIVILEGES;"]
    if root or open_root:
        host = secret("MARIADB_ROOT_HOST", "MYSQL_ROOT_HOST") or "%"
        for place in {"localhost", host}:
            lines.append(f"CREATE USER IF NOT EXISTS 'root'@{quoted(place)};")
            lines.append(f"ALTER USER 'root'@{quoted(place)} IDENTIFIED BY {quoted(root)};")
            lines.append(f"GRANT ALL PRIVILEGES ON *.* TO 'root'@{quoted(place)} WITH GRANT OPTION;")
    if database:
        name = database.replace("`", "``")
        lines.append(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4;")
    if user and user != "root":
        lines.append(f"CREATE USER {quoted(user)}@'%' IDENTIFIED BY {quoted(password)};")
        if database:
            lines.append(f"GRANT ALL PRIVILEGES ON `{name}`.* TO {quoted(user)}@'%';")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
