"""Streams of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model.bound import BoundTopic

E = TypeVar("E")


class _Missing:
    """Tells `publish()` from `publish(None)`."""


MISSING = _Missing()


class Topic(Handle, Generic[E]):
    """A stream of events of one type (a msgspec Struct, dataclass or pydantic model)."""

    kind = "topic"
    access = ("publish", "subscribe")

    def __init__(self, name: str, type: type[E]) -> None:
        super().__init__(name)
        self.type = type

    @property
    def directory(self) -> str:
        return "messaging"

    @overload
    def publish(self) -> Grant: ...

    @overload
    def publish(self, event: E, session: AsyncSession | None = None) -> Coroutine[Any, Any, None]: ...

    def publish(
        self, event: E | _Missing = MISSING, session: AsyncSession | None = None
    ) -> Grant | Coroutine[Any, Any, None]:
        """Without an argument the grant, for `uses`. With an event: publish it, by the outbox of `session` if given."""
        if isinstance(event, _Missing):
            return self._grant("publish")
        bound: BoundTopic = self._need()
        return bound.publish(event, session)

    def subscribe(self, handler: str, *, group: str = "", concurrency: int = 1, attempts: int = 5) -> Grant:
        """Consume with `handler` ("module:function"). Instances and services of one `group` share the events.

        `group` defaults to the name of the service; after `attempts` deliveries an event is set aside.
        """
        return self._grant("subscribe", handler=handler, group=group, concurrency=concurrency, attempts=attempts)
