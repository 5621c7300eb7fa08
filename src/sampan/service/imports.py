"""Keeping start-up short: libraries import what they may need; here they are told that it is not there."""

from __future__ import annotations

import contextlib
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
