"""What a consumer's handler takes, read from its signature, and how it is run with its inbox entry.

async def on_placed(event: OrderPlaced) -> None
async def on_placed(event: OrderPlaced, session: AsyncSession) -> None     # effects commit with the inbox entry
async def on_placed(event: OrderPlaced, tx: Transaction) -> None           # the same, plain SQL
async def on_many(events: list[OrderPlaced], tx: Transaction) -> None      # a batch, one transaction
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampan.service.data.database import SqlDatabase

Function = Callable[..., Awaitable[None]]


class Duplicate(Exception):
    """The inbox knows this event already."""


class Handler:
    """`batches`: it takes a list. `needs`: "" nothing, "session" an AsyncSession, "transaction" a Transaction."""

    def __init__(self, function: Function) -> None:
        self.function = function
        parameters = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        hints = _hints(function)
        first = hints.get(parameters[0].name, "") if parameters else ""
        self.batches = (typing.get_origin(first) or first) is list or str(first).startswith(("list[", "List["))
        self.needs = ""
        if len(parameters) > 1 and parameters[1].default is inspect.Parameter.empty:
            second = hints.get(parameters[1].name, "")
            name = second if isinstance(second, str) else getattr(second, "__name__", "")
            self.needs = "transaction" if name.rpartition(".")[2] == "Transaction" else "session"

    async def run(self, database: SqlDatabase | None, consumer: str, event: Any, event_id: str) -> None:
        """Handle one event. Duplicate when the inbox of `consumer` has it."""
        if self.batches:
            if await self.run_many(database, consumer, [event], [event_id]):
                raise Duplicate
        elif database is None:
            await self.function(event)
        else:
            from sampan.service.messaging import inbox  # with it comes SQLAlchemy

            opened: Any = database.begin() if self.needs == "transaction" else database.transaction()
            async with opened as session:
                if not await inbox.enter(session, consumer, event_id):
                    raise Duplicate
                await self.function(event, session)

    async def run_many(
        self, database: SqlDatabase | None, consumer: str, events: Sequence[Any], ids: Sequence[str]
    ) -> set[str]:
        """Handle a batch in one transaction; the ids that the inbox knew, whose events the handler is not given."""
        if database is None:
            await self.function(list(events))
            return set()
        opened: Any = database.begin() if self.needs == "transaction" else database.transaction()
        async with opened as session:
            return await self._fresh(session, consumer, events, ids)

    async def _fresh(self, session: Any, consumer: str, events: Sequence[Any], ids: Sequence[str]) -> set[str]:
        from sampan.service.messaging import inbox

        known: set[str] = set()
        fresh = []
        for event, event_id in zip(events, ids, strict=True):
            if await inbox.enter(session, consumer, event_id):
                fresh.append(event)
            else:
                known.add(event_id)
        if fresh:
            await self.function(fresh, session)
        return known


def _hints(function: Function) -> dict[str, Any]:
    """Its annotations; as text where a name in them exists only for type checkers."""
    target = inspect.unwrap(function)
    if not inspect.isfunction(target) and not inspect.ismethod(target):
        target = getattr(type(target), "__call__", target)  # noqa: B004
    try:
        return typing.get_type_hints(target)
    except Exception:
        return dict(getattr(target, "__annotations__", {}))
