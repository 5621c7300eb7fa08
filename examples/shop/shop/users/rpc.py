"""The gRPC service users.v1.Users, which other services call. `sampan proto` makes the modules *_pb2 of users.proto."""

from __future__ import annotations

from typing import Any

import grpc

from shop.system import users_db
from shop.users import accounts
from shop.users.users_pb2 import CreateUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse, User
from shop.users.users_pb2_grpc import UsersServicer, add_UsersServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]


class Users(UsersServicer):
    async def GetUser(self, request: GetUserRequest, context: Context) -> User:
        async with users_db.transaction() as session:
            user = await accounts.find_user(session, request.id)
        if user is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no user {request.id}")
        return User(id=user.id, name=user.name)

    async def ListUsers(self, request: ListUsersRequest, context: Context) -> ListUsersResponse:
        async with users_db.transaction() as session:
            found = await accounts.list_users(session, request.limit or 100)
        return ListUsersResponse(users=[User(id=user.id, name=user.name) for user in found])

    async def CreateUser(self, request: CreateUserRequest, context: Context) -> User:
        if not 1 <= len(request.name) <= accounts.LONGEST_NAME:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a name has 1 to {accounts.LONGEST_NAME} characters")
        async with users_db.transaction() as session:
            user = await accounts.create_user(session, request.name)
        return User(id=user.id, name=user.name)


def add_services(server: grpc.aio.Server) -> None:
    add_UsersServicer_to_server(Users(), server)
