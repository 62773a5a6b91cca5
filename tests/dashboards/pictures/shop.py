"""The shop whose dashboards are drawn: five services, each a process, with delays and faults.

``python -m tests.dashboards.pictures.shop SERVICE HOST GATEWAY METRICS`` is an instance that takes
HOST for its machine's name, as a container of its own would give it, and serves its metrics at
METRICS. It prints `ready` once it is served.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

import mesh

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class UserNotFound(mesh.NotFound):
    """There is no user {number}."""

    number: int


@dataclass
class OutOfStock(mesh.FailedPrecondition):
    """There is none left of {item}."""

    item: int


@dataclass
class CardDeclined(mesh.FailedPrecondition):
    """The bank declined {cents} cents."""

    cents: int


class Users(mesh.Contract, name="users", version="1.2.0"):
    @mesh.method(
        idempotent=True,
        slo=mesh.slo(within=0.05, target=0.98, success=0.99),
        raises=[UserNotFound],
    )
    @abstractmethod
    async def get(self, number: int) -> str:
        """Look a customer up."""

    @mesh.method(deprecated="call get")
    @abstractmethod
    async def find(self, number: int) -> str:
        """As it was done before."""


class Stock(mesh.Contract, name="stock", version="2.0.1"):
    @mesh.method(slo=mesh.slo(within=0.1, target=0.99, success=0.995), raises=[OutOfStock])
    @abstractmethod
    async def reserve(self, item: int) -> None:
        """Put a thing aside."""


class Fraud(mesh.Contract, name="fraud", version="0.9.0"):
    @mesh.method
    @abstractmethod
    async def check(self, user: int, cents: int) -> bool:
        """Say whether this customer is likely to pay so much."""


class Payments(mesh.Contract, name="payments", version="1.4.0"):
    @mesh.method(slo=mesh.slo(within=0.25, target=0.85, success=0.97), raises=[CardDeclined])
    @abstractmethod
    async def charge(self, user: int, cents: int) -> str:
        """Have a card charged."""


class Orders(mesh.Contract, name="orders", version=os.environ.get("ORDERS_VERSION", "1.5.0")):
    @mesh.method(
        timeout=2.0,
        slo=mesh.slo(within=0.5, target=0.85, success=0.98),
        raises=[UserNotFound, OutOfStock, CardDeclined],
    )
    @abstractmethod
    async def place(self, user: int, item: int) -> str:
        """Order something."""

    @mesh.method
    @abstractmethod
    async def status(self, number: int) -> str:
        """How far an order has come."""

    @mesh.method
    @abstractmethod
    async def export(self) -> int:
        """All orders of a day, which takes its time."""


class UserService(Users):
    async def get(self, number: int) -> str:
        await trio.sleep(random.expovariate(1 / 0.004))
        if number % 97 == 0:
            raise UserNotFound(number)
        return f"user {number}"

    async def find(self, number: int) -> str:
        return await self.get(number)


class StockService(Stock):
    async def reserve(self, item: int) -> None:
        await trio.sleep(random.uniform(0.004, 0.02))
        if item % 71 == 0:
            raise OutOfStock(item)


class FraudService(Fraud, requires=[Users]):
    def __init__(self, client: mesh.Client) -> None:
        self._users = client.stub(Users)

    async def check(self, user: int, cents: int) -> bool:
        await self._users.get(user)
        if cents % 331 == 0:
            raise ZeroDivisionError("no purchases to divide by")  # a bug, as they are
        return True


class PaymentService(Payments, requires=[Fraud]):
    def __init__(self, client: mesh.Client) -> None:
        self._fraud = client.stub(Fraud)
        self._lines = trio.CapacityLimiter(2)
        """To the bank: who comes while both are taken waits."""

    async def charge(self, user: int, cents: int) -> str:
        await self._fraud.check(user, cents)
        async with self._lines:
            await trio.sleep(random.uniform(0.04, 0.1))
        if cents % 137 == 0:
            raise CardDeclined(cents)
        return f"receipt {cents}"


class OrderService(Orders, requires=[Users, Stock, Payments]):
    def __init__(self, client: mesh.Client) -> None:
        self._users, self._stock = client.stub(Users), client.stub(Stock)
        self._payments = client.stub(Payments)

    async def place(self, user: int, item: int) -> str:
        await self._users.get(user)
        await self._stock.reserve(item)
        return await self._payments.charge(user, random.randrange(100, 10_000))

    async def status(self, number: int) -> str:
        await trio.sleep(random.uniform(0.001, 0.003))
        return f"order {number} is on its way"

    async def export(self) -> int:
        await trio.sleep(random.uniform(6, 9))
        return 1000


SERVICES: dict[str, Callable[[mesh.Client], mesh.Contract]] = {
    "users": lambda _: UserService(),
    "stock": lambda _: StockService(),
    "fraud": FraudService,
    "payments": PaymentService,
    "orders": OrderService,
}


async def ready(client: mesh.Client) -> None:
    """Say so, once the gateway knows what is served."""
    await client.call("mesh", "status")
    print("ready", flush=True)


if __name__ == "__main__":
    service, host, gateway, metrics = sys.argv[1:]
    socket.gethostname = lambda: host
    mesh.run(SERVICES[service], ready, name=service, gateway=gateway, metrics=metrics)
