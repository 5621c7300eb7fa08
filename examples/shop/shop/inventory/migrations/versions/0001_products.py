"""Products and reservations, with a seeded catalogue."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

CATALOGUE = [
    ("Brass sextant", "sextant", 18900, 100_000),
    ("Canvas sail", "sail", 42000, 100_000),
    ("Hemp rope, 30 m", "rope", 2450, 100_000),
    ("Storm lantern", "lantern", 3900, 100_000),
    ("Ship's bell", "bell", 7600, 100_000),
    ("Oilskin coat", "coat", 12900, 100_000),
    ("Sea chart, signed", "chart", 35000, 3),
    ("Anchor, 2 t", "anchor", 950_000, 50),
]


def upgrade() -> None:
    products = op.create_table(
        "products",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("emblem", sa.String(16), nullable=False),
        sa.Column("price_cents", sa.Integer, nullable=False),
        sa.Column("stock", sa.Integer, nullable=False),
        mysql_charset="utf8mb4",
    )
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("lines", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
    )
    op.bulk_insert(
        products,
        [dict(zip(("name", "emblem", "price_cents", "stock"), row, strict=True)) for row in CATALOGUE],
    )


def downgrade() -> None:
    op.drop_table("reservations")
    op.drop_table("products")
