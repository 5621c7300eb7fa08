"""The catalogue, read through the cache."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, HTTPException, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.inventory.tables import products
from shop.system import catalogue, inventory_db

app = FastAPI(title="inventory")
Session = Annotated[AsyncSession, Depends(inventory_db.session)]
CATALOGUE_KEY = "products"
CATALOGUE_SECONDS = 1.0


async def load_products() -> bytes:
    async with inventory_db.transaction() as session:
        rows = await session.execute(select(products).order_by(products.c.id))
        return msgspec.json.encode([dict(row._mapping) for row in rows])


@app.get("/api/products")
async def list_products() -> Response:
    """Every product with its price and what is left. At most a second old: stock is checked again when reserved."""
    found = await catalogue.get_or_load(CATALOGUE_KEY, load_products, CATALOGUE_SECONDS)
    return Response(found, media_type="application/json")


@app.get("/api/products/{product_id}")
async def get_product(product_id: int, session: Session) -> Response:
    row = (await session.execute(select(products).where(products.c.id == product_id))).first()
    if row is None:
        raise HTTPException(404, f"there is no product {product_id}")
    return Response(msgspec.json.encode(dict(row._mapping)), media_type="application/json")
