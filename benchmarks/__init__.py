"""Measuring beside a peer: every figure is taken here and now, ours and the peer's in turns, and given as a ratio.

An area is a module `benchmarks/AREA.py` with `def run() -> Iterable[Row]`. A ratio above 1 means better than the peer.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
_CALM = 0.01  # of one processor's time


class PeerMissing(Exception):
    """The peer cannot be run on this machine. The text says what is missing."""


@dataclass(frozen=True)
class Row:
    """One figure. Without a peer (`peer` empty) there is no ratio. `p99` and `peer_p99` are latencies in ms."""

    area: str
    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    p99: float | None = None
    peer_p99: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Latencies only where some were measured."""
        return {name: value for name, value in asdict(self).items() if value is not None or "p99" not in name}


def row(
    area: str,
    name: str,
    value: float,
    unit: str,
    *,
    peer: str = "",
    peer_value: float | None = None,
    more_is_better: bool = False,
    p99: float | None = None,
    peer_p99: float | None = None,
) -> Row:
    """A row with its ratio worked out."""
    ratio = None
    if peer_value is not None:
        top, bottom = (value, peer_value) if more_is_better else (peer_value, value)
        ratio = top / bottom if bottom else None
    return Row(area, name, value, unit, peer, peer_value, ratio, p99, peer_p99)


Measured = Callable[[], float | None]
T = TypeVar("T")


def compare(ours: Measured, peer: Measured, rounds: int = 7, *, warm_up: int = 1) -> tuple[float, float]:
    """The medians of both, run in turns so that what else the machine does meets both alike.

    A callable that returns a number has measured itself; one that returns None is timed, in seconds.
    """
    for _ in range(warm_up):
        ours()
        peer()
    mine, theirs = turns(rounds, partial(once, ours), partial(once, peer))
    return statistics.median(mine), statistics.median(theirs)


def turns(rounds: int, *sides: Callable[[], T]) -> list[list[T]]:
    """What each side gave in `rounds` turns.

    A turn counts for little when the host of a virtual machine gave its processors to another meanwhile. Linux says
    how much time that was ("steal", proc_stat(5)). Until each side has `rounds` turns that lost at most 1 %, further
    ones are taken, up to twice as many; then the calmest count. What a turn gave has no part in the choice.
    """
    taken: list[list[tuple[float, T]]] = [[] for _ in sides]
    for number in range(2 * rounds):
        order = list(zip(sides, taken, strict=True))
        for measured, kept in order if number % 2 == 0 else reversed(order):
            started, before = time.perf_counter(), stolen()
            value = measured()
            lost = (stolen() - before) / (time.perf_counter() - started)
            kept.append((max(lost, _CALM), value))
        if all(sum(lost <= _CALM for lost, _ in kept) >= rounds for kept in taken):
            break
    return [[value for _, value in sorted(kept, key=itemgetter(0))[:rounds]] for kept in taken]


def stolen() -> float:
    """Seconds that the host took from all processors since the start; 0 where the system does not say."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as stat:
            return int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def median(ours: Measured, rounds: int = 7, *, warm_up: int = 1) -> float:
    """The median of one alone; see `compare`."""
    for _ in range(warm_up):
        ours()
    return statistics.median(turns(rounds, partial(once, ours))[0])


def once(measured: Measured) -> float:
    started = time.perf_counter()
    value = measured()
    return time.perf_counter() - started if value is None else value


def process(*command: object, cwd: Path = ROOT, **environment: str) -> Measured:
    """A callable that runs a command to its end; its failure is an error that shows what it wrote."""

    def run() -> None:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")

    return run


def environment() -> dict[str, str]:
    """Ours, but that Python keeps what it compiles, as an installed package has it compiled."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def program(name: str, remedy: str) -> str:
    """The path of a peer that is a program of this machine. Raises PeerMissing."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        raise PeerMissing(f"{name} is not on this machine ({remedy})")
    return found


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment that holds a peer's packages, kept in the user's cache. Raises PeerMissing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sampan" / "bench"
    folder = cache / f"{name}-{sys.version_info[0]}.{sys.version_info[1]}"
    python, mark = folder / "bin/python", folder / ".complete"
    wanted = "\n".join(requirements)
    if mark.exists() and mark.read_text() == wanted:
        return python
    uv = Path(sys.executable).parent / "uv"
    steps: list[list[object]] = [
        [uv, "venv", "--quiet", "--clear", folder],
        [uv, "pip", "install", "--quiet", "--python", python, *requirements],
    ]
    for step in steps:
        try:
            done = subprocess.run([str(p) for p in step], capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerMissing(f"{name} could not be installed: {error}") from error
        if done.returncode:
            raise PeerMissing(f"{name} could not be installed: {done.stderr.strip()[-300:]}")
    mark.write_text(wanted)
    return python
