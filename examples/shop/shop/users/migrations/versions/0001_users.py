"""The users table, with three people who may order at once."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    table = op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(120), nullable=False),
    )
    op.bulk_insert(table, [{"name": "Ada"}, {"name": "Grace"}, {"name": "Linus"}])


def downgrade() -> None:
    op.drop_table("users")
