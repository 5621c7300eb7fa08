"""Which events a consumer has had: an entry per event, committed with the handler's own work, in one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from sampan.service.data.sql import Transaction
from sampan.service.messaging.outbox import clause, now

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from sampan.model import bound

_INTO: Final = "INTO sampan_inbox (consumer, event_id, created) VALUES (:consumer, :event_id, :created)"
# An entry of the same event that another transaction has not committed yet is waited for, on each of them.
ENTER: Final = {
    "mysql": f"INSERT IGNORE {_INTO}",
    "sqlite": f"INSERT {_INTO} ON CONFLICT DO NOTHING",
    "postgresql": f"INSERT {_INTO} ON CONFLICT DO NOTHING",
}


async def enter(session: AsyncSession | bound.Transaction, consumer: str, event_id: str) -> bool:
    """False when the event was entered before."""
    dialect = session.info["database"].dialect
    values = {"consumer": consumer, "event_id": event_id[:64], "created": now()}
    if isinstance(session, Transaction):
        return bool((await session.execute(ENTER[dialect], **values)).rowcount)
    done: Any = await cast("AsyncSession", session).execute(clause(ENTER[dialect]), values)
    return bool(done.rowcount)
