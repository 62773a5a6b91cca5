"""What type checkers must accept of contracts, stubs and implementations."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, assert_type

import mesh
from mesh.testing import RecordedCall, RecordedSpan, TraceSummary, local_mesh, mock, mocked

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@dataclass
class User:
    id: str
    age: int | None = None


@dataclass
class UserNotFound(mesh.NotFound):
    """There is no user {user_id!r}."""

    user_id: str


class Users(mesh.Contract, name="users", version="1.2.0"):
    """The user directory."""

    @mesh.method(idempotent=True, timeout=2.0, raises=[UserNotFound])
    @abstractmethod
    async def get(self, user_id: str, *, deep: bool = False) -> User:
        """Look a user up."""

    @mesh.method
    @abstractmethod
    async def names(self, limit: int = 10) -> list[str]:
        """All names."""


class Orders(mesh.Contract, name="orders", version="0.1.0"):
    @mesh.method
    @abstractmethod
    async def place(self, lines: dict[str, int]) -> int: ...


class UserService(Users):
    def __init__(self, database: str = "") -> None:
        self.database = database

    async def get(self, user_id: str, *, deep: bool = False) -> User:
        if not user_id:
            raise UserNotFound(user_id)
        return User(user_id, age=int(deep))

    @mesh.in_thread
    def names(self, limit: int = 10) -> list[str]:
        return [self.database] * limit


class OrderService(Orders, requires=[Users]):
    def __init__(self, client: mesh.Client, tax: int = 0) -> None:
        self.users = client.stub(Users)
        self.tax = tax

    async def place(self, lines: dict[str, int]) -> int:
        user = await self.users.get("ada")
        return sum(lines.values()) + (user.age or 0) + self.tax


class Directory:
    """Code that takes the contract gets a stub, an implementation, or a mock."""

    def __init__(self, users: Users) -> None:
        self.users = users


def double(number: int) -> int:
    return 2 * number


async def call(client: mesh.Client) -> None:
    users = client.stub(Users)
    assert_type(users, Users)
    assert_type(await users.get("ada"), User)
    assert_type(await users.get(user_id="ada", deep=True), User)
    assert_type(await client.stub(Users, timeout=0.5).names(3), list[str])
    assert_type(await client.call("users", "get", {"user_id": "ada"}, result=User), User)
    assert_type(await client.call("users", "get"), Any)
    assert_type(await UserService().names(limit=2), list[str])
    threaded: Callable[[int], Coroutine[Any, Any, int]] = mesh.in_thread(double)
    assert_type(await threaded(2), int)
    Directory(users)
    Directory(UserService())
    try:
        await users.get("nobody")
    except UserNotFound as error:
        assert_type(error.user_id, str)


def plain(client: mesh.Client) -> None:
    client.register("double", double)


async def make(client: mesh.Client) -> Orders:
    return OrderService(client, 3)


def make_users() -> UserService:
    return UserService("db")


async def serve(client: mesh.Client) -> None:
    await mesh.serve(client, UserService(), OrderService, plain, make, UserService, make_users)


async def test(client: mesh.Client) -> None:
    users = mock(Users)
    assert_type(users, Users)
    get = mocked(users.get)
    get.returns(User("ada"))
    get.raises(UserNotFound("ada"))
    get.answers(User("ada"), UserNotFound("bob"))
    get.does(lambda user_id, *, deep=False: User(user_id, 7 if deep else None))
    get.does(UserService().get)
    mocked(users.names).returns([])
    Directory(users)
    async with local_mesh(users, UserService(), OrderService, plain, make) as it:
        assert_type(it.stub(Users, timeout=1), Users)
        with (
            it.delay(Users, "get", seconds=2, times=1),
            it.fail("orders", error="aborted") as fault,
        ):
            assert_type(fault.hits, int)
        async with it.disconnect(Users), it.disconnect(client), it.connect("shop") as shop:
            assert_type(shop, mesh.Client)
        assert_type(await it.metric("mesh_calls_total", code="ok"), float)
        assert_type(await it.calls(Users, "get"), list[RecordedCall])
        assert_type(await it.spans(), list[RecordedSpan])
        assert_type(await it.traces(), list[TraceSummary])
        assert_type(await it.serve(users), list[mesh.Client])
        assert_type(await it.serve(OrderService, UserService), list[mesh.Client])
    async with local_mesh(UserService) as it:
        assert_type(it.client, mesh.Client)


def main() -> None:
    mesh.run(UserService)
    mesh.run(UserService("db"), OrderService, partial(OrderService, tax=19), make, plain)
