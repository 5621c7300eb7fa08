"""Machines that lack things: namespaces, a database server, a usual PATH; and projects where pods have volumes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import ROOT, System, until
from tests.system.load import Load, final_states

WITHOUT_NAMESPACES = {"SAMPAN_ISOLATION": "none"}
WITHOUT_MARIADB = {"SAMPAN_WITHOUT": "mariadb"}


class Lacking(System):
    """A system with exactly this environment."""

    def __init__(self, directory: Path, **environment: str) -> None:
        super().__init__(directory)
        self.given = {"HOME": os.environ.get("HOME", "/"), "PATH": "/usr/bin:/bin", **environment}

    def sampan(self, *arguments: str, check: bool = True, timeout: float = 50) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sampan", *arguments],
            cwd=self.directory,
            env=self.given,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"sampan {' '.join(arguments)} ended {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def down(self) -> None:
        self.sampan("down", check=False)
        until(lambda: not self.processes(), 15, "every process has ended")


@pytest.fixture
def below_tmp() -> Iterator[Path]:
    """A directory below /tmp, where every pod of the shop has an emptyDir."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-lacking-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


def order(shop: System) -> str:
    """Place an order; its final state."""
    placed = shop.post("/api/orders", {"user_id": 1, "lines": [{"product_id": 1, "quantity": 1}]})["id"]
    until(lambda: shop.get(f"/api/orders/{placed}")["status"] != "pending", 15, "the order is settled")
    return str(shop.get(f"/api/orders/{placed}")["status"])


def ready(shop: System, name: str) -> int:
    pods = shop.objects("pods", "-n", "shop", "-l", f"app.kubernetes.io/name={name}")
    return sum(container["ready"] for pod in pods for container in pod["status"].get("containerStatuses", ()))


@pytest.mark.parametrize("more", [{}, WITHOUT_MARIADB], ids=["", "nor MariaDB"])
def test_without_namespaces_the_shop_works_and_up_says_what_does_not(tmp_path: Path, more: dict[str, str]) -> None:
    shop = Lacking(tmp_path, **WITHOUT_NAMESPACES, **more)
    try:
        said = shop.sampan("up", str(ROOT / "examples/shop"), "--detach").stdout
        assert "not in force here: namespaces" in said
        assert "SAMPAN_HOSTS" in said
        assert order(shop) == "confirmed"
    finally:
        shop.down()


def test_without_mariadb_replicas_share_sqlite_files_under_load(tmp_path: Path) -> None:
    shop = Lacking(tmp_path, **WITHOUT_MARIADB, PYTHONDONTWRITEBYTECODE="1")
    try:
        said = shop.sampan("up", str(ROOT / "examples/shop"), "--detach")
        assert "mysql is not on this machine: its databases are SQLite files" in said.stdout + said.stderr
        for name in ("orders", "inventory"):
            shop.kubectl("scale", f"deploy/{name}", "-n", "shop", "--replicas=4")
        with Load(shop.url) as load:
            until(lambda: ready(shop, "orders") >= 3 and ready(shop, "inventory") >= 3, 20, "more replicas are Ready")
            until(lambda: len(load.acknowledged) >= 80, 15, "80 orders are taken")
        assert not load.failures
        path = "/api/orders?limit=1000"
        until(lambda: "pending" not in final_states(shop.get(path), load.acknowledged), 15, "all are settled")
        assert final_states(shop.get(path), load.acknowledged) == {"confirmed": len(load.acknowledged)}
    finally:
        shop.down()


@pytest.mark.parametrize("isolation", ["", "none"], ids=["", "without namespaces"])
def test_a_project_below_tmp_is_not_covered_by_its_pods_volumes(below_tmp: Path, isolation: str) -> None:
    for name in ("src", "examples"):
        shutil.copytree(ROOT / name, below_tmp / name, ignore=shutil.ignore_patterns("__pycache__", ".sampan"))
    shop = Lacking(below_tmp, PYTHONPATH=str(below_tmp / "src"), SAMPAN_ISOLATION=isolation)
    try:
        shop.sampan("up", "examples/shop", "--detach")
        assert order(shop) == "confirmed"
    finally:
        shop.down()
