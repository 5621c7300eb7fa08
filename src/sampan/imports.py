"""Keeping start-up short: what libraries need not import, and what importing need not do. Of the standard library."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """What this thread imports inside meets these modules as not installed, unless they are loaded already.

    Only for libraries to which a module is optional, and where what they use it for is not used here.
    """
    hidden = _Hidden(names)
    sys.meta_path.insert(0, hidden)
    try:
        yield
    finally:
        sys.meta_path.remove(hidden)


class _Hidden:
    """A meta path finder that finds nothing of `names`, and lets nobody look further."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names, self._thread = names, threading.get_ident()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """What is made inside is not looked through for garbage, then or later: it is modules, classes and tables, which
    stay. Looking through them again and again is a ninth of the start-up of a service."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def courteous() -> Iterator[None]:
    """While a thread imports inside, the others wait for it half a millisecond at a time, not Python's usual five:
    a request takes several turns of the event loop, and each would wait."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
