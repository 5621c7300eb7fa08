"""What is wrong with a declaration: the mistake, the line the user wrote, and the way to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.model.location import Location


class Problem(Struct, frozen=True):
    """One mistake. `severity` is `error` (the application cannot be compiled) or `warning`."""

    message: str
    location: Location | None
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.message}"]
        if self.location is not None:
            lines.append(f"  --> {self.location}")
            if self.location.source:
                lines.append(f"   |  {self.location.source}")
        lines.append(f"   = {self.remedy}")
        return "\n".join(lines)


class ModelError(Exception):
    """Every mistake found in an application, together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        count = len(self.problems)
        heading = "1 problem" if count == 1 else f"{count} problems"
        return f"{heading} in the declaration\n\n" + "\n\n".join(map(str, self.problems))


class NotBound(RuntimeError):
    """A handle was used as a client outside a process in which it is bound."""
