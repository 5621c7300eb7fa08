"""What the benchmarks of the service process share: servers pinned to one core, load from wrk on another."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import environment as inherited

AREA = "service"
SECONDS = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(cores: int) -> Any:
    """A preexec function: the server on the first core, the load on the last."""
    available = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {available[0] if cores == 0 else available[-1]})


@contextlib.contextmanager
def server(
    directory: Path,
    code: str,
    python: Path | str = sys.executable,
    *,
    environment: Mapping[str, str] | None = None,
    path: str = "/users/42",
    core: int = 0,
) -> Iterator[tuple[int, int]]:
    """(port, pid) of a running server: `code` in a process of `python`, given a port as PORT and argument. It is up
    when it answers `path`."""
    port = free_port()
    variables = {
        **inherited(),
        "PORT": str(port),
        "SAMPAN_APP": "system:app",
        "SAMPAN_POD_IP": "127.0.0.1",
        "SAMPAN_DRAIN_SECONDS": "0",
        "PYTHONPATH": str(directory),
        **(environment or {}),
    }
    process = subprocess.Popen(
        [str(python), "-c", code, str(port)],
        cwd=directory,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=pin(core),  # noqa: PLW1509
    )
    try:
        for _ in range(6000):
            if process.poll() is not None:
                raise RuntimeError(f"a server ended with {process.returncode}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2):
                break
            time.sleep(0.005)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def load(wrk: str, port: int, latencies: list[float] | None = None, path: str = "/users/42", **options: Any) -> float:
    """Requests served per second; the p99 in milliseconds is added to `latencies`. Options: seconds, connections."""
    connections, seconds = options.get("connections", 32), options.get("seconds", SECONDS)
    done = subprocess.run(
        [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=pin(1),
    ).stdout
    refused, asked = re.search(r"Non-2xx or 3xx responses: (\d+)", done), re.search(r"(\d+) requests in", done)
    assert asked, done
    # a service of ours sheds load while the machine stalls; what it refused was not served
    served = 1 - int(refused[1]) / int(asked[1]) if refused else 1.0
    if served < 0.9:
        raise RuntimeError(done)
    rate, late = re.search(r"Requests/sec:\s+([\d.]+)", done), re.search(r"99%\s+([\d.]+)(us|ms|s)", done)
    assert rate and late, done
    if latencies is not None:
        latencies.append(float(late[1]) * {"us": 0.001, "ms": 1, "s": 1000}[late[2]])
    return float(rate[1]) * served


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
