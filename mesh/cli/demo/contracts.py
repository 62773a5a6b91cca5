"""The contracts of the demo's shop: what its services and their callers share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import msgspec

import mesh


class Line(msgspec.Struct):
    """So many of one thing."""

    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1000)]


Lines = Annotated[list[Line], msgspec.Meta(min_length=1, max_length=20)]


class User(msgspec.Struct):
    """A customer."""

    user: str
    name: str
    region: str


class Reserved(msgspec.Struct):
    """What has been put aside, where, and what it costs."""

    warehouse: str
    cents: int


class Placed(msgspec.Struct):
    """An order that went well."""

    customer: str
    warehouse: str
    receipt: str


@dataclass
class UserNotFound(mesh.NotFound):
    """There is no user {user!r}."""

    user: str


@dataclass
class Blocked(mesh.PermissionDenied):
    """The account of {user} is blocked."""

    user: str


@dataclass
class OutOfStock(mesh.FailedPrecondition):
    """{wanted} of {sku} wanted, {left} on the shelf in {warehouse}."""

    sku: str
    wanted: int
    left: int
    warehouse: str


@dataclass
class CardDeclined(mesh.FailedPrecondition):
    """The bank declined {amount}."""

    amount: str


class Users(mesh.Contract, name="users", version="1.0.0"):
    """Who the customers are."""

    @mesh.method(idempotent=True, raises=[UserNotFound, Blocked])
    @abstractmethod
    async def get(self, user: str) -> User:
        """Look a customer up."""

    @mesh.method(idempotent=True, raises=[UserNotFound, Blocked])
    @abstractmethod
    async def region(self, user: str) -> str:
        """Where a customer lives."""


class Inventory(mesh.Contract, name="inventory", version="1.0.0"):
    """What is on the shelves."""

    @mesh.method(raises=[UserNotFound, Blocked, OutOfStock])
    @abstractmethod
    async def reserve(self, lines: Lines, user: str) -> Reserved:
        """Put things aside in the warehouse that is nearest to the customer."""


class Payments(mesh.Contract, name="payments", version="1.0.0"):
    """The way to the bank."""

    @mesh.method(raises=[CardDeclined])
    @abstractmethod
    async def charge(self, cents: int, card: str) -> str:
        """Have a card charged; returns the receipt."""


class Orders(mesh.Contract, name="orders", version="1.0.0"):
    """What customers talk to."""

    @mesh.method(raises=[UserNotFound, Blocked, OutOfStock, CardDeclined])
    @abstractmethod
    async def place(self, user: str, lines: Lines, card: str) -> Placed:
        """Order things."""
