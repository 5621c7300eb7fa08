"""The outbox and inbox tables that live beside the user's own in every database."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError

metadata = MetaData()

OUTBOX = Table(
    "sampan_outbox",
    metadata,
    # SQLite counts on only in an INTEGER key; AUTOINCREMENT keeps ids from being used again
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", String(64), nullable=False),
    Column("topic", String(128), nullable=False),
    Column("headers", Text, nullable=False),
    Column("payload", LargeBinary().with_variant(mysql.MEDIUMBLOB, "mysql", "mariadb"), nullable=False),
    Column("created", DateTime, nullable=False),
    sqlite_autoincrement=True,
    mysql_engine="InnoDB",
)

INBOX = Table(
    "sampan_inbox",
    metadata,
    Column("consumer", String(128), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("created", DateTime, nullable=False),
    Index("sampan_inbox_created", "created"),
    mysql_engine="InnoDB",
)


_POSTGRES_KEY: Final = 0x53414D51  # any number that is always the same, and not the one of migrations


def create(connection: Connection) -> None:
    """Create what is missing. Several processes may do this at the same time."""
    if connection.dialect.name == "postgresql":  # an error would end the transaction: one after the other
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_KEY})
    try:
        metadata.create_all(connection)
    except DBAPIError:  # somebody else created a table between the look and the creation
        metadata.create_all(connection)
