"""A small shop in four services, as a user of the mesh would write it: no line of instrumentation.

`orders.place` asks users who is buying, inventory to put the things aside, and payments for the
money; inventory asks users itself, to choose the nearest warehouse. The delays stand for databases
and banks.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import trio

import mesh

Quantity = Annotated[int, msgspec.Meta(ge=1, le=1000)]

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


class Order(msgspec.Struct):
    """What a customer sends."""

    user: str
    sku: str
    quantity: Quantity
    card: str


class Wanted(msgspec.Struct):
    """What orders asks of inventory, and inventory of itself for what is in a box."""

    sku: str
    quantity: int
    user: str


class Charge(msgspec.Struct):
    """What orders asks of payments."""

    cents: int
    card: str


async def orders(client: mesh.Client) -> None:
    """The service that customers talk to."""

    @client.method()
    async def place(order: Order) -> dict[str, Any]:
        user = await client.call("users", "get", order.user)
        reserved = await client.call(
            "inventory", "reserve", Wanted(order.sku, order.quantity, order.user)
        )
        payment = await client.call("payments", "charge", Charge(reserved["cents"], order.card))
        return {"for": user["name"], "from": reserved["warehouse"], "receipt": payment["receipt"]}


async def users(client: mesh.Client) -> None:
    """Who the customers are."""

    async def find(user: str) -> tuple[str, str]:
        await trio.sleep(0.001)
        if user in BLOCKED:
            raise mesh.PermissionDenied(f"the account of {user} is blocked", reason="BLOCKED")
        if user not in USERS:
            raise mesh.NotFound(
                f"there is no user {user!r}", reason="USER_NOT_FOUND", details={"user": user}
            )
        return USERS[user]

    @client.method()
    async def get(user: str) -> dict[str, str]:
        name, region = await find(user)
        return {"user": user, "name": name, "region": region}

    @client.method()
    async def region(user: str) -> str:
        return (await find(user))[1]


async def inventory(client: mesh.Client) -> None:
    """What is on the shelves."""

    @client.method()
    async def reserve(wanted: Wanted) -> dict[str, Any]:
        warehouse = WAREHOUSES[await client.call("users", "region", wanted.user)]
        if wanted.sku in BUNDLES:
            cents = 0
            for part in BUNDLES[wanted.sku]:
                inside = await client.call(
                    "inventory", "reserve", Wanted(part, wanted.quantity, wanted.user)
                )
                cents += inside["cents"]
            return {"warehouse": warehouse, "cents": cents}
        await trio.sleep(0.002)
        left = STOCK.get(wanted.sku, 0)
        if left < wanted.quantity:
            raise mesh.FailedPrecondition(
                f"{wanted.quantity} of {wanted.sku} wanted, {left} on the shelf in {warehouse}",
                reason="OUT_OF_STOCK",
                details={"sku": wanted.sku, "wanted": wanted.quantity, "left": left},
            )
        STOCK[wanted.sku] = left - wanted.quantity
        return {"warehouse": warehouse, "cents": PRICES[wanted.sku] * wanted.quantity}


async def payments(client: mesh.Client) -> None:
    """The way to the bank, which is the slow part."""

    @client.method()
    async def charge(wanted: Charge) -> dict[str, Any]:
        if wanted.card == NEVER_ANSWERS:
            call = mesh.current_call()
            tell("waiting_for_bank", activity=call.activity_id if call else "")
            await trio.sleep_forever()
        await trio.sleep(0.008 + wanted.cents % 13 * 0.001)
        if wanted.card == DECLINED:
            raise mesh.FailedPrecondition(
                f"the bank declined {wanted.cents / 100:.2f}", reason="CARD_DECLINED"
            )
        last_digits = int(wanted.card) % 10_000  # the shop's bug: a card need not be a number
        return {"receipt": f"r-{last_digits:04}-{wanted.cents}"}


SERVICES = {"orders": orders, "users": users, "inventory": inventory, "payments": payments}


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
