"""Payments' part of an order. The acquirer is simulated by its rules: a limit, and one card it always declines."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import PaymentDeclined, PaymentTaken, StockReserved
from shop.payments.tables import payments
from shop.system import acquirer, checkout, payment_declined, payment_taken

DECLINED_CARD = "4000-0000-0000-0002"


def verdict(event: StockReserved) -> str | None:
    """Why the charge is refused; None when it goes through."""
    if not acquirer["api-key"]:
        return "no agreement with the acquirer"
    if event.card == DECLINED_CARD:
        return "card declined"
    if event.total_cents > checkout.value.payment_limit_cents:
        return "over the limit"
    return None


async def on_stock_reserved(event: StockReserved, session: AsyncSession) -> None:
    known = await session.execute(select(payments.c.id).where(payments.c.order_id == event.order_id))
    if known.first() is not None:
        return
    reason = verdict(event)
    result = await session.execute(
        insert(payments).values(
            order_id=event.order_id,
            user_id=event.user_id,
            amount_cents=event.total_cents,
            status="declined" if reason else "taken",
            reason=reason,
        )
    )
    if reason:
        await payment_declined.publish(PaymentDeclined(event.order_id, reason), session)
    else:
        (payment_id,) = result.inserted_primary_key  # type: ignore[attr-defined]
        await payment_taken.publish(PaymentTaken(event.order_id, payment_id), session)
