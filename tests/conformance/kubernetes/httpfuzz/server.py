"""Our API server as a process that tells, when asked, what it holds: tasks, descriptors, memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """
import asyncio, gc, json, os, signal, sys
from pathlib import Path
from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store

directory = Path(sys.argv[1])

def census():
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = {
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "kilobytes": int(status["VmRSS"].split()[0]),
    }
    (directory / "census.new").write_text(json.dumps(found))
    (directory / "census.new").rename(directory / "census")

async def main():
    pki = Pki(directory / "pki")
    pki.ensure()
    api = ApiServer(Store.open(directory / "cluster.db"), pki, {"service_cidr": "10.96.0.0/16"})
    await api.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, census)
    api.write_kubeconfig(directory / "kubeconfig.new", f"https://127.0.0.1:{await api.serve()}")
    (directory / "kubeconfig.new").rename(directory / "kubeconfig")
    await asyncio.Event().wait()

asyncio.run(main())
"""
FAULTS = re.compile(r"Traceback|never retrieved|was never awaited|was destroyed but it is pending|^ERROR", re.MULTILINE)


@dataclass(frozen=True)
class Census:
    """What the server process holds at one moment."""

    tasks: int
    descriptors: int
    kilobytes: int


class FuzzedServer:
    """The server process over `directory`. Stop it with `stop`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self._log = directory / "api.log"
        self._seen = 0
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(directory)], stdout=file, stderr=file, cwd=directory
            )
        self._wait(self.kubeconfig)

    def _wait(self, path: Path, seconds: float = 60) -> None:
        give_up = time.monotonic() + seconds
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"the API server does not answer: {self._log.read_text()[-3000:]}")
            time.sleep(0.01)

    def census(self) -> Census:
        (self.directory / "census").unlink(missing_ok=True)
        os.kill(self.process.pid, signal.SIGUSR1)
        self._wait(self.directory / "census")
        return Census(**json.loads((self.directory / "census").read_text()))

    def settled(self, like: Census, seconds: float = 45) -> Census:
        """A census once tasks and descriptors are as few as in `like`, or the last one after `seconds`."""
        give_up = time.monotonic() + seconds
        while True:
            found = self.census()
            if (found.tasks <= like.tasks and found.descriptors <= like.descriptors) or time.monotonic() > give_up:
                return found
            time.sleep(0.3)

    def complaints(self) -> str:
        """What the log has gained since the last time, if there is a fault of ours in it; else nothing."""
        with self._log.open("rb") as file:
            file.seek(self._seen)
            text = file.read().decode(errors="replace")
            self._seen = file.tell()
        if not FAULTS.search(text):
            return ""
        ends = ["\n".join(block.rstrip().splitlines()[-6:]) for block in re.split(r"(?=^Traceback)", text, flags=re.M)]
        return "\n".join(dict.fromkeys(ends))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
