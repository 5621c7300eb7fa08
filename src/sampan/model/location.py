"""Where the user wrote a declaration, so that an error can show the line."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from typing import NamedTuple


class Location(NamedTuple):
    """A file (absolute path) and a line number counted from 1."""

    file: str
    line: int

    @property
    def source(self) -> str:
        """The text of the line, stripped; empty when the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        try:
            shown = str(Path(self.file).relative_to(Path.cwd()))
        except (ValueError, OSError):
            shown = self.file
        return f"{shown}:{self.line}"


def here() -> Location:
    """The nearest caller outside this package."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("sampan.model") and frame.f_back is not None:
        frame = frame.f_back
    return Location(frame.f_code.co_filename, frame.f_lineno)
