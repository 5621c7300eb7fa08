"""Headers of ours as they go out: what the middleware adds to an answer, made ready for the protocol that writes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TELLING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})  # that the protocol goes by


class Ready:
    """Headers that every answer bears unless it sets them itself. The middleware hands them over as `sampan.head` of
    the start of an answer, and with them a line of that answer alone, `sampan.line`."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._lines = {name.lower(): b"%b: %b\r\n" % (name, value) for name, value in headers}
        self.block = b"".join(self._lines.values())
        self.names = TELLING.union(self._lines)  # that the protocol has to look at

    def without(self, present: set[bytes]) -> bytes:
        return b"".join([line for name, line in self._lines.items() if name not in present])
