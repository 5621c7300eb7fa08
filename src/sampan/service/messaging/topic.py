"""The publishing side of a topic."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sampan.service.messaging.broker import MESSAGE_ID, Broker
from sampan.service.messaging.codec import encode
from sampan.service.telemetry.context import CURRENT, outgoing_headers

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


class BrokerTopic:
    """Implements `model.bound.BoundTopic`."""

    def __init__(self, name: str, type: Any, broker: Broker) -> None:
        self.name, self.type, self.broker = name, type, broker

    async def publish(self, event: Any, session: AsyncSession | None = None) -> None:
        """With `session`: stored in its outbox, and published once it has committed. Without: stored by the broker.

        TypeError for an event of another type, PublishError when the broker does not answer in time.
        """
        expected = getattr(self.type, "__origin__", self.type)
        if isinstance(expected, type) and not isinstance(event, expected):
            raise TypeError(f"topic {self.name!r} carries {expected.__name__}, not {type(event).__name__}")
        payload, event_id = encode(event), os.urandom(16).hex()
        headers = outgoing_headers(CURRENT.get())
        if session is None:
            await self.broker.publish(self.name, payload, {**headers, MESSAGE_ID: event_id})
        else:
            from sampan.service.messaging import outbox

            await outbox.insert(session, event_id, self.name, headers, payload)
