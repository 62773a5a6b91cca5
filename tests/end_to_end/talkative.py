"""A service that logs, in spans of its own and in threads; MESH_KEEP_LOGS says what is kept of it.

Its environment has the gateway's address. It prints `ready` once it is served.
"""

from __future__ import annotations

import logging

import trio
from opentelemetry import trace

import mesh

tracer = trace.get_tracer("shop")
log = logging.getLogger("shop")


async def shop(client: mesh.Client) -> None:
    """Register, and tell when the gateway knows."""

    @client.method()
    async def place(params: dict[str, str]) -> None:
        log.info("placing %s", params["sku"], extra={"password": "hunter2"})
        log.debug("not asked for")
        with tracer.start_as_current_span("price"):
            await trio.to_thread.run_sync(log.warning, "the price of %s is old", params["sku"])
        await client.call("shop", "reserve", params)

    @client.method()
    def reserve(params: dict[str, str]) -> None:
        log.info("looking in the shelf")
        if params["sku"] != "mug":
            log.error("no %s is left", params["sku"])
            raise LookupError(params["sku"])

    await client.call("mesh", "status")
    print("ready", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level="DEBUG")
    mesh.run(shop)
