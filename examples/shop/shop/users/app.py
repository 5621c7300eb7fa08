"""The users API: list, create, fetch. Found, not found and failed are three different answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from shop.system import users_db
from shop.users import accounts

app = FastAPI(title="users")
Session = Annotated[AsyncSession, Depends(users_db.session)]


class NewUser(BaseModel):
    name: str = Field(min_length=1, max_length=accounts.LONGEST_NAME)


class User(BaseModel, from_attributes=True):
    id: int
    name: str


@app.get("/api/users", response_model=list[User])
async def list_users(session: Session, limit: int = 100) -> list[accounts.User]:
    return await accounts.list_users(session, limit)


@app.post("/api/users", status_code=201, response_model=User)
async def create_user(new: NewUser, session: Session) -> accounts.User:
    user = await accounts.create_user(session, new.name)
    await session.commit()
    return user


@app.get("/api/users/{user_id}", response_model=User)
async def get_user(user_id: int, session: Session) -> accounts.User:
    user = await accounts.find_user(session, user_id)
    if user is None:
        raise HTTPException(404, f"there is no user {user_id}")
    return user
