"""Units run beside each other, what must be alone is alone, and a failure is a failure whoever saw it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.scheduling import ALONE, TOGETHER, unit

ROOT = Path(__file__).resolve().parent.parent
CONFTEST = """
from tests.scheduling import Plugin
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Plugin())
"""
BESIDE = """
import time
from pathlib import Path
import pytest
def test_beside():
    here = Path(__file__)
    here.with_suffix(".begun").touch()
    give_up = time.monotonic() + 60
    while not here.with_name("{other}.begun").exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep({longer})
    here.with_suffix(".ended").touch()
@pytest.mark.skip(reason="not {other}")
def test_skipped(): ...
"""
LAST = """
import os, time
from pathlib import Path
def test_alone():
    service = Path(__file__).parent.parent / "service"
    assert sorted(p.name for p in service.glob("*.ended")) == ["test_a.ended", "test_b.ended"]
    Path(__file__).with_name(os.environ["PYTEST_XDIST_WORKER"]).touch()
def test_fails():
    assert "this" == "shown"
"""
DIES = """
import os
def test_dies():
    os._exit(3)
def test_after(): ...
"""


def test_units_run_beside_each_other_and_the_rest_alone(tmp_path: Path) -> None:
    for name, text in {
        "conftest.py": CONFTEST,
        "tests/service/test_a.py": BESIDE.format(other="test_b", longer=0),
        "tests/service/test_b.py": BESIDE.format(other="test_a", longer=0.5),
        "tests/cli/test_cli.py": DIES,
        "tests/system/test_shop_c.py": LAST,
        "tests/system/test_shop_d.py": LAST,
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfs", "-n", "2", "--import-mode=importlib", "-p", "no:cacheprovider"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "3 failed, 5 passed, 2 skipped" in done.stdout
    assert "FAILED tests/system/test_shop_c.py::test_fails - AssertionError" in done.stdout
    assert "crashed while running 'tests/cli/test_cli.py::test_dies'" in done.stdout
    assert "not test_b" in done.stdout
    assert len(list((tmp_path / "tests/system").glob("gw*"))) == 1  # one worker had them all


def test_every_row_finds_tests() -> None:
    files = [str(file.relative_to(ROOT)) for file in ROOT.glob("tests/**/test_*.py")]
    for beginning in ALONE:
        file, _, test = beginning.partition("::")
        found = [name for name in files if name.startswith(file)]
        assert found, beginning
        assert not test or f"def {test}" in (ROOT / found[0]).read_text(), beginning
    names = [f"{file}::test_it[{value}]" for file in files for value in ("real", "kafka", "rabbitmq-mysql", "x-nats")]
    assert {unit(name) for name in names} >= {*TOGETHER, "alone"}


def test_the_unit_of_a_test() -> None:
    assert unit("tests/conformance/ports/test_messaging_port.py::test_x[kafka-mysql]") == "Kafka"
    assert unit("tests/conformance/ports/test_sql_port.py::test_x[mysql]").endswith("test_sql_port.py")
    assert unit("tests/conformance/kubernetes/test_objects.py::test_x[real-a]") == "real control plane"
    assert unit("tests/conformance/kubernetes/test_objects.py::test_x[embedded]") == "embedded control plane"
    assert unit("tests/cluster/kubelet/test_zygote.py::test_x") == "clusters"
    assert unit("tests/system/test_lacking.py::test_x") == "clusters"
    assert unit("tests/system/test_soak.py::test_x") == "alone"
    assert unit("tests/cluster/store/test_store.py::test_x") == "tests/cluster/store/test_store.py"
