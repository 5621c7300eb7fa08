"""RabbitMQ from the distribution's package, with an epmd of its own, all on loopback and in one process group."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.servers.base import Server, free_port

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# epmd stays in the foreground of the group and ends with it; Erlang would leave one behind
COMMAND = 'epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" & exec "$0"'


def start_rabbitmq(directory: Path) -> Server:
    if not PROGRAM.exists() or shutil.which("epmd") is None:
        pytest.skip("RabbitMQ is missing: apt-get install rabbitmq-server")
    home = directory / "rabbitmq"
    (home / "conf.d").mkdir(parents=True, exist_ok=True)
    (home / "plugins").write_text("[].\n")
    (home / "rabbitmq.conf").write_text("vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 1MB\n")
    port, node = free_port(), f"sampan{os.urandom(4).hex()}@localhost"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": node,
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(home / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
    }
    log = directory / "rabbitmq.log"
    uri = f"amqp://guest:guest@127.0.0.1:{port}/"
    return Server(["sh", "-c", COMMAND, str(PROGRAM)], port, log, uri, environment=environment, group=True, seconds=180)
