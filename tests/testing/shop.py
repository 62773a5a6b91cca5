"""Two contracts and their services, as a user of the kit has them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import mesh


@dataclass
class User:
    id: str
    tags: list[str] = field(default_factory=list)


@dataclass
class UserNotFound(mesh.NotFound):
    """There is no user {user_id!r}."""

    user_id: str


@dataclass
class Unheard(mesh.FailedPrecondition):
    """No contract declares it."""

    why: str


class Users(mesh.Contract, name="users", version="1.0.0"):
    @mesh.method(raises=[UserNotFound])
    @abstractmethod
    async def get(self, user_id: str, *, deep: bool = False) -> User: ...

    @mesh.method
    @abstractmethod
    async def count(self) -> int: ...


class UserService(Users):
    async def get(self, user_id: str, *, deep: bool = False) -> User:
        if user_id == "nobody":
            raise UserNotFound(user_id)
        return User(user_id, ["deep"] if deep else [])

    async def count(self) -> int:
        return 1


class Orders(mesh.Contract, name="orders", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def place(self, user_id: str) -> str: ...


class OrderService(Orders):
    def __init__(self, client: mesh.Client) -> None:
        self.users = client.stub(Users)

    async def place(self, user_id: str) -> str:
        return f"for {(await self.users.get(user_id)).id}"
