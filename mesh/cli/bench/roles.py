"""The processes that `mesh bench` starts for itself: a gateway, and a service that echoes.

    python -m mesh.cli.bench.roles gateway unix:/tmp/x/gateway.sock
    python -m mesh.cli.bench.roles service unix:/tmp/x/gateway.sock

Each prints one line once it can be used, and ends with its standard input.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import trio

from mesh.connecting import connect
from mesh.gateway import Gateway
from mesh.process import calm_collector

SERVICE, METHOD, CPU = "users", "get", "cpu"


async def _until_orphaned() -> None:
    """Return when whoever started this process is gone, however it ended."""
    stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
    while await stdin.receive_some():
        pass


async def gateway(address: str) -> None:
    """A gateway with the defaults of a normal user, its admin server included."""
    calm_collector()  # as `mesh gateway` does
    async with Gateway(listen=[address], admin="127.0.0.1:0"):
        print("ready", flush=True)
        await _until_orphaned()


async def service(address: str) -> None:
    """A service that sends back what it gets."""
    async with connect(SERVICE, gateway=address) as client:

        @client.method(METHOD)
        async def get(params: Any) -> Any:
            return params

        @client.method(CPU)
        async def cpu() -> float:
            return time.process_time()

        await client.call("mesh", "status")  # comes back after the registrations were read
        print("ready", flush=True)
        await _until_orphaned()


if __name__ == "__main__":
    trio.run({"gateway": gateway, "service": service}[sys.argv[1]], sys.argv[2])
