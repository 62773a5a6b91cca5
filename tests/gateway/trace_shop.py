"""A small shop behind a gateway that keeps traces."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

import mesh
from tests.gateway.raw_peer import (
    settled,
)
from tests.gateway.traces import QUIET, Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh_telemetry import TraceSettings


def serve(users: mesh.Client, orders: mesh.Client, background: trio.Nursery) -> None:
    """Methods that end in every way."""

    async def get(params: Any) -> Any:
        return params

    async def wait(seconds: float) -> None:
        await trio.sleep(seconds)

    async def fail() -> None:
        raise mesh.NotFound("no such user")

    async def shielded(seconds: float) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return "late"

    for name, handler in (("get", get), ("wait", wait), ("fail", fail), ("shielded", shielded)):
        users.register(name, handler)

    async def place(method: str) -> None:
        await orders.call("users", method)

    async def later(seconds: float) -> None:
        async def work() -> None:
            with mesh.detached():
                await trio.sleep(seconds)
                await orders.call("users", "get", 1)

        background.start_soon(work)

    async def patient(seconds: float) -> None:
        await orders.call("users", "get", 1)
        await trio.sleep(seconds)
        await orders.call("users", "get", 2)

    for name, method in (("place", place), ("later", later), ("patient", patient)):
        orders.register(name, method)


@asynccontextmanager
async def shop(traces: TraceSettings = QUIET) -> AsyncIterator[tuple[Mesh, mesh.Client]]:
    """A caller, two services and their gateway; at the end nothing may be left."""
    async with (
        running(traces) as it,
        it.peer("users") as users,
        it.peer("orders") as orders,
        it.peer("web") as web,
        trio.open_nursery() as nursery,
    ):
        serve(users, orders, nursery)
        await settled(users)
        await settled(orders)
        yield it, web
        nursery.cancel_scope.cancel()
