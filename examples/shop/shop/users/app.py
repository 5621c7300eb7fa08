"""The users API: list, create, fetch. Found, not found and failed are three different answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.system import users_db
from shop.users.tables import users

app = FastAPI(title="users")
Session = Annotated[AsyncSession, Depends(users_db.session)]


class NewUser(BaseModel):
    name: str = Field(min_length=1, max_length=120)


class User(BaseModel):
    id: int
    name: str


@app.get("/api/users")
async def list_users(session: Session, limit: int = 100) -> list[User]:
    rows = await session.execute(select(users.c.id, users.c.name).order_by(users.c.id).limit(min(limit, 1000)))
    return [User(id=row.id, name=row.name) for row in rows]


@app.post("/api/users", status_code=201)
async def create_user(new: NewUser, session: Session) -> User:
    result = await session.execute(insert(users).values(name=new.name))
    await session.commit()
    (user_id,) = result.inserted_primary_key  # type: ignore[attr-defined]
    return User(id=user_id, name=new.name)


@app.get("/api/users/{user_id}")
async def get_user(user_id: int, session: Session) -> User:
    row = (await session.execute(select(users.c.id, users.c.name).where(users.c.id == user_id))).first()
    if row is None:
        raise HTTPException(404, f"there is no user {user_id}")
    return User(id=row.id, name=row.name)
