"""Settings that may change, and secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sampan.model.handles.base import Handle
from sampan.model.values import several

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sampan.model.bound import BoundConfig, BoundSecret

S = TypeVar("S")


class Secret(Handle):
    """A Kubernetes Secret provided from outside. `keys` are those the code reads; `up` makes up their local values."""

    kind = "secret"

    def __init__(self, name: str, keys: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.keys = several(keys)

    def __getitem__(self, key: str) -> str:
        bound: BoundSecret = self._need()
        return bound[key]


class Config(Handle, Generic[S]):
    """Settings that may change while the service runs: a typed object, a ConfigMap with a key per field.

    `values` fill fields of `type` (a msgspec Struct, dataclass or pydantic model) for every environment.
    """

    kind = "config"

    def __init__(self, name: str, type: type[S], values: Mapping[str, Any] | None = None) -> None:
        super().__init__(name)
        self.type = type
        self.values = dict(values or {})

    @property
    def value(self) -> S:
        """The present settings."""
        bound: BoundConfig = self._need()
        value: S = bound.value
        return value

    def on_change(self, callback: Callable[[S], object]) -> Callable[[], None]:
        """Call back, or await, with the new settings after each change; the returned function ends that."""
        bound: BoundConfig = self._need()
        return bound.on_change(callback)
