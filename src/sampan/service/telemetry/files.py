"""A log file that is rotated by size: `app.log`, `app.log.1`, ... the newest first, whole lines in each.

Written by one process. Who moves the file away (logrotate) finds a new one begun within a second.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

_LOOK_SECONDS: Final = 1.0


class LogFile:
    """`write` takes whole lines. `lost` counts those that found no room on the disk."""

    def __init__(self, path: Path, max_bytes: int = 50 * 2**20, count: int = 5) -> None:
        """`count` older files are kept beside the one written to. OSError when it cannot be opened."""
        self.path, self.max_bytes, self.count = path, max_bytes, count
        self.lost = 0
        self._looked = 0.0
        self._open()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        found = os.fstat(self._file)
        self._size, self._inode = found.st_size, found.st_ino

    def write(self, lines: bytes) -> None:
        self._follow()
        if self._size and self._size + len(lines) > self.max_bytes:
            self._rotate()
        before, data = self._size, memoryview(lines)
        try:
            while data:
                written = os.write(self._file, data)
                data = data[written:]
                self._size += written
        except OSError:  # the disk is full: no half line stays, and the service goes on
            self.lost += lines.count(b"\n")
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
                self._size = before

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            there = self.path.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            self._again()

    def _again(self) -> None:
        """Open the path anew; what is open stays when that fails."""
        old = self._file
        with contextlib.suppress(OSError):
            self._open()
            os.close(old)

    def _rotate(self) -> None:
        try:
            for number in range(self.count, 0, -1):
                older = self.path.with_name(f"{self.path.name}.{number}")
                newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
                with contextlib.suppress(FileNotFoundError):
                    newer.replace(older)
            if not self.count:
                self.path.unlink()
        except OSError:  # nothing may be renamed here: the file grows on
            return
        self._again()

    def close(self) -> None:
        os.close(self._file)


def from_environment() -> LogFile | None:
    """The file SAMPAN_LOG_FILE names, of at most SAMPAN_LOG_FILE_BYTES (52428800), with SAMPAN_LOG_FILE_COUNT (5)
    older ones. ValueError and OSError say what is wrong."""
    path = os.environ.get("SAMPAN_LOG_FILE", "")
    if not path:
        return None
    numbers = {}
    for variable, default in (("SAMPAN_LOG_FILE_BYTES", 50 * 2**20), ("SAMPAN_LOG_FILE_COUNT", 5)):
        given = os.environ.get(variable, "") or str(default)
        if not given.isdecimal():
            raise ValueError(f"{variable}={given} is no whole number")
        numbers[variable] = int(given)
    return LogFile(Path(path), *numbers.values())
