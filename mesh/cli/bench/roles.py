"""The processes that `mesh bench` starts for itself: a gateway, and a service that echoes.

    python -m mesh.cli.bench.roles gateway unix:/tmp/x/gateway.sock on
    python -m mesh.cli.bench.roles service unix:/tmp/x/gateway.sock 1 1

The gateway's last word is whether it has telemetry. The service's two numbers: how many services
it is, and how deep a call of each goes. Each process prints one line once it can be used, and ends
with its standard input.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import trio

from mesh.cli.bench.contract import Directory, DirectoryService
from mesh.connecting import connect
from mesh.contracts.contract import info_of
from mesh.gateway import Gateway
from mesh.implementing import implement
from mesh.process import calm_collector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SERVICE, METHOD, CPU = "users", "get", "cpu"


async def _until_orphaned() -> None:
    """Return when whoever started this process is gone, however it ended."""
    stdin = trio.lowlevel.FdStream(sys.stdin.fileno())
    while await stdin.receive_some():
        pass


async def gateway(address: str, telemetry: str) -> None:
    """A gateway with the defaults of a normal user, its admin server included."""
    calm_collector()  # as `mesh gateway` does
    async with Gateway(listen=[address], admin="127.0.0.1:0", telemetry=telemetry == "on"):
        print("ready", flush=True)
        await _until_orphaned()


def service_names(count: int) -> list[str]:
    """What so many services are called."""
    return [SERVICE, *(f"{SERVICE}{number}" for number in range(2, count + 1))]


async def service(address: str, services: str, depth: str) -> None:
    """Services that send back what they get, the last method of a chain before the others."""
    async with connect(SERVICE, gateway=address) as client:

        def passing_on(following: str) -> Callable[[Any], Awaitable[Any]]:
            async def get(params: Any) -> Any:
                return await client.call(SERVICE, following, params)

            return get

        async def echo(params: Any) -> Any:
            return params

        chain = [METHOD, *(f"{METHOD}{level}" for level in range(2, int(depth) + 1))]
        for method, following in pairwise(chain[1:]):
            client.register(method, passing_on(following))
        if len(chain) > 1:
            client.register(chain[-1], echo)
        for name in service_names(int(services)):
            first = passing_on(chain[1]) if len(chain) > 1 else echo
            client.register(METHOD, first, service=name)

        async def cpu() -> float:
            return time.process_time()

        implement(client, DirectoryService())
        for name in (SERVICE, info_of(Directory).name):
            client.register(CPU, cpu, service=name)

        await client.call("mesh", "status")  # comes back after the registrations were read
        print("ready", flush=True)
        await _until_orphaned()


if __name__ == "__main__":
    roles: dict[str, Callable[..., Awaitable[None]]] = {"gateway": gateway, "service": service}
    trio.run(roles[sys.argv[1]], *sys.argv[2:])
