"""A run against a mesh that is up: warm it, load it, and put the figures together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mesh.cli.bench.load import Load, apply
from mesh.connecting import connect

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Load", "measure"]

WARM_UP = 20
"""One part in so many of the calls is made before the clock starts."""


async def measure(
    address: str,
    load: Load,
    on_progress: Callable[[int], None],
    cpu_method: str | None = None,
) -> dict[str, Any]:
    """Apply a load to the mesh at this address.

    Args:
        address: The gateway.
        load: What to call.
        on_progress: Hears now and then how many calls are done.
        cpu_method: A method of the service that returns its processor time in seconds.

    Returns:
        Figures; those with ``_us`` are microseconds.

    Raises:
        CallError: The very first call failed: there is nothing to measure.
    """

    async def cpu_of(service: str, method: str) -> float:
        answer = await client.call(service, method)
        return answer["cpu_us"] / 1e6 if isinstance(answer, dict) else float(answer)

    service_name = load.services[0]
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect("bench", gateway=address))
            for _ in range(load.callers)
        ]
        client = clients[0]
        await client.call(service_name, load.method, load.params)
        await apply(clients, replace(load, calls=load.calls // WARM_UP, errors={}), lambda _: None)
        gateway = await cpu_of("mesh", "status")
        service = await cpu_of(service_name, cpu_method) if cpu_method else None
        timing = await apply(clients, load, on_progress)
        gateway = await cpu_of("mesh", "status") - gateway
        if service is not None and cpu_method:
            service = await cpu_of(service_name, cpu_method) - service

    def per_call(seconds: float) -> float:
        return round(seconds / load.done * 1e6, 2)

    figures = {
        "system": "spanmesh",
        "concurrency": load.concurrency,
        "callers": load.callers,
        "services": len(load.services),
        "calls": load.done,
        "calls_per_second": round(load.done / timing.elapsed),
        "p50_us": round(timing.quantile(0.5) * 1e6, 1),
        "p99_us": round(timing.quantile(0.99) * 1e6, 1),
        "errors": load.errors,
        "gateway_cpu_us_per_call": per_call(gateway),
        "caller_cpu_us_per_call": per_call(timing.cpu),
    }
    if service is not None:
        figures["service_cpu_us_per_call"] = per_call(service)
    return figures
