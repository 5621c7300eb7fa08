"""What every resource has: a kind, a name, the place of its declaration, a private binding; and what a grant is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from sampan.model.location import Location, here
from sampan.model.problems import NotBound

Access = Literal["read", "read_write", "publish", "subscribe"]


@dataclass(frozen=True)
class Grant:
    """Leave to use a resource. What follows `access` belongs to `subscribe`."""

    handle: Handle
    access: Access
    handler: str = ""
    group: str = ""
    concurrency: int = 1
    attempts: int = 5
    database: Handle | None = None
    commit: str = "handled"
    batch: int = 0
    timeout: float | None = 300.0
    location: Location = field(default_factory=here, compare=False)


class Handle:
    """What every resource has: a kind, a name (a DNS label), the place it was declared, and a private binding."""

    kind: ClassVar[str]
    access: ClassVar[tuple[Access, ...]] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.location = here()
        self._bound: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def directory(self) -> str:
        """The directory of its binding under `$SERVICE_BINDING_ROOT`."""
        return f"{self.kind}-{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides the `uri` of its binding."""
        return f"SAMPAN_{self.directory.upper().replace('-', '_')}_URI"

    @property
    def bound(self) -> bool:
        return self._bound is not None

    def bind(self, implementation: Any) -> None:
        """Put an implementation (see `bound.py`) behind the handle; None takes it away."""
        self._bound = implementation

    def _need(self) -> Any:
        if self._bound is None:
            raise NotBound(self._unbound())
        return self._bound

    def _unbound(self) -> str:
        return (
            f"{self!r}, declared at {self.location}, is not bound in this process. A handle works as a client inside "
            f"`sampan serve SERVICE`, for a service whose `uses` name it; elsewhere set {self.variable} "
            f"or call .bind(...)."
        )

    def _grant(self, access: Access, **more: Any) -> Grant:
        return Grant(self, access, **more)
