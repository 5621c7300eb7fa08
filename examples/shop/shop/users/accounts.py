"""What can be done with users; the REST API (`app.py`) and the gRPC service (`rpc.py`) are two faces of this."""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.users.tables import users

LONGEST_NAME = 120


class User(Struct):
    id: int
    name: str


async def list_users(session: AsyncSession, limit: int = 100) -> list[User]:
    """The first users, at most 1000."""
    rows = await session.execute(select(users.c.id, users.c.name).order_by(users.c.id).limit(max(1, min(limit, 1000))))
    return [User(row.id, row.name) for row in rows]


async def find_user(session: AsyncSession, user_id: int) -> User | None:
    """None when there is no such user."""
    row = (await session.execute(select(users.c.id, users.c.name).where(users.c.id == user_id))).first()
    return None if row is None else User(row.id, row.name)


async def create_user(session: AsyncSession, name: str) -> User:
    """Stored once the caller commits."""
    result = await session.execute(insert(users).values(name=name))
    (user_id,) = result.inserted_primary_key  # type: ignore[attr-defined]
    return User(user_id, name)
