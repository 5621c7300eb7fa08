"""What was charged, for the other services; not reachable from outside."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.payments.tables import payments
from shop.system import payments_db

app = FastAPI(title="payments")


class Payment(BaseModel):
    id: int
    order_id: int
    amount_cents: int
    status: str
    reason: str | None


@app.get("/api/payments/{order_id}")
async def get_payment(order_id: int, session: Annotated[AsyncSession, Depends(payments_db.session)]) -> Payment:
    row = (await session.execute(select(payments).where(payments.c.order_id == order_id))).first()
    if row is None:
        raise HTTPException(404, f"order {order_id} has no payment")
    return Payment.model_validate(row, from_attributes=True)
