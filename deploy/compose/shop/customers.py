"""The shop's customers: they order, some times a second, until SIGTERM."""

from __future__ import annotations

import random
import signal

import trio

import mesh
from shop.contracts import Orders

RATE = 20.0
"""Orders per second."""
NAMES = ("ada", "grace", "tu", *["ada"] * 96, "nobody")
"""Who orders; nobody is not among the users."""


async def order(orders: Orders) -> None:
    """Order something, and be content with whatever becomes of it: the mesh has seen it."""
    try:
        await orders.place(random.choice(NAMES), random.randrange(100, 10_000))
    except mesh.CallError as failure:
        print(f"{failure.code}: {failure.message}", flush=True)


async def visit(metrics: str | None, token: str | None) -> None:
    """Order until told to stop.

    Args:
        metrics: As of `mesh.connect`.
        token: As its ``metrics_token``.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            mesh.connect(
                "customers", connect_timeout=30.0, metrics=metrics, metrics_token=token
            ) as client,
            trio.open_nursery() as nursery,
        ):

            async def stop() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            while True:
                nursery.start_soon(order, client.stub(Orders))
                await trio.sleep(random.expovariate(RATE))
