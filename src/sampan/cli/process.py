"""The cluster process of a directory, seen from outside: is it running, start it, wait for it, stop it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sampan.cli.failure import Failure


class ClusterProcess:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def log(self) -> Path:
        return self.directory / "cluster.log"

    def info(self) -> dict[str, Any]:
        """cluster.json; empty when there is none."""
        try:
            found = json.loads((self.directory / "cluster.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def pid(self) -> int | None:
        """The process that holds the lock, if one runs. Raises Failure where another user keeps that to himself."""
        try:
            descriptor = os.open(self.directory / "lock", os.O_RDWR)
        except PermissionError as error:
            raise self._refused(error) from error
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = os.pread(descriptor, 32, 0).strip()
            return int(text) if text.isdigit() else -1
        finally:
            os.close(descriptor)
        return None

    def start(self, *, die_with_us: bool = False, network: str = "auto", warm: bool = False) -> bool:
        """Start it if it does not run. True when this call did. `die_with_us` ends it with this process; `network` is
        what pods are to have: auto, pods or loopback; `warm` prepares for pods that come at once."""
        if self.pid() is not None:
            return False
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            (self.directory / "cluster.json").unlink(missing_ok=True)
            self.log.touch(mode=0o600)
        except OSError as error:
            raise self._refused(error) from error
        command = [sys.executable, "-m", "sampan.cluster", "--directory", str(self.directory.resolve())]
        command += ["--network", network]
        if warm:
            command.append("--warm")
        if die_with_us:
            command.append("--with-parent")
        with self.log.open("ab") as log:
            self.log.chmod(0o600)
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "SAMPAN_STARTED": str(time.time())},
            )
        return True

    def _refused(self, error: OSError) -> Failure:
        """What to do when the state cannot be kept here."""
        owner = ""
        with contextlib.suppress(OSError):
            uid = self.directory.stat().st_uid
            owner = f" (it belongs to user {uid}, you are {os.geteuid()})" if uid != os.geteuid() else ""
        return Failure(
            f"the cluster's state cannot be kept in {self.directory}: {error.strerror}{owner}; "
            "go to a directory you may write, or name one with --directory",
            2,
        )

    def wait_ready(self, timeout: float) -> dict[str, Any]:
        """Until the API answers; cluster.json. Raises Failure with the log's end when it does not come."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            info = self.info()
            if info and self.pid() == info.get("pid"):
                return info
            if self._child is not None and self._child.poll() is not None:
                raise Failure(f"the cluster ended with {self._child.returncode}:\n{self.log_end()}")
            time.sleep(0.005)
        raise Failure(f"the cluster was not ready within {timeout:.0f} s:\n{self.log_end()}")

    def log_end(self, lines: int = 15) -> str:
        try:
            text = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            return "(no log)"
        return "\n".join(f"  {line}" for line in text)

    def stop(self, timeout: float = 45.0) -> bool:
        """Stop it gracefully; True if one was running. Raises Failure when it will not end."""
        pid = self.pid()
        if pid is None:
            return False
        if pid < 1:
            raise Failure(f"{self.directory / 'lock'} is held, but names no process")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self.pid() is not None:
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # what it started dies with it
                raise Failure(f"the cluster (process {pid}) did not stop within {timeout:.0f} s and was killed")
            self._reap()
            time.sleep(0.02)
        self._reap()
        return True

    def _reap(self) -> None:
        if self._child is not None:
            self._child.poll()
