from sqlalchemy import JSON, Column, Integer, MetaData, String, Table

metadata = MetaData()
products = Table(
    "products",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(120), nullable=False),
    Column("emblem", String(16), nullable=False),
    Column("price_cents", Integer, nullable=False),
    Column("stock", Integer, nullable=False),
)
# One row an order: its presence makes reserving and releasing idempotent.
reservations = Table(
    "reservations",
    metadata,
    Column("order_id", Integer, primary_key=True, autoincrement=False),
    Column("lines", JSON, nullable=False),
    Column("status", String(16), nullable=False),
)
