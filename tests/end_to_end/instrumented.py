"""Services whose code makes spans of its own, and uses two libraries that others instrumented.

Arguments: which service, and for `orders` the URL that it asks. The gateway is in MESH_GATEWAY.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

import httpx
import trio
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor

import mesh

tracer = trace.get_tracer("shop", "1.0")


def users(client: mesh.Client) -> None:
    """A directory in SQLite."""
    SQLite3Instrumentor().instrument()

    @client.method("get")
    def get(params: dict[str, str]) -> dict[str, Any]:
        """In a thread, as SQLite blocks."""
        trace.get_current_span().set_attribute("user.id", params["id"])
        with sqlite3.connect(":memory:") as connection:
            (one,) = connection.cursor().execute("SELECT 1").fetchone()
        return {"id": params["id"], "one": one, "baggage": baggage.get_baggage("tenant")}


def orders(client: mesh.Client) -> None:
    """Places orders: asks another service, and a web server."""
    HTTPXClientInstrumentor().instrument()

    @client.method("place")
    async def place(params: dict[str, str]) -> dict[str, Any]:
        with tracer.start_as_current_span("check", attributes={"order.sku": params["sku"]}):
            async with httpx.AsyncClient(trust_env=False) as web:
                answer = await web.get(sys.argv[2])
            found: list[Any] = []
            token = attach(baggage.set_baggage("tenant", "blue"))
            try:

                async def ask() -> None:
                    found.append(await client.call("users", "get", {"id": "7"}))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
            finally:
                detach(token)
        if params["sku"] == "none":
            raise ValueError("there is no such thing")
        return {"user": found[0], "traceparent": answer.json()["traceparent"]}


if __name__ == "__main__":
    mesh.run({"users": users, "orders": orders}[sys.argv[1]])
