"""Reading container logs back: options of `pods/NAME/log`, following across rotation."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from sampan.cluster.kubelet.logfile import KEEP
from sampan.cluster.runtime import LogOptions

POLL = 0.1


def parts(path: Path) -> list[Path]:
    """The files of one log, oldest first."""
    older = [path.with_name(f"{path.name}.{n}") for n in range(KEEP - 1, 0, -1)]
    return [part for part in (*older, path) if part.exists()]


def render(line: bytes, options: LogOptions) -> bytes:
    """What a client gets for one CRI line; empty when it is too old."""
    stamp, _, rest = line.partition(b" ")
    _, _, rest = rest.partition(b" ")
    tag, _, text = rest.partition(b" ")
    if options.since is not None and _time(stamp) < options.since:
        return b""
    text = text.removesuffix(b"\n")
    return (stamp + b" " if options.timestamps else b"") + text + (b"" if tag == b"P" else b"\n")


def _time(stamp: bytes) -> datetime:
    try:
        whole, _, fraction = stamp.decode().rstrip("Z").partition(".")
        return datetime.fromisoformat(f"{whole}.{fraction[:6] or '0'}").replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _existing(path: Path, options: LogOptions) -> tuple[list[bytes], int, int]:
    """Rendered lines on disk, and where reading stopped in the current file: (lines, inode, offset)."""
    inode, offset = 0, 0

    def lines() -> Iterator[bytes]:
        nonlocal inode, offset
        for part in parts(path):
            with part.open("rb") as file:
                inode, offset = os.fstat(file.fileno()).st_ino, 0
                for line in file:
                    if line.endswith(b"\n"):
                        offset += len(line)
                        if text := render(line, options):
                            yield text

    if options.tail_lines is not None:
        return list(deque(lines(), maxlen=max(0, options.tail_lines))), inode, offset
    return list(lines()), inode, offset


async def read(path: Path, options: LogOptions, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log in chunks. With `follow`, until `ended()` and everything is read."""
    budget = options.limit_bytes if options.limit_bytes is not None else -1
    lines, inode, offset = await asyncio.to_thread(_existing, path, options)
    pending = b"".join(lines)
    while True:
        if pending:
            if budget >= 0:
                pending = pending[:budget]
                budget -= len(pending)
            for start in range(0, len(pending), 1 << 16):
                yield pending[start : start + (1 << 16)]
        if not options.follow or budget == 0:
            return
        over = ended()
        pending, inode, offset = _more(path, options, inode, offset)
        if not pending:
            if over:
                return
            await asyncio.sleep(POLL)


def _more(path: Path, options: LogOptions, inode: int, offset: int) -> tuple[bytes, int, int]:
    """Whole lines written since; a rotated file is finished before the next is begun."""
    current = next((p for p in reversed(parts(path)) if p.stat().st_ino == inode), path if path.exists() else None)
    if current is None:
        return b"", inode, offset
    with current.open("rb") as file:
        now = os.fstat(file.fileno()).st_ino
        offset = offset if now == inode else 0
        file.seek(offset)
        data = file.read(1 << 20)
    whole = data[: data.rfind(b"\n") + 1]
    if not whole and current != path:
        following = parts(path)
        nearer = following[following.index(current) + 1]
        return b"", nearer.stat().st_ino, 0
    text = b"".join(render(line + b"\n", options) for line in whole.split(b"\n")[:-1])
    return text, now, offset + len(whole)
