"""What the shop's services and their callers share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import mesh


@dataclass
class User:
    """A customer."""

    name: str
    card: str


@dataclass
class UserNotFound(mesh.NotFound):
    """There is no user {user_id!r}."""

    user_id: str


@dataclass
class CardDeclined(mesh.FailedPrecondition):
    """The bank declined {cents} cents."""

    cents: int


class Users(mesh.Contract, name="users", version="1.0.0"):
    """Who the customers are."""

    @mesh.method(idempotent=True, slo=0.1, raises=[UserNotFound])
    @abstractmethod
    async def get(self, user_id: str) -> User:
        """Look a customer up."""


class Payments(mesh.Contract, name="payments", version="1.0.0"):
    """The way to the bank."""

    @mesh.method(slo=0.25, raises=[CardDeclined])
    @abstractmethod
    async def charge(self, cents: int, card: str) -> str:
        """Have a card charged; returns the receipt."""


class Orders(mesh.Contract, name="orders", version="1.0.0"):
    """What customers talk to."""

    @mesh.method(timeout=10.0, slo=0.5, raises=[UserNotFound, CardDeclined])
    @abstractmethod
    async def place(self, user_id: str, cents: int) -> str:
        """Order something; returns the receipt."""
