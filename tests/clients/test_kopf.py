"""An operator over kopf (`operator_of_boats.py`): handlers for create, update and delete, a timer, status, children."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import GROUP, Harbour
from tests.system.harness import until

OPERATOR = Path(__file__).with_name("operator_of_boats.py")


@contextmanager
def operator(harbour: Harbour, namespace: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        command = [sys.executable, "-m", "kopf", "run", "--namespace", namespace, "--verbose", str(OPERATOR)]
        process = subprocess.Popen(command, env=harbour.environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.timeout(300)
def test_custom_objects_and_finalizers(harbour: Harbour, boats: None, ns: str, tmp_path: Path) -> None:
    """The operator is killed once, and the cluster once, its history forgotten."""
    log = tmp_path / "kopf.log"

    def get(kind: str, name: str) -> dict[str, Any]:
        found = harbour.run_kubectl("get", kind, name, "-n", ns, "-o", "json")
        value: dict[str, Any] = json.loads(found.stdout) if not found.returncode else {}
        return value

    def size(name: str) -> Any:
        return get("configmap", f"log-{name}").get("data", {}).get("size")

    def ticks(name: str) -> int:
        return int(get("boat", name).get("status", {}).get("ticks", 0))

    def launch(name: str) -> None:
        made = {
            "apiVersion": f"{GROUP}/v1",
            "kind": "Boat",
            "metadata": {"name": name, "namespace": ns},
            "spec": {"size": 2},
        }
        harbour.kubectl("create", "-f", "-", stdin=json.dumps(made))

    with operator(harbour, ns, log) as process:
        launch("ida")
        until(lambda: get("boat", "ida").get("status", {}).get("phase") == "Launched", 60, "the create handler has run")
        until(lambda: size("ida") == "2", 30, "the child is there")
        boat = get("boat", "ida")
        assert boat["status"]["launched"] == {"size": 2}, "what a handler returns is in the status"
        assert f"{GROUP}/kopf" in boat["metadata"]["finalizers"]
        assert get("configmap", "log-ida")["metadata"]["ownerReferences"][0]["uid"] == boat["metadata"]["uid"]
        before = ticks("ida")
        until(lambda: ticks("ida") > before + 1, 30, "the timer goes on")
        harbour.kubectl("patch", "boat", "ida", "-n", ns, "--type=merge", "-p", '{"spec":{"size":5}}')
        until(lambda: size("ida") == "5", 30, "the update handler has run")
        assert get("boat", "ida")["status"]["resized"] == "2 to 5"
        harbour.kubectl("create", "configmap", "grain", "-n", ns)
        harbour.kubectl("label", "configmap", "grain", "-n", ns, "cargo=true")
        until(lambda: f"{ns}/grain" in log.read_text(), 30, "the event handler has seen the labelled ConfigMap")
        process.kill()
        process.wait(10)
    launch("vera")
    with operator(harbour, ns, log) as process:
        until(lambda: size("vera") == "2", 60, "another process handles what came while there was none")
        harbour.restart(compact=True)
        harbour.kubectl("patch", "boat", "vera", "-n", ns, "--type=merge", "-p", '{"spec":{"size":7}}')
        until(lambda: size("vera") == "7", 60, "the operator goes on after the cluster came back without its history")
        assert process.poll() is None, log.read_text()[-3000:]
        harbour.kubectl("delete", "boat", "ida", "-n", ns, timeout=60)
        assert get("configmap", "sunk-ida"), "the delete handler has run before the object went"
        until(lambda: not get("configmap", "log-ida"), 30, "the child went with its owner")
        reasons = {row["reason"]: row["involvedObject"]["kind"] for row in harbour.objects("events", "-n", ns)}
        assert reasons["Resized"] == "Boat"
