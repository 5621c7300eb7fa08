"""Limits that the kernel enforces: one control group a container, in either version of cgroups(7).

A pod's `resources` become memory.max, cpu.max and cpu.weight (in version 1: memory.limit_in_bytes, cpu.cfs_quota_us,
cpu.shares) by the formulas of the kubelet. Groups lie below one of the cluster's own, which is removed when it ends, by
`keep` also after a kill -9. Ephemeral storage is not limited.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.kube.objects import Object

CONTROLLERS = ("memory", "cpu", "pids")
PIDS = 4096  # processes and threads a container; a fork bomb ends there
_PERIOD = 100_000  # microseconds
_USER_SERVICE = "user.slice/user-{0}.slice/user@{0}.service"


class Unavailable(OSError):
    """This system lets us make no groups; the message says why."""


class Group:
    """One container's group: a directory for each hierarchy, which in version 2 is one and the same."""

    def __init__(self, directories: dict[str, Path], version: int) -> None:
        self._directories = directories
        self._version = version

    @property
    def entries(self) -> list[str]:
        """Files that a process writes "0" to in order to join."""
        return [str(directory / "cgroup.procs") for directory in dict.fromkeys(self._directories.values())]

    def limit(self, resources: Object) -> None:
        """Set what a container's `resources` say. Raises OSError."""
        from sampan.kube.quantity import milli, to_bytes  # the warm parent, which imports this module, needs none

        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        shares = _shares(milli(str(requests.get("cpu", limits.get("cpu", 0)))))
        quota = max(1000, milli(str(limits["cpu"])) * _PERIOD // 1000) if limits.get("cpu") else None
        memory = to_bytes(str(limits["memory"])) if limits.get("memory") else None
        if self._version == 1:
            self._set("cpu", "cpu.shares", shares)
            self._set("cpu", "cpu.cfs_quota_us", -1 if quota is None else quota)
            if memory is not None:
                self._set("memory", "memory.limit_in_bytes", memory)
                with contextlib.suppress(OSError):  # not every kernel accounts swap
                    self._set("memory", "memory.memsw.limit_in_bytes", memory)
        else:
            self._set("cpu", "cpu.weight", 1 + (shares - 2) * 9999 // 262142)
            self._set("cpu", "cpu.max", f"{'max' if quota is None else quota} {_PERIOD}")
            if memory is not None:
                self._set("memory", "memory.max", memory)
                self._set("memory", "memory.oom.group", 1)
                with contextlib.suppress(OSError):
                    self._set("memory", "memory.swap.max", 0)
        self._set("pids", "pids.max", PIDS)

    def _set(self, controller: str, name: str, value: int | str) -> None:
        (self._directories[controller] / name).write_text(f"{value}")

    def oom_kills(self) -> int:
        """How often the kernel has killed in here for want of memory."""
        return self._field("memory", "memory.oom_control" if self._version == 1 else "memory.events", "oom_kill")

    def cpu_seconds(self) -> float:
        if self._version == 1:
            fields = self._fields("cpuacct", "cpuacct.usage")
            return fields.get("", 0) / 1e9
        return self._field("cpu", "cpu.stat", "usage_usec") / 1e6

    def memory(self) -> int:
        """The working set, as `kubectl top` shows it: what is charged, less the file pages that can go at once."""
        name, idle = (
            ("memory.usage_in_bytes", "total_inactive_file")
            if self._version == 1
            else ("memory.current", "inactive_file")
        )
        used = self._fields("memory", name).get("", 0)
        return max(0, used - self._field("memory", "memory.stat", idle))

    def _field(self, controller: str, name: str, field: str) -> int:
        return self._fields(controller, name).get(field, 0)

    def _fields(self, controller: str, name: str) -> dict[str, int]:
        found = {}
        with contextlib.suppress(OSError, ValueError):
            for line in (self._directories[controller] / name).read_text().splitlines():
                key, _, value = line.rpartition(" ")
                found[key] = int(value)
        return found

    def remove(self) -> None:
        """Once its processes have ended."""
        remove(self._directories.values(), 1.0)

    def dismiss(self) -> None:
        """Remove it without waiting for its last processes, which have been killed."""
        what = (list(self._directories.values()), 60.0)
        threading.Thread(target=remove, args=what, name="leave-group", daemon=True).start()


class Groups:
    """Makes the groups of one cluster, below directories of its own."""

    def __init__(self, name: str, roots: dict[str, Path], version: int) -> None:
        self.version = version
        self._own = {controller: root / name for controller, root in roots.items()}

    @classmethod
    def find(cls, name: str) -> Groups:
        """Below directories called `name` and some digits, of which one cluster lives at a time. Raises Unavailable.

        The digits differ each time: whoever removes the groups of a cluster that has ended removes none of its
        successor. What nobody came to remove goes here.
        """
        first, digits = "", os.urandom(3).hex()
        for version, roots in _hierarchies():
            for left in [found for root in {*roots.values()} for found in root.glob(f"{name}-*")]:
                _removed(left)
            groups = cls(f"{name}-{digits}", roots, version)
            try:
                groups._make()
                groups._try()
            except OSError as error:
                first = first or f"{error.filename or ''}: {error.strerror}".lstrip(": ")
                groups.close()
                continue
            return groups
        raise Unavailable(first or "no control groups for memory, cpu and pids are mounted")

    def _make(self) -> None:
        for directory in dict.fromkeys(self._own.values()):
            directory.mkdir(exist_ok=True)
        if self.version == 1:
            # All pods together weigh what their number would; otherwise they would count as one process.
            (self._own["cpu"] / "cpu.shares").write_text(str(4096 * (os.cpu_count() or 1)))
        else:
            own = self._own["memory"]
            (own / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in CONTROLLERS))
            (own / "cpu.weight").write_text("1000")

    def _try(self) -> None:
        """Make one, and put a process in: a directory may be ours while the way into it is not."""
        group = self.create("try", {"limits": {"memory": "64Mi", "cpu": "1"}})
        with subprocess.Popen(["/bin/sh", "-c", "read end"], stdin=subprocess.PIPE) as child:
            try:
                for path in group.entries:
                    Path(path).write_text(str(child.pid))
            finally:
                child.kill()
        group.remove()

    def create(self, name: str, resources: Object) -> Group:
        """A group with the limits of a container's `resources`. Raises OSError."""
        directories = {controller: own / name for controller, own in self._own.items()}
        for directory in dict.fromkeys(directories.values()):
            directory.mkdir(exist_ok=True)
        group = Group(directories, self.version)
        try:
            group.limit(resources)
        except OSError:
            group.remove()
            raise
        return group

    @property
    def directories(self) -> list[str]:
        return [str(own) for own in dict.fromkeys(self._own.values())]

    def close(self) -> None:
        remove(self._own.values(), 0.5)


def join(entries: list[int]) -> None:
    """Put the calling process into groups by descriptors of their `entries`."""
    for fd in entries:
        os.write(fd, b"0")


def keep(channel: socket.socket, directories: list[str]) -> None:
    """Wait for the cluster's end, however it comes, and remove its groups. Never returns."""
    with contextlib.suppress(OSError):
        while channel.recv(64):
            pass
    remove([Path(directory) for directory in directories], 10.0)
    os._exit(0)


def remove(directories: object, seconds: float) -> None:
    """Remove groups and what is below them; the last processes may still be ending, for `seconds` at most."""
    deadline = time.monotonic() + seconds
    waiting = list(dict.fromkeys(directories))  # type: ignore[call-overload]
    while waiting:
        waiting = [directory for directory in waiting if not _removed(directory)]
        if not waiting or time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _removed(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        for child in list(directory.iterdir()):
            if child.is_dir():
                _removed(child)
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _shares(millicores: int) -> int:
    return max(2, min(262144, millicores * 1024 // 1000))


def _hierarchies() -> list[tuple[int, dict[str, Path]]]:
    """Where groups might be made, best first: (version, controller -> directory)."""
    mounts: dict[str, Path] = {}
    unified: Path | None = None
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            place = line.split()[4]
            kind, _, options = line.partition(" - ")[2].split()[:3]
            if kind == "cgroup2":
                unified = Path(place)
            elif kind == "cgroup":
                mounts |= {option: Path(place) for option in options.split(",")}
    found = []
    if unified is not None and _has(unified):
        service = unified / _USER_SERVICE.format(os.getuid())
        places = [unified] if os.getuid() == 0 else [service] if service.is_dir() else [unified]
        found += [(2, dict.fromkeys(CONTROLLERS, place)) for place in places]
    if all(controller in mounts for controller in (*CONTROLLERS, "cpuacct")):
        found.append((1, {controller: mounts[controller] for controller in (*CONTROLLERS, "cpuacct")}))
    return found


def _has(unified: Path) -> bool:
    with contextlib.suppress(OSError):
        return set(CONTROLLERS) <= set((unified / "cgroup.controllers").read_text().split())
    return False
