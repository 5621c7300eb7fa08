"""The shop's users service answers gRPC beside HTTP: one store of users, the same refusals, callable from outside."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from tests.system.harness import ROOT, System, line_of, running

sys.path.append(str(ROOT / "examples/shop"))

from shop.users.users_pb2 import CreateUserRequest, GetUserRequest, ListUsersRequest
from shop.users.users_pb2_grpc import UsersStub


@pytest.fixture(scope="module")
def address(shop: System) -> Iterator[str]:
    """The port that a port-forward opened."""
    with running(shop, "port-forward", "-n", "shop", "service/users", ":9090") as forward:
        said = line_of(forward)
        found = re.match(r"Forwarding from (127\.0\.0\.1:\d+) -> 9090\n", said)
        assert found, said
        yield found[1]


@pytest.fixture
async def users(address: str) -> AsyncIterator[UsersStub]:
    """A plain stub, of no library of ours."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield UsersStub(channel)


async def test_a_user_created_by_rpc_is_there_by_http_and_by_rpc(shop: System, users: UsersStub) -> None:
    made = await users.CreateUser(CreateUserRequest(name="Grace Hopper"), timeout=30)
    assert made.name == "Grace Hopper"
    assert shop.get(f"/api/users/{made.id}") == {"id": made.id, "name": "Grace Hopper"}
    assert await users.GetUser(GetUserRequest(id=made.id), timeout=30) == made
    assert made in (await users.ListUsers(ListUsersRequest(limit=1000), timeout=30)).users


async def test_a_list_is_as_long_as_asked(shop: System, users: UsersStub) -> None:
    asked = (await users.ListUsers(ListUsersRequest(limit=2), timeout=30)).users
    assert [{"id": user.id, "name": user.name} for user in asked] == shop.get("/api/users?limit=2")
    assert len(asked) == 2
    assert len((await users.ListUsers(ListUsersRequest(), timeout=30)).users) == len(shop.get("/api/users?limit=100"))


@pytest.mark.parametrize("name", ["", "x" * 121])
async def test_a_name_that_cannot_be_is_refused_and_leaves_nothing(shop: System, users: UsersStub, name: str) -> None:
    before = shop.get("/api/users?limit=1000")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await users.CreateUser(CreateUserRequest(name=name), timeout=30)
    assert (refused.value.code(), refused.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "a name has 1 to 120 characters",
    )
    assert shop.get("/api/users?limit=1000") == before


async def test_a_user_that_is_not_there(users: UsersStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await users.GetUser(GetUserRequest(id=999_999), timeout=30)
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    assert missing.value.details() == "there is no user 999999"
