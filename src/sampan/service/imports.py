"""Keeping start-up short: what libraries need not import, and what importing need not do."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """What is imported inside meets these modules as not installed, unless they are loaded already.

    Only for libraries to which a module is optional, and where what they use it for is not used here.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as `import` defines it, not to be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


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
