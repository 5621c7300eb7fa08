"""Clients that others wrote, doing real work against one embedded cluster with its kubelet.

Every file is one client, every test a task; a table (table.py) shows which client did which. Tests keep to namespaces
of their own; the cluster is killed, compacted and started again under clients that watch, which all must survive.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.store import Store
from tests.system.harness import System, until

GROUP = "clients.example.com"
SPEC = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 0, "maximum": 9, "default": 1},
        "image": {"type": "string", "default": "busybox"},
    },
}
BOAT = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"boats.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": SPEC,
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}
"""A kind of the tests' own; an operator keeps a Deployment for each boat."""
TALKER = """
echo out-1; echo err-1 >&2
n=0; while true; do n=$((n+1)); echo tick $n; sleep 0.2; done
"""
SERVER = (
    "import http.server as h\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        body = b'hello ' + self.path.encode() * 2000\n"
    "        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()\n"
    "        self.wfile.write(body)\n"
    "h.ThreadingHTTPServer(('', 8080), H).serve_forever()\n"
)
_counter = itertools.count()


def talker(name: str) -> dict[str, Any]:
    """A pod with a container that talks and takes commands, and one that answers HTTP on port 8080."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {"name": "talker", "image": "busybox", "command": ["sh", "-c", TALKER]},
                {"name": "web", "image": "python", "command": ["python3", "-c", SERVER]},
            ],
        },
    }


class Harbour(System):
    """The cluster, and what is done to it under its clients."""

    @property
    def kubeconfig(self) -> Path:
        return self.directory / ".sampan/kubeconfig"

    def restart(self, *, compact: bool = False) -> None:
        """End the cluster by kill -9 and start it again at the same address. With `compact` its history is forgotten
        meanwhile: whoever resumes a watch is answered 410."""
        pid, started = int(self.info["pid"]), self._ready()
        # The last revision is one that no watch of the tests has seen.
        self.kubectl("create", "configmap", f"before-{pid}")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), 20, "the cluster process is gone")
        (self.directory / ".sampan/cluster.json").unlink(missing_ok=True)
        if compact:
            asyncio.run(_forget(self.directory / ".sampan/cluster.db"))
        self.sampan("up", "--detach")
        until(lambda: started.keys() == (now := self._ready()).keys() and not now.items() & started.items(), 60,
              "the pod runs anew")  # fmt: skip

    def _ready(self) -> dict[str, str]:
        """The ready containers of the pod `talker`, if it is there: their ids."""
        path = '{range .items[*].status.containerStatuses[?(@.ready==true)]}{.name}={.containerID}{"\\n"}{end}'
        rows = self.kubectl("get", "pods", "-l", "app=talker", "-o", f"jsonpath={path}").split()
        return dict(row.split("=") for row in rows)


async def _forget(database: Path) -> None:
    store = Store.open(database)
    try:
        store.compact(store.revision)
    finally:
        await store.close()


@pytest.fixture(scope="session")
def harbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harbour]:
    found = Harbour(tmp_path_factory.mktemp("harbour"))
    state = found.directory / ".sampan"
    state.mkdir(mode=0o700)
    (state / "port").write_text("16443\n")  # where no other cluster begins to look: none takes it during a restart
    try:
        found.sampan("up", "--detach")
        yield found
    finally:
        found.sampan("down", check=False)
        until(lambda: not found.processes(), 20, "every process of the cluster has ended")


@pytest.fixture
def ns(harbour: Harbour) -> str:
    """A namespace of the test's own."""
    name = f"c{next(_counter)}-{os.getpid()}"
    harbour.kubectl("create", "namespace", name)
    return name


@pytest.fixture(scope="session")
def pod(harbour: Harbour) -> str:
    """The name of a running pod in the namespace `default`, made by `talker`."""
    harbour.kubectl("apply", "-f", "-", stdin=json.dumps(talker("talker")))
    harbour.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=40s")
    return "talker"


@pytest.fixture(scope="session")
def boats(harbour: Harbour) -> None:
    """The kind Boat is served."""
    harbour.kubectl("apply", "-f", "-", stdin=json.dumps(BOAT))
    harbour.kubectl("wait", "--for=condition=Established", f"crd/boats.{GROUP}", "--timeout=20s")


async def eventually(check: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    """The first true result of `check`, which may be a coroutine function. AssertionError after `seconds`."""
    give_up = asyncio.get_running_loop().time() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < give_up, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.05)
