"""Which events a consumer has had: an entry per event, committed with the handler's own work."""

from __future__ import annotations

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.service.data.tables import INBOX
from sampan.service.messaging.outbox import now


async def enter(session: AsyncSession, consumer: str, event_id: str) -> bool:
    """False when the event was entered before. A concurrent entry of the same event is waited for."""
    try:
        await session.execute(insert(INBOX).values(consumer=consumer, event_id=event_id[:64], created=now()))
    except IntegrityError:
        return False
    return True
