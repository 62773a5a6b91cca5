"""A small shop in four services, as a user of the mesh would write it: no line of instrumentation.

`orders.place` asks users who is buying, inventory to put the things aside, and payments for the
money; inventory asks users itself, to choose the nearest warehouse. The delays stand for databases
and banks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trio

import mesh
from mesh.cli.demo.contracts import (
    Blocked,
    CardDeclined,
    Inventory,
    Line,
    Orders,
    OutOfStock,
    Payments,
    Placed,
    Reserved,
    User,
    UserNotFound,
    Users,
)

if TYPE_CHECKING:
    from collections.abc import Callable

USERS = {
    "ada": ("Ada", "eu"),
    "alan": ("Alan", "eu"),
    "barbara": ("Barbara", "us"),
    "edsger": ("Edsger", "eu"),
    "frances": ("Frances", "us"),
    "grace": ("Grace", "us"),
    "hedy": ("Hedy", "us"),
    "katherine": ("Katherine", "us"),
    "radia": ("Radia", "us"),
    "sophie": ("Sophie", "eu"),
    "tu": ("Tu", "asia"),
    "yukihiro": ("Yukihiro", "asia"),
}
BLOCKED = {"mallory"}
WAREHOUSES = {"eu": "Rotterdam", "us": "Memphis", "asia": "Singapore"}

PRICES = {"kettle": 3900, "mug": 1250, "teapot": 4400, "lamp": 5900, "notebook": 800, "globe": 8900}
"""Cents."""
STOCK = dict.fromkeys(PRICES, 100_000) | {"typewriter": 0}
BUNDLES = {
    "tea-set": ["teapot", "mug"],
    "desk-set": ["lamp", "notebook", "globe"],
    "mystery-box": ["mystery-box", "mug"],
}
"""What is in a box. Somebody put the mystery box into itself."""

NEVER_ANSWERS = "bank-that-never-answers"
DECLINED = "card-declined"


class UserService(Users):
    """Who the customers are."""

    async def get(self, user: str) -> User:
        """Look a customer up."""
        await trio.sleep(0.001)
        if user in BLOCKED:
            raise Blocked(user)
        if user not in USERS:
            raise UserNotFound(user)
        name, region = USERS[user]
        return User(user, name, region)

    async def region(self, user: str) -> str:
        """Where a customer lives."""
        return (await self.get(user)).region


class InventoryService(Inventory, requires=[Users]):
    """What is on the shelves."""

    def __init__(self, client: mesh.Client) -> None:
        self._users = client.stub(Users)
        self._boxes = client.stub(Inventory)

    async def reserve(self, lines: list[Line], user: str) -> Reserved:
        """Put things aside; what is in a box, by a call for all of it."""
        warehouse = WAREHOUSES[await self._users.region(user)]
        cents = 0
        for line in lines:
            if line.sku in BUNDLES:
                parts = [Line(part, line.quantity) for part in BUNDLES[line.sku]]
                cents += (await self._boxes.reserve(parts, user)).cents
                continue
            await trio.sleep(0.002)
            left = STOCK.get(line.sku, 0)
            if left < line.quantity:
                raise OutOfStock(line.sku, line.quantity, left, warehouse)
            STOCK[line.sku] = left - line.quantity
            cents += PRICES[line.sku] * line.quantity
        return Reserved(warehouse, cents)


class PaymentService(Payments):
    """The way to the bank, which is the slow part."""

    async def charge(self, cents: int, card: str) -> str:
        """Have a card charged."""
        if card == NEVER_ANSWERS:
            call = mesh.current_call()
            tell("waiting_for_bank", activity=call.activity_id if call else "")
            await trio.sleep_forever()
        await trio.sleep(0.008 + cents % 13 * 0.001)
        if card == DECLINED:
            raise CardDeclined(f"{cents / 100:.2f}")
        last_digits = int(card) % 10_000  # the shop's bug: a card need not be a number
        return f"r-{last_digits:04}-{cents}"


class OrderService(Orders, requires=[Users, Inventory, Payments]):
    """The service that customers talk to."""

    def __init__(self, client: mesh.Client) -> None:
        self._users = client.stub(Users)
        self._inventory = client.stub(Inventory)
        self._payments = client.stub(Payments)

    async def place(self, user: str, lines: list[Line], card: str) -> Placed:
        """Order things."""
        customer = await self._users.get(user)
        reserved = await self._inventory.reserve(lines, user)
        receipt = await self._payments.charge(reserved.cents, card)
        return Placed(customer.name, reserved.warehouse, receipt)


SERVICES: dict[str, mesh.Contract | Callable[[mesh.Client], mesh.Contract]] = {
    "orders": OrderService,
    "users": UserService(),
    "inventory": InventoryService,
    "payments": PaymentService(),
}


def tell(event: str, **details: Any) -> None:
    """Tell the demo, which reads this process's standard output, that something happened."""
    print(json.dumps({"event": event, **details}), flush=True)


def serve(name: str, gateway: str) -> None:
    """Be one of the shop's services until told to stop."""

    async def ready(client: mesh.Client) -> None:
        # A call of our own is answered only after the registrations before it have been read.
        await client.call("mesh", "status")
        tell("ready", methods=[full.partition(".")[2] for full in client.registered_methods()])

    mesh.run(SERVICES[name], ready, name=name, gateway=gateway)
