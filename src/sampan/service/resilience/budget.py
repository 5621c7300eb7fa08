"""How much may be sent again: a share of the calls, so that retries never multiply an outage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_MOST: Final = 10.0  # retries saved up from good times


class RetryBudget:
    """Every call adds `share` of a retry, every second `minimum` (so that rare calls may be repeated too)."""

    def __init__(self, share: float, minimum: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.share, self.minimum, self.clock = share, minimum, clock
        self.left = _MOST if share or minimum else 0.0
        self._since = clock()

    def called(self) -> None:
        if self.left < _MOST:
            self.left += self.share

    def take(self) -> bool:
        """Whether one retry may be sent now."""
        now = self.clock()
        self.left = min(_MOST, self.left + (now - self._since) * self.minimum)
        self._since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True
