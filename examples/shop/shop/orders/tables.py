from sqlalchemy import JSON, Column, DateTime, Integer, MetaData, String, Table

metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, nullable=False),
    Column("idempotency_key", String(64), nullable=False, unique=True),
    Column("lines", JSON, nullable=False),
    Column("total_cents", Integer, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(200)),
    Column("created_at", DateTime, nullable=False),
)
