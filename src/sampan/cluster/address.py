"""The loopback slice of a cluster: which `127.N.0.0/16` is its own, kept in DIR and locked while the cluster runs.

127.N.0.1                      the node; 127.N.0.2 - 127.N.0.254 are load balancers
127.N.1.1   - 127.N.127.254    pods
127.N.128.1 - 127.N.255.254    cluster IPs
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

SLICES = range(64, 251)
LOCK_PORT = 47301  # bound on 127.N.0.1 for as long as a cluster owns the slice; the kernel frees it on kill -9


class NoFreeSlice(OSError):
    """Every slice of 127.64.0.0 - 127.250.255.255 is taken by a running cluster."""


class Slice:
    """An owned slice. `close` gives it back; so does the end of the process."""

    def __init__(self, number: int, lock: socket.socket) -> None:
        self.number = number
        self._lock = lock

    @property
    def node(self) -> str:
        return f"127.{self.number}.0.1"

    @property
    def service_cidr(self) -> str:
        return f"127.{self.number}.128.0/17"

    def load_balancers(self) -> Iterator[str]:
        """The addresses for Services of type LoadBalancer."""
        return (f"127.{self.number}.0.{last}" for last in range(2, 255))

    def close(self) -> None:
        self._lock.close()


def acquire(directory: Path) -> Slice:
    """The slice kept in `directory/slice` if nobody else runs on it, else a free one, which is then kept.

    Raises NoFreeSlice.
    """
    record = directory / "slice"
    kept = _kept(record)
    # The directory's name decides where the search begins, so that clusters seldom contend and addresses stay the same.
    start = int.from_bytes(hashlib.sha256(os.fsencode(directory.resolve())).digest()[:4], "big") % len(SLICES)
    candidates = [SLICES[(start + step) % len(SLICES)] for step in range(len(SLICES))]
    for number in ([kept] if kept else []) + candidates:
        lock = _lock(number)
        if lock is None:
            continue
        if number != kept:
            beside = record.with_name("slice.new")
            beside.write_text(f"{number}\n")
            beside.replace(record)
        return Slice(number, lock)
    raise NoFreeSlice("no free address slice: 187 clusters are running on this machine; stop one with `sampan down`")


def _kept(record: Path) -> int | None:
    try:
        number = int(record.read_text())
    except (OSError, ValueError):
        return None
    return number if number in SLICES else None


def _lock(number: int) -> socket.socket | None:
    lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.suppress(OSError):
        # no SO_REUSEADDR: it never listens, and a second binder must fail
        lock.bind((f"127.{number}.0.1", LOCK_PORT))
        return lock
    lock.close()
    return None


def reserve_port(preferred: int, attempts: int = 200) -> tuple[int, socket.socket]:
    """A free TCP port of 127.0.0.1 from `preferred` on, and a UDP socket on the same number: while it is open, no other
    cluster chooses this port, though nobody listens there yet. Raises OSError."""
    for port in range(preferred, preferred + attempts):
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError, OverflowError):
            holder.bind(("127.0.0.1", port))
            if can_bind("127.0.0.1", port) is None:
                return port, holder
        holder.close()
    raise OSError(f"no free port on 127.0.0.1 between {preferred} and {preferred + attempts}")


def keep_port(record: Path, preferred: int) -> tuple[int, socket.socket]:
    """`reserve_port` from the port in the file `record` on, or from `preferred`; written there. Raises OSError."""
    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(OSError, ValueError):
        preferred = int(record.read_text())
    port, holder = reserve_port(preferred)
    beside = record.with_name(f".{record.name}.new")
    beside.write_text(f"{port}\n")
    beside.replace(record)
    return port, holder


def can_bind(host: str, port: int) -> OSError | None:
    """None when a TCP listener could be opened there now, else the error that says why not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None
