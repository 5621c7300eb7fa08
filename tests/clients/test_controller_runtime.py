"""A Go program over controller-runtime (`controller/`), the way most operators are written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import GROUP, Harbour
from tests.system.harness import until

MODULE = Path(__file__).parent / "controller"
FINALIZER = f"{GROUP}/mooring"


@pytest.fixture(scope="session")
def program() -> Path:
    """The program, built on first use (some minutes) and kept in `~/.cache/sampan`."""
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(MODULE.iterdir()))).hexdigest()[:12]
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sampan" / f"controller-{key}"
    if place.exists():
        return place
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("no Go here to build the controller with")
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    command = [go, "build", "-mod=readonly", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(beside), "."]
    done = subprocess.run(command, cwd=MODULE, capture_output=True, text=True, check=False)
    if done.returncode and "dial tcp" in done.stderr:
        pytest.skip(f"the controller's modules cannot be had here: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.returncode == 0, done.stderr[-3000:]
    beside.rename(place)
    return place


class Candidate:
    """One running controller."""

    def __init__(self, program: Path, harbour: Harbour, namespace: str, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen([program, namespace], env=harbour.environment, stdout=file, stderr=file)

    @property
    def leading(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return "leading\n" in self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextlib.contextmanager
def candidates(program: Path, harbour: Harbour, namespace: str, directory: Path) -> Iterator[list[Candidate]]:
    started: list[Candidate] = []
    try:
        started += [Candidate(program, harbour, namespace, directory / f"{name}.log") for name in "ab"]
        yield started
    finally:
        for one in started:
            one.kill()


@pytest.mark.timeout(600)
def test_custom_objects_and_finalizers(harbour: Harbour, boats: None, ns: str, program: Path, tmp_path: Path) -> None:
    """Two candidates, one of them killed; the cluster killed and its history forgotten; a boat from launch to end."""

    def boat(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(harbour.kubectl("get", "boat", name, "-n", ns, "-o", "json"))
        return found

    def afloat(name: str, size: int, cargo: int = 0) -> bool:
        found = boat(name)
        status = found.get("status", {})
        conditions = {row["type"]: row["status"] for row in status.get("conditions", [])}
        return (status.get("ready"), status.get("cargo"), conditions.get("Afloat")) == (
            size,
            cargo,
            "True",
        ) and status.get("observedGeneration") == found["metadata"]["generation"]

    def launch(name: str, size: int) -> None:
        made = {
            "apiVersion": f"{GROUP}/v1",
            "kind": "Boat",
            "metadata": {"name": name, "namespace": ns},
            "spec": {"size": size},
        }
        harbour.kubectl("create", "-f", "-", stdin=json.dumps(made))

    with candidates(program, harbour, ns, tmp_path) as both:
        launch("ida", 1)
        until(lambda: any(one.leading for one in both), 60, "one of the two leads")
        until(lambda: afloat("ida", 1), 60, "the first boat is afloat")
        assert boat("ida")["metadata"]["finalizers"] == [FINALIZER]
        made = json.loads(harbour.kubectl("get", "deployment", "ida", "-n", ns, "-o", "json"))
        assert made["metadata"]["ownerReferences"][0]["uid"] == boat("ida")["metadata"]["uid"]
        fields = harbour.kubectl("get", "deployment", "ida", "-n", ns, "-o", "json", "--show-managed-fields")
        managers = {row["manager"]: row["operation"] for row in json.loads(fields)["metadata"]["managedFields"]}
        assert managers["boats"] == "Apply"
        harbour.kubectl("delete", "deployment", "ida", "-n", ns)
        until(
            lambda: harbour.kubectl("get", "deployment", "ida", "-n", ns, check=False).find("NotFound") < 0, 30, "again"
        )

        # Of the ConfigMaps only those the cache selects are counted.
        harbour.kubectl("create", "configmap", "ballast", "-n", ns)
        harbour.kubectl("create", "configmap", "grain", "-n", ns)
        harbour.kubectl("label", "configmap", "grain", "-n", ns, "cargo=true")
        until(lambda: afloat("ida", 1, 1), 30, "the labelled ConfigMap is counted, the other is not")

        leader = next(one for one in both if one.leading)
        other = next(one for one in both if one is not leader)
        holder = harbour.kubectl("get", "lease", "boats", "-n", ns, "-o", "jsonpath={.spec.holderIdentity}")
        leader.kill()
        launch("vera", 2)
        until(lambda: other.leading, 60, "the other candidate leads")
        assert harbour.kubectl("get", "lease", "boats", "-n", ns, "-o", "jsonpath={.spec.holderIdentity}") != holder
        until(lambda: afloat("vera", 2, 1), 60, "the second boat is afloat")

        harbour.restart(compact=True)
        both[both.index(leader)] = Candidate(
            program, harbour, ns, tmp_path / "c.log"
        )  # the old leader gave up, or this
        harbour.kubectl("patch", "boat", "vera", "-n", ns, "--type=merge", "-p", '{"spec":{"size":1}}')
        if other.process.poll() is not None:  # who cannot renew its lease in time ends, as it should
            both[both.index(other)] = Candidate(program, harbour, ns, tmp_path / "d.log")
        until(lambda: afloat("vera", 1, 1), 90, "the second boat is smaller, after the cluster came back")

        harbour.kubectl("delete", "boat", "ida", "-n", ns, timeout=60)
        harbour.kubectl("get", "configmap", "sunk-ida", "-n", ns)
        until(lambda: "NotFound" in harbour.kubectl("get", "deployment", "ida", "-n", ns, check=False), 30, "collected")
        events = harbour.objects("events", "-n", ns)
        assert "Built" in {row["reason"] for row in events if row["involvedObject"]["kind"] == "Boat"}
