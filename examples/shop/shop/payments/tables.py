from sqlalchemy import Column, Integer, MetaData, String, Table

metadata = MetaData()
payments = Table(
    "payments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("order_id", Integer, nullable=False, unique=True),
    Column("user_id", Integer, nullable=False),
    Column("amount_cents", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(200)),
)
