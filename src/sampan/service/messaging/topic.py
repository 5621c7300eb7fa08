"""The publishing side of a topic."""

from __future__ import annotations

import os
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from sampan.service.messaging.codec import encode
from sampan.service.messaging.port import VERSION, Broker, Message, key_text
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, outgoing_headers

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model.bound import Transaction

_CLASS: Final = type
# What the default settings of every broker take; NATS, the narrowest, counts headers too.
MAX_BYTES: Final = int(os.environ.get("SAMPAN_MESSAGING_MAX_BYTES", "1000000"))


class EventTooLarge(ValueError):
    """An event above the limit that holds for every broker."""

    http_status = 413


class BrokerTopic:
    """Implements `model.bound.BoundTopic`. `key` is the attribute of the event that orders it, dots lead deeper."""

    def __init__(self, name: str, type: Any, broker: Broker, *, key: str = "", version: int = 1) -> None:
        self.name, self.type, self.broker = name, type, broker
        expected = getattr(type, "__origin__", type)
        self._expected = expected if isinstance(expected, _CLASS) else object
        self._key = attrgetter(key) if key else None
        self._version = str(version)
        self._attributes: dict[str, tracing.Value] = {
            "messaging.system": broker.system,
            "messaging.destination.name": name,
        }

    async def publish(self, event: Any, session: AsyncSession | Transaction | None = None) -> None:
        """With `session`: stored in its outbox, and published once it has committed. Without: stored by the broker.

        TypeError for an event of another type, EventTooLarge, PublishError when the broker does not answer in time.
        """
        if not isinstance(event, self._expected):
            raise TypeError(f"topic {self.name!r} carries {self._expected.__name__}, not {type(event).__name__}")
        payload = encode(event)
        if len(payload) > MAX_BYTES:
            raise EventTooLarge(
                f"an event of topic {self.name!r} has {len(payload):,} bytes, at most {MAX_BYTES:,} are taken; "
                f"put what is large into a Bucket and send its key"
            )
        message = Message(self.name, payload, os.urandom(16).hex(), {VERSION: self._version})
        if self._key is not None:
            message.key = key_text(self._key(event))
        verb = "send" if session is None else "create"
        if CURRENT.get() is None:
            await self._hand_over(message, session)
            return
        attributes = {
            **self._attributes,
            "messaging.operation.name": verb,
            "messaging.operation.type": verb,
            "messaging.message.id": message.id,
        }
        with tracing.span(f"{verb} {self.name}", tracing.PRODUCER, attributes):
            message.headers |= outgoing_headers(CURRENT.get())
            await self._hand_over(message, session)

    async def _hand_over(self, message: Message, session: AsyncSession | Transaction | None) -> None:
        if session is None:
            await self.broker.publish(message)
        else:
            from sampan.service.messaging import outbox  # with it comes SQLAlchemy

            await outbox.insert(session, message)
