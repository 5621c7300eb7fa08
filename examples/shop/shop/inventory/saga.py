"""Inventory's part of an order: reserve stock, or say why not; give it back when the payment is declined."""

from __future__ import annotations

from msgspec import to_builtins
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import OrderPlaced, PaymentDeclined, StockRejected, StockReserved
from shop.inventory.tables import products, reservations
from shop.system import stock_rejected, stock_reserved


async def on_order_placed(event: OrderPlaced, session: AsyncSession) -> None:
    known = await session.execute(select(reservations.c.status).where(reservations.c.order_id == event.order_id))
    if known.first() is not None:
        return
    # In one order of products, so that two orders never wait for each other's rows.
    wanted: dict[int, int] = {}
    for line in event.lines:
        wanted[line.product_id] = wanted.get(line.product_id, 0) + line.quantity
    stock = {
        row.id: row
        for row in await session.execute(
            select(products).where(products.c.id.in_(sorted(wanted))).order_by(products.c.id).with_for_update()
        )
    }
    short = [
        stock[product].name if product in stock else f"product {product}"
        for product, quantity in wanted.items()
        if product not in stock or stock[product].stock < quantity
    ]
    lines = [{"product_id": product, "quantity": quantity} for product, quantity in sorted(wanted.items())]
    status = "rejected" if short else "reserved"
    await session.execute(insert(reservations).values(order_id=event.order_id, lines=lines, status=status))
    if short:
        reason = f"sold out: {', '.join(short)}"
        await stock_rejected.publish(StockRejected(event.order_id, reason), session)
        return
    for product, quantity in sorted(wanted.items()):
        await session.execute(
            update(products).where(products.c.id == product).values(stock=products.c.stock - quantity)
        )
    fields = to_builtins(event)
    reserved = StockReserved(**{name: fields[name] for name in StockReserved.__struct_fields__})
    await stock_reserved.publish(reserved, session)


async def on_payment_declined(event: PaymentDeclined, session: AsyncSession) -> None:
    """Compensate: the goods go back on the shelf, once."""
    reservation = (
        await session.execute(select(reservations).where(reservations.c.order_id == event.order_id).with_for_update())
    ).first()
    if reservation is None or reservation.status != "reserved":
        return
    for line in reservation.lines:
        await session.execute(
            update(products)
            .where(products.c.id == line["product_id"])
            .values(stock=products.c.stock + line["quantity"])
        )
    await session.execute(
        update(reservations).where(reservations.c.order_id == event.order_id).values(status="released")
    )
