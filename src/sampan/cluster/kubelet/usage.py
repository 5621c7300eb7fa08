"""CPU and memory of containers, from their control groups, else from /proc: every second CPU, every fifth memory (each
second by groups), averaged over a short window."""

from __future__ import annotations

import os
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from sampan.cluster.kubelet.cgroups import Group
from sampan.cluster.kubelet.supervisor import descendants
from sampan.cluster.runtime import Usage

INTERVAL = 1.0
WINDOW = 8
MEMORY_EVERY = 5
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Samples of one container's process tree."""

    def __init__(self, pid: int, group: Group | None = None) -> None:
        """`group`: the container's control group, which knows better than its processes."""
        self.pid = pid
        self._group = group
        self._cpu: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._last: dict[int, float] = {}
        self._total = 0.0
        self._count = 0
        self.memory = 0

    def sample(self) -> None:
        """Read once. Without a group, time of processes that ended between two samples counts as last seen."""
        if self._group is not None:
            self._cpu.append((time.monotonic(), self._group.cpu_seconds()))
            self.memory = self._group.memory()
            return
        pids = [self.pid, *descendants(self.pid)]
        seen: dict[int, float] = {}
        for pid in pids:
            seconds = _cpu_seconds(pid)
            if seconds is not None:
                seen[pid] = seconds
                self._total += max(0.0, seconds - self._last.get(pid, 0.0))
        self._last = seen
        self._cpu.append((time.monotonic(), self._total))
        if self._count % MEMORY_EVERY == 0:
            self.memory = sum(_proportional_memory(pid) for pid in pids)
        self._count += 1

    def usage(self) -> Usage | None:
        """None until there are two samples."""
        if len(self._cpu) < 2:
            return None
        (start, first), (end, last) = self._cpu[0], self._cpu[-1]
        window = max(end - start, 0.001)
        return Usage((last - first) / window, self.memory, datetime.now(UTC), window)


def _cpu_seconds(pid: int) -> float | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _proportional_memory(pid: int) -> int:
    """PSS: pages a warm container still shares with the zygote are divided among all that share them."""
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open() as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    except OSError:
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        except OSError:
            return 0
