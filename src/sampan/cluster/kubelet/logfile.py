"""Container logs in the CRI format: `RFC3339Nano stdout|stderr F|P text`, one file per start, rotated by size.

`N.log` is being written (N counts starts), `N.log.1` is the part before it, up to `KEEP - 1` of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
KEEP = 5
MAX_LINE = 16 * 1024


class LogWriter:
    """Turns the raw output of one container start into a log file. Used by its supervisor."""

    def __init__(self, directory: Path, start: int, limit: int = MAX_BYTES) -> None:
        # By descriptor: a volume may come to cover the path.
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = f"{start}.log"
        self.limit = limit
        self._rest: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._open()

    def _open(self) -> None:
        self._fd = os.open(
            self._name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=self._directory
        )
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        stamp = _stamp()
        out = []
        for line in lines:
            body = line
            while len(body) > MAX_LINE:
                out.append(b"%s %s P %s\n" % (stamp, stream.encode(), body[:MAX_LINE]))
                body = body[MAX_LINE:]
            out.append(b"%s %s F %s\n" % (stamp, stream.encode(), body))
        while len(rest) > MAX_LINE:
            out.append(b"%s %s P %s\n" % (stamp, stream.encode(), rest[:MAX_LINE]))
            rest = rest[MAX_LINE:]
        self._rest[stream] = rest
        if out:
            self._append(b"".join(out))

    def _append(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError:
            return  # a full disk must not stop the container
        self._size += len(data)
        if self._size >= self.limit:
            self._rotate()

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in range(KEEP - 1, 0, -1):
            newer = self._name if number == 1 else f"{self._name}.{number - 1}"
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, f"{self._name}.{number}", src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._open()

    def close(self) -> None:
        for stream, rest in self._rest.items():
            if rest:
                self._append(b"%s %s P %s\n" % (_stamp(), stream.encode(), rest))
        os.close(self._fd)
        os.close(self._directory)


def _stamp() -> bytes:
    nanoseconds = time.time_ns()
    whole = time.gmtime(nanoseconds // 1_000_000_000)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", whole).encode(), nanoseconds % 1_000_000_000)
