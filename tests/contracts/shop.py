"""A contract for tests, and an implementation that does what a test wants of it."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

import mesh
from tests.gateway.raw_peer import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.payload import Encoding


@dataclass
class Line:
    sku: str
    quantity: int


@dataclass
class Receipt:
    cents: int
    by: str


@dataclass
class OutOfStock(mesh.FailedPrecondition):
    """Only {left} of {sku} are left."""

    sku: str
    left: int
    price: Decimal


@dataclass
class Unheard(mesh.NotFound):
    """No contract declares it."""

    sku: str


class Orders(mesh.Contract, name="orders", version="1.2.0"):
    """What customers talk to."""

    @mesh.method(raises=[OutOfStock], timeout=2.0, idempotent=True)
    @abstractmethod
    async def place(self, lines: list[Line], *, by: str = "card") -> Receipt: ...

    @mesh.method
    @abstractmethod
    async def count(self, since: int = 0) -> int: ...

    @mesh.method(deprecated="call `count`")
    @abstractmethod
    async def number(self) -> int: ...

    @mesh.method
    @abstractmethod
    async def anything(self, it: Any) -> Any: ...

    @mesh.method
    @abstractmethod
    async def clear(self) -> None: ...

    def half(self, number: int) -> int:
        """Plain code, which implementations and callers share."""
        return number // 2


class OrderService(Orders):
    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.ran: list[Any] = []

    async def place(self, lines: list[Line], *, by: str = "card") -> Receipt:
        self.ran.append(lines)
        for line in lines:
            if line.sku == "typewriter":
                raise OutOfStock(line.sku, 0, Decimal("12.50"))
            if line.sku == "unheard":
                raise Unheard(line.sku)
        return self.result or Receipt(sum(line.quantity for line in lines), by)

    async def count(self, since: int = 7) -> int:
        return since

    async def number(self) -> int:
        return 1

    async def anything(self, it: Any) -> Any:
        return it

    async def clear(self) -> None:
        return self.result  # type: ignore[no-any-return]  # what a test makes it return


class Shop(NamedTuple):
    """A gateway, a peer that serves orders, and one that calls them."""

    gateway: mesh.Gateway
    server: mesh.Client
    caller: mesh.Client
    service: OrderService

    @property
    def orders(self) -> Orders:
        return self.caller.stub(Orders)


@asynccontextmanager
async def shop(result: Any = None, encoding: Encoding = "msgpack") -> AsyncIterator[Shop]:
    service = OrderService(result)
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("orders", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway, encoding=encoding) as caller,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, server, service)
        await settled(server)
        yield Shop(gateway, server, caller, service)
        nursery.cancel_scope.cancel()
