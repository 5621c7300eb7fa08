"""Which events a consumer has had: an entry per event, committed with the handler's own work, in one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sampan.service.messaging.outbox import now

if TYPE_CHECKING:
    from sampan.model.bound import Transaction

_INTO: Final = "INTO sampan_inbox (consumer, event_id, created) VALUES (:consumer, :event_id, :created)"
# An entry of the same event that another transaction has not committed yet is waited for, on each of them.
ENTER: Final = {
    "mysql": f"INSERT IGNORE {_INTO}",
    "sqlite": f"INSERT {_INTO} ON CONFLICT DO NOTHING",
    "postgresql": f"INSERT {_INTO} ON CONFLICT DO NOTHING",
}
_TEXTS: Final = {dialect: text(statement) for dialect, statement in ENTER.items()}


async def enter(session: AsyncSession | Transaction, consumer: str, event_id: str) -> bool:
    """False when the event was entered before."""
    dialect = session.info["database"].dialect
    values = {"consumer": consumer, "event_id": event_id[:64], "created": now()}
    if isinstance(session, AsyncSession):
        done: Any = await session.execute(_TEXTS[dialect], values)
        return bool(done.rowcount)
    return bool((await session.execute(ENTER[dialect], **values)).rowcount)
