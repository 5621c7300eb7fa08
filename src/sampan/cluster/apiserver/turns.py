"""Watches by turns: the changes that come together go out together, made once for all who see the same of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any

from sampan.cluster.apiserver.call import Frame
from sampan.cluster.store import Table

FRAMES, BYTES = 64, 64 * 1024
"""A turn has at most so many frames, and no further one after so many bytes of objects."""


class Turn:
    """Frames that go out together, at least one."""

    __slots__ = ("_encoded", "frames")

    def __init__(self, frames: list[Frame]) -> None:
        self.frames = frames
        self._encoded = b""

    def encode(self) -> bytes:
        if not self._encoded:
            self._encoded = b"".join([frame.encode() for frame in self.frames])
        return self._encoded


class Turns:
    """A watch as what goes out together (`turns`), and as an iterator of single frames. Use one or the other."""

    def __init__(self, turns: AsyncGenerator[Turn]) -> None:
        self.turns = turns
        self._frames: Iterator[Frame] = iter(())

    def __aiter__(self) -> Turns:
        return self

    async def __anext__(self) -> Frame:
        while (frame := next(self._frames, None)) is None:
            self._frames = iter((await anext(self.turns)).frames)
        return frame

    async def aclose(self) -> None:
        await self.turns.aclose()


def grouped(frames: Iterable[Frame]) -> Iterator[Turn]:
    """The frames in turns, made as they are taken."""
    group: list[Frame] = []
    size = 0
    for frame in frames:
        group.append(frame)
        size += len(frame.entry.encoded) if frame.entry is not None else 0
        if size > BYTES or len(group) == FRAMES:
            yield Turn(group)
            group, size = [], 0
    if group:
        yield Turn(group)


class Latest:
    """The latest turn of each table, by who sees it: those without a selector who are as far as one another."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[int, dict[Any, list[Turn]]]] = {}

    def of(self, table: Table) -> dict[Any, list[Turn]]:
        """The turns that bring somebody up to the table's last change; empty as long as nobody made one."""
        held = self._tables.get(table.name)
        if held is None or held[0] != table.last:
            held = self._tables[table.name] = (table.last, {})
        return held[1]
