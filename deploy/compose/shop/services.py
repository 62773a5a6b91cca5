"""The shop's services, without a line of instrumentation. Delays stand for databases and banks."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from shop.contracts import CardDeclined, Orders, Payments, User, UserNotFound, Users

if TYPE_CHECKING:
    import mesh

USERS = {"ada": User("Ada", "4711"), "grace": User("Grace", "1906"), "tu": User("Tu", "1930")}


class UserService(Users):
    """Who the customers are."""

    async def get(self, user_id: str) -> User:
        """Look a customer up."""
        await trio.sleep(0.001)
        if user_id not in USERS:
            raise UserNotFound(user_id)
        return USERS[user_id]


class PaymentService(Payments):
    """The way to the bank, which is slow at times, and says no at others."""

    async def charge(self, cents: int, card: str) -> str:
        """Have a card charged; returns the receipt."""
        await trio.sleep(0.4 if random.random() < 0.01 else 0.01)
        if random.random() < 0.005:
            raise CardDeclined(cents)
        return f"{card}-{cents}"


class OrderService(Orders, requires=[Users, Payments]):
    """What customers talk to."""

    def __init__(self, client: mesh.Client) -> None:
        self._users = client.stub(Users)
        self._payments = client.stub(Payments)

    async def place(self, user_id: str, cents: int) -> str:
        """Order something; returns the receipt."""
        user = await self._users.get(user_id)
        return await self._payments.charge(cents, user.card)
