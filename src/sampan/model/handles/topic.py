"""Streams of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from sampan.model.handles.base import Grant, Handle

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model.bound import BoundTopic, Transaction
    from sampan.model.handles.database import Database

E = TypeVar("E")


class _Missing:
    """Tells `publish()` from `publish(None)`."""


MISSING = _Missing()


class Topic(Handle, Generic[E]):
    """A stream of events of one type (a msgspec Struct, dataclass or pydantic model).

    `key` names the attribute whose events are handled in order, one at a time ("user_id", "order.number"). `partitions`
    is how many lanes the keys are spread over, and so how many instances of a group can share the work; it stays as it
    is while events are about. `version` goes with every event, for consumers of long ago and later.
    """

    kind = "topic"
    access = ("publish", "subscribe")

    def __init__(
        self, name: str, type: type[E], *, key: str | None = None, partitions: int = 8, version: int = 1
    ) -> None:
        super().__init__(name)
        self.type = type
        self.key = key
        self.partitions = partitions
        self.version = version

    @property
    def directory(self) -> str:
        return "messaging"

    @overload
    def publish(self) -> Grant: ...

    @overload
    def publish(self, event: E, session: AsyncSession | Transaction | None = None) -> Coroutine[Any, Any, None]: ...

    def publish(
        self, event: E | _Missing = MISSING, session: AsyncSession | Transaction | None = None
    ) -> Grant | Coroutine[Any, Any, None]:
        """Without an argument the grant, for `uses`. With an event: publish it, by the outbox of `session` if given."""
        if isinstance(event, _Missing):
            return self._grant("publish")
        bound: BoundTopic = self._need()
        return bound.publish(event, session)

    def subscribe(
        self,
        handler: str,
        *,
        group: str = "",
        concurrency: int = 1,
        attempts: int = 5,
        database: Database | None = None,
        commit: Literal["handled", "automatic"] = "handled",
        batch: int = 0,
        timeout: float | None = 300.0,
    ) -> Grant:
        """Consume with `handler` ("module:function"). Instances and services of one `group` share the events.

        `group` defaults to the name of the service; after `attempts` deliveries an event is set aside. `concurrency`
        events are handled at a time, those of one key never. `database` gives the handler its session or transaction;
        it need not be said where the service writes to one only. commit="automatic" acknowledges before handling: at
        most once, never tried again. `batch` is how many events at most a handler that takes a list is given (100).
        A handler that takes longer than `timeout` seconds is cancelled and has failed; None: it may take for ever.
        """
        return self._grant(
            "subscribe",
            handler=handler,
            group=group,
            concurrency=concurrency,
            attempts=attempts,
            database=database,
            commit=commit,
            batch=batch,
            timeout=timeout,
        )
