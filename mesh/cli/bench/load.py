"""The load: so many callers in turn, each call timed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import trio

from mesh.cli.bench.contract import Directory
from mesh.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mesh.client import Client


@dataclass(slots=True)
class Load:
    """What to call, how often, by how many tasks at once, and over how many connections."""

    services: Sequence[str]
    """Called in turn by each task."""
    method: str
    params: Any
    concurrency: int
    calls: int
    callers: int = 1
    stub: bool = False
    """Whether the calls go through a stub, whatever the services and the method."""
    done: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured. Durations are seconds."""

    elapsed: float
    latencies: list[float]
    cpu: float

    def quantile(self, q: float) -> float:
        """The latency that a share of ``q`` of the calls did not exceed."""
        ordered = self.latencies
        return ordered[min(int(len(ordered) * q), len(ordered) - 1)] if ordered else float("nan")


def _by_stub(client: Client) -> Callable[[str, str, Any], Awaitable[Any]]:
    get = client.stub(Directory).get
    return lambda _service, _method, params: get(**params)


async def apply(
    clients: Sequence[Client], load: Load, on_progress: Callable[[int], None]
) -> Timing:
    """Make the calls, the tasks spread over the clients.

    ``on_progress`` hears now and then how many calls are done.
    """
    latencies: list[float] = []
    clock = time.perf_counter
    each = max(1, load.calls // load.concurrency)

    async def caller(number: int) -> None:
        client, params, method = clients[number % len(clients)], load.params, load.method
        call = _by_stub(client) if load.stub else client.call
        services = islice(cycle(load.services), number % len(load.services), None)
        for service in islice(services, each):
            started = clock()
            try:
                await call(service, method, params)
            except CallError as error:
                load.errors[error.reason] = load.errors.get(error.reason, 0) + 1
            latencies.append(clock() - started)

    async def report() -> None:
        while True:
            await trio.sleep(0.1)
            on_progress(len(latencies))

    async with trio.open_nursery() as outer:
        outer.start_soon(report)
        cpu = time.process_time()
        started = clock()
        async with trio.open_nursery() as inner:
            for number in range(load.concurrency):
                inner.start_soon(caller, number)
        elapsed = clock() - started
        cpu = time.process_time() - cpu
        outer.cancel_scope.cancel()
    on_progress(len(latencies))
    load.done = len(latencies)
    latencies.sort()
    return Timing(elapsed, latencies, cpu)
