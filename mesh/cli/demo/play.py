"""Plays the orders: some at a time, and one of them while a process is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mesh.cli.demo.contracts import Orders
from mesh.cli.demo.orders import Order, Outcome, Played
from mesh.context import activity
from mesh.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mesh.cli.demo.processes import Processes
    from mesh.client import Client

AT_A_TIME = 8
"""Customers who order at the same time."""


class Player:
    """Plays orders as one peer of the mesh.

    Args:
        ended: Is told of each order that has ended.
    """

    def __init__(self, ended: Callable[[Played], None]) -> None:
        self._ended = ended
        self._slots = trio.Semaphore(AT_A_TIME)
        self._at_bank: dict[str, trio.Event] = {}

    @property
    def in_flight(self) -> int:
        """Orders that are being worked on."""
        return AT_A_TIME - self._slots.value

    def reached_bank(self, order: str) -> None:
        """Payments works on this order now."""
        if order in self._at_bank:
            self._at_bank[order].set()

    async def play(
        self, client: Client, processes: Processes, orders: Sequence[Order]
    ) -> list[Played]:
        """Play all orders; returns them in the order given."""
        played: dict[str, Played] = {}

        async def one(order: Order) -> None:
            try:
                played[order.id] = await self._place(client, order)
            finally:
                self._slots.release()
            self._ended(played[order.id])

        async with trio.open_nursery() as nursery:
            for order in orders:
                if not order.kill:
                    await self._slots.acquire()
                    nursery.start_soon(one, order)
                    continue
                # Nobody else's order shall be in the process that is going to be killed. Those
                # that come after it are played while the process is away.
                for _ in range(AT_A_TIME):
                    await self._slots.acquire()
                for _ in range(AT_A_TIME - 1):
                    self._slots.release()
                self._at_bank[order.id] = trio.Event()
                async with trio.open_nursery() as killing:
                    killing.start_soon(self._kill, processes, order)
                    await one(order)
                    killing.cancel_scope.cancel()
        return [played[order.id] for order in orders]

    async def _kill(self, processes: Processes, order: Order) -> None:
        await self._at_bank[order.id].wait()
        processes.kill(order.kill)

    async def _place(self, client: Client, order: Order) -> Played:
        start = trio.current_time()
        error: CallError | None = None
        with activity(order.id):
            try:
                await client.stub(Orders, timeout=order.timeout).place(**order.params)
            except CallError as raised:
                error = raised
        return Played(
            order,
            Outcome.of(error),
            error.message if error is not None else "",
            trio.current_time() - start,
        )


async def ask(client: Client, method: str, params: Any = None) -> Any:
    """Ask the gateway about its mesh."""
    return await client.call("mesh", method, params)
