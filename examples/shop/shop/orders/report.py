"""The hourly report: how many orders stand where."""

from __future__ import annotations

import logging

from sqlalchemy import func, select

from shop.orders.tables import orders
from shop.system import orders_db

log = logging.getLogger(__name__)


async def run() -> None:
    async with orders_db.transaction() as session:
        rows = await session.execute(select(orders.c.status, func.count()).group_by(orders.c.status))
        log.info("orders by status", extra={"orders": {row[0]: row[1] for row in rows}})
