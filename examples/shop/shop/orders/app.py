"""Taking orders. An answer of 201 is a promise: the order is stored and will be confirmed or cancelled."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import grpc
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import Line, OrderPlaced
from shop.orders.tables import orders
from shop.system import checkout, inventory, order_placed, orders_db, users
from shop.users.users_pb2 import GetUserRequest
from shop.users.users_pb2_grpc import UsersStub

app = FastAPI(title="orders")
Session = Annotated[AsyncSession, Depends(orders_db.session)]


class NewLine(BaseModel):
    product_id: int
    quantity: int = Field(ge=1, le=1000)


class NewOrder(BaseModel):
    user_id: int
    lines: list[NewLine] = Field(min_length=1, max_length=50)
    card: str = "4000-0000-0000-0001"


class Order(BaseModel):
    id: int
    user_id: int
    lines: list[NewLine]
    total_cents: int
    currency: str
    status: str
    reason: str | None
    created_at: datetime


async def check_user(user_id: int) -> None:
    """Raises HTTPException: 422 for a user that does not exist, 503 when that cannot be known."""
    try:
        await users.rpc(UsersStub).GetUser(GetUserRequest(id=user_id))
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise HTTPException(422, f"there is no user {user_id}") from error
        raise HTTPException(503, "users are not available; try again") from error


async def price(lines: list[NewLine]) -> int:
    """The total in cents at today's prices. Raises HTTPException 422 for a product that does not exist."""
    reply = await inventory.client.get("/api/products")
    if reply.status != 200:
        raise HTTPException(503, "the catalogue is not available; try again")
    prices = {product["id"]: product["price_cents"] for product in reply.json()}
    unknown = sorted({line.product_id for line in lines} - prices.keys())
    if unknown:
        raise HTTPException(422, f"there is no product {', '.join(map(str, unknown))}")
    return sum(prices[line.product_id] * line.quantity for line in lines)


async def find(session: AsyncSession, condition: Any) -> Order | None:
    row = (await session.execute(select(orders).where(condition))).first()
    return Order.model_validate(row, from_attributes=True) if row else None


@app.post("/api/orders", status_code=201)
async def place_order(
    new: NewOrder, session: Session, idempotency_key: Annotated[str | None, Header(max_length=64)] = None
) -> Order:
    """Place an order. The same `Idempotency-Key` again gives the same order, never a second one."""
    key = idempotency_key or uuid.uuid4().hex
    if idempotency_key and (known := await find(session, orders.c.idempotency_key == key)):
        return known
    await session.rollback()  # nothing is held open while other services are asked
    await check_user(new.user_id)
    values: dict[str, Any] = {
        "user_id": new.user_id,
        "idempotency_key": key,
        "lines": [line.model_dump() for line in new.lines],
        "total_cents": await price(new.lines),
        "currency": checkout.value.currency,
        "status": "pending",
        "created_at": datetime.now(UTC).replace(tzinfo=None),
    }
    try:
        async with orders_db.transaction() as writing:
            result = await writing.execute(insert(orders).values(**values))
            (order_id,) = result.inserted_primary_key  # type: ignore[attr-defined]
            lines = [Line(line.product_id, line.quantity) for line in new.lines]
            placed = OrderPlaced(order_id, new.user_id, lines, values["total_cents"], new.card)
            await order_placed.publish(placed, writing)
    except IntegrityError:
        known = await find(session, orders.c.idempotency_key == key)
        if known is None:
            raise
        return known
    return Order(id=order_id, reason=None, **values)


@app.get("/api/orders")
async def list_orders(session: Session, user_id: int | None = None, limit: int = 20) -> list[Order]:
    query = select(orders).order_by(orders.c.id.desc()).limit(max(1, min(limit, 10_000)))
    if user_id is not None:
        query = query.where(orders.c.user_id == user_id)
    return [Order.model_validate(row, from_attributes=True) for row in await session.execute(query)]


@app.get("/api/orders/{order_id}")
async def get_order(order_id: int, session: Session) -> Order:
    order = await find(session, orders.c.id == order_id)
    if order is None:
        raise HTTPException(404, f"there is no order {order_id}")
    return order


@app.get("/api/checkout")
async def get_checkout() -> dict[str, Any]:
    """The settings in force, for the storefront."""
    return {"currency": checkout.value.currency, "banner": checkout.value.banner}
