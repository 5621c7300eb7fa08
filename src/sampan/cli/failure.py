"""A command that cannot go on."""

from __future__ import annotations


class Failure(Exception):
    """What went wrong, for people; `code` is the exit code: 1 failed, 2 usage or bad input."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
