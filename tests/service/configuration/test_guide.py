"""docs/guides/configuration.md and docs/guides/lifecycle.md, run: their files make systems that keep their word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.base import free_port, until
from tests.servers.etcd import EtcdServer, start_etcd

ROOT = Path(__file__).parents[3]


def write(page: str, directory: Path) -> None:
    for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    (tmp_path / "server").mkdir()
    server = start_etcd(tmp_path / "server")
    yield server
    server.stop()


Get = Callable[[str], Any]


class Served:
    def __init__(self, directory: Path, name: str, environment: dict[str, str]) -> None:
        self.port, self.log = free_port(), directory / f"{name}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SAMPAN_")}
        ours = {"SAMPAN_APP": "shop.system:shop", "SAMPAN_POD_IP": "127.0.0.1", "PORT": str(self.port)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sampan", "serve", name],
                cwd=directory,
                env={**kept, **ours, "SERVICE_BINDING_ROOT": str(directory), **environment},
                stdout=log,
                stderr=log,
            )

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
                return json.loads(reply.read())
        except OSError:
            return None

    def up(self) -> Served:
        until(lambda: self.process.poll() is not None or self.get("/ready"), 60, "ready")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(name: str, **environment: str) -> Served:
        started.append(Served(tmp_path, name, environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


def test_the_guide_to_configuration(tmp_path: Path, etcd: EtcdServer, serve: Callable[..., Served]) -> None:
    write("docs/guides/configuration.md", tmp_path)
    etcd.put("/config/checkout", '{"rate": 0.25}')
    discovery = {"SAMPAN_DISCOVERY": etcd.uri, "SAMPAN_DRAIN_SECONDS": "0.1"}
    users = serve("users", POD_NAME="users-0", **discovery).up()
    until(lambda: etcd.keys("/services/users/") == ["/services/users/users-0"], what="registered")
    orders = serve("orders", SAMPAN_CONFIG_CHECKOUT_URI=f"{etcd.uri}/config/checkout", **discovery).up()
    assert orders.get("/rate") == {"rate": 0.25, "free_above": 40, "seen": []}
    assert orders.get("/hello") == "hello"

    etcd.put("/config/checkout/rate", "0.3")  # a key of its own wins over the document
    until(lambda: orders.get("/rate")["seen"] == [0.3], what="told of the change")
    etcd.put("/config/checkout/rate", "lots")
    until(lambda: orders.get("/ready")["status"] == "degraded", what="refused")
    said = orders.get("/ready")["checks"]["settings checkout"]
    assert said == "refused: rate: Expected `float`, got `str` (written: 'lots'); the old settings stay"
    assert said in re.sub(r"\s+", " ", (ROOT / "docs/guides/configuration.md").read_text())
    assert orders.get("/rate")["rate"] == 0.3
    etcd.put("/config/checkout/rate", "0.4")
    until(lambda: orders.get("/rate")["rate"] == 0.4, what="mended")

    etcd.kill()
    until(lambda: "not followed" in str(orders.get("/ready")["checks"]["settings checkout"]), what="away")
    assert orders.get("/rate")["rate"] == 0.4 and orders.get("/hello") == "hello"
    refused = serve("orders", SAMPAN_CONFIG_CHECKOUT_URI=f"{etcd.uri}/config/checkout?wait=0.1")
    assert refused.process.wait(30) == 2 and "settings 'checkout'" in refused.log.read_text()
    etcd.start()
    etcd.put("/config/checkout/rate", "0.5")
    until(lambda: orders.get("/rate")["rate"] == 0.5, 30, "followed again")
    assert orders.stop() == 0 and users.stop() == 0
    assert etcd.keys("/services/") == []


def test_the_guide_to_the_life_of_a_process(tmp_path: Path, serve: Callable[..., Served]) -> None:
    write("docs/guides/lifecycle.md", tmp_path)
    orders = serve("orders", SAMPAN_DRAIN_SECONDS="0.1").up()
    until(lambda: (orders.get("/") or 0) > 5, what="swept, also after it failed once")
    assert "background shop.work:sweep failed: the third time fails" in orders.log.read_text()
    checks = orders.get("/ready?verbose")["checks"]
    assert {name: check["answer"] for name, check in checks.items()} == {
        "background shop.work:follow": "ok",
        "background shop.work:sweep": "ok",
        "shop.work:licence": "ok",
        "prices are known": "ok",
    }
    sweeps = [entry["answer"] for entry in checks["background shop.work:sweep"]["history"]]
    assert sweeps[-1] == "ok"
    assert orders.stop() == 0
