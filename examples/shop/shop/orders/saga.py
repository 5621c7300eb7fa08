"""The end of an order: confirmed when it is paid, cancelled when it cannot be."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import PaymentDeclined, PaymentTaken, StockRejected
from shop.orders.tables import orders


async def settle(session: AsyncSession, order_id: int, status: str, reason: str | None = None) -> None:
    """Move a pending order to its final state; any other order stays as it is."""
    await session.execute(
        update(orders).where(orders.c.id == order_id, orders.c.status == "pending").values(status=status, reason=reason)
    )


async def on_payment_taken(event: PaymentTaken, session: AsyncSession) -> None:
    await settle(session, event.order_id, "confirmed")


async def on_payment_declined(event: PaymentDeclined, session: AsyncSession) -> None:
    await settle(session, event.order_id, "cancelled", event.reason)


async def on_stock_rejected(event: StockRejected, session: AsyncSession) -> None:
    await settle(session, event.order_id, "cancelled", event.reason)
