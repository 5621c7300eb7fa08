"""The outbox and inbox tables that live beside the user's own in every database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sampan.service.data.sql import Autocommit

OUTBOX, INBOX = "sampan_outbox", "sampan_inbox"

_NAMES: Final = f"('{OUTBOX}', '{INBOX}')"
# how many of both are there; only looking takes no right to create
_COUNT: Final = "SELECT count(*) FROM"
_LOOK: Final = {
    "mysql": f"{_COUNT} information_schema.tables WHERE table_schema = DATABASE() AND table_name IN {_NAMES}",
    "postgresql": f"{_COUNT} pg_class WHERE relname IN {_NAMES} AND pg_table_is_visible(oid)",
    "sqlite": f"{_COUNT} sqlite_master WHERE name IN {_NAMES}",
}
_POSTGRES_KEY: Final = 0x53414D51  # any number that is always the same, and not the one of migrations
_OUTBOX_COLUMNS: Final = (
    "event_id VARCHAR(64) NOT NULL, topic VARCHAR(128) NOT NULL, headers TEXT NOT NULL, "
    "payload {payload} NOT NULL, created {moment} NOT NULL"
)
_INBOX_COLUMNS: Final = (
    "consumer VARCHAR(128) NOT NULL, event_id VARCHAR(64) NOT NULL, created {moment} NOT NULL, "
    "PRIMARY KEY (consumer, event_id)"
)
_OUTBOX: Final = f"CREATE TABLE IF NOT EXISTS {OUTBOX} (id {{key}}, {_OUTBOX_COLUMNS})"
_INBOX: Final = f"CREATE TABLE IF NOT EXISTS {INBOX} ({_INBOX_COLUMNS})"
_INDEX: Final = f"CREATE INDEX IF NOT EXISTS {INBOX}_created ON {INBOX} (created)"
_CREATE: Final = {
    "mysql": (
        _OUTBOX.format(key="BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY", payload="MEDIUMBLOB", moment="DATETIME")
        + " ENGINE=InnoDB",
        _INBOX.format(moment="DATETIME").removesuffix(")") + f", INDEX {INBOX}_created (created)) ENGINE=InnoDB",
    ),
    "postgresql": (  # one after the other, for an error would end the transaction
        f"SELECT pg_advisory_xact_lock({_POSTGRES_KEY})",
        _OUTBOX.format(key="BIGSERIAL PRIMARY KEY", payload="BYTEA", moment="TIMESTAMP"),
        _INBOX.format(moment="TIMESTAMP"),
        _INDEX,
    ),
    "sqlite": (  # AUTOINCREMENT keeps ids from being used again
        _OUTBOX.format(key="INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", payload="BLOB", moment="DATETIME"),
        _INBOX.format(moment="DATETIME"),
        _INDEX,
    ),
}


async def ensure(database: Autocommit, dialect: str) -> None:
    """Create what is missing. Several processes may do this at the same time."""
    if await database.one(int, _LOOK[dialect]) == 2:
        return
    async with database.begin() as tx:
        for statement in _CREATE[dialect]:
            await tx.execute(statement)


def create(connection: Connection) -> None:
    """`ensure`, on a connection of SQLAlchemy's in a transaction."""
    dialect = connection.dialect.name
    if connection.exec_driver_sql(_LOOK[dialect]).scalar() == 2:
        return
    for statement in _CREATE[dialect]:
        connection.exec_driver_sql(statement)
