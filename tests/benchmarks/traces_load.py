"""Chains of services that `traces.py` starts, and the calls that it makes of them."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scale
import trio
from compare import PARAMS
from traces_roles import METHOD

import mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

SPANS = 4
"""Of a hop: its caller's, two of the gateway's, its callee's."""
SPAN_BYTES = 10_000
"""More than one takes by the store's own estimate."""
DEADLINE = 1.0
"""Seconds that a paced call has."""
SETTLING = 15.0
"""Seconds after which what a kept trace still lacks is taken for lost: longer than a gateway waits
for a peer that is connected."""


class Child(scale.Child):
    """A process of `traces_roles`."""

    script = "traces_roles.py"


@dataclass
class Chain:
    """A gateway and services, each of which calls the next."""

    address: str
    hub: Child
    first: Child

    def settle(self, *, forgotten: bool = False) -> dict[str, float]:
        """Wait until all kept traces are complete, and exported if they are; or for long enough.

        Args:
            forgotten: Whether to wait until the gateway has forgotten what it did not keep, too.
        """
        until = time.perf_counter() + SETTLING
        while True:
            told = self.hub.ask()
            waits = told.get("pending", 0) + (told.get("going", 0) if forgotten else 0)
            kept = told.get("kept", 0) - told.get("evicted", 0)
            if (not waits and told.get("complete", 0) == kept) or time.perf_counter() > until:
                return told
            time.sleep(0.02)


@contextlib.contextmanager
def chain(depth: int, *, export: bool = False, **settings: Any) -> Iterator[Chain]:
    """A fresh one; what it is told is in `traces_roles.gateway`."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-traces-"))
        address = f"unix:{Path(folder) / 'gateway.sock'}"
        if export:
            settings["endpoint"] = Child(stack, "sink").detail
        hub = Child(stack, "gateway", address, json.dumps(settings))
        for number in reversed(range(depth)):
            following = [f"s{number + 1}"] if number + 1 < depth else []
            first = Child(stack, "link", address, f"s{number}", *following)
        yield Chain(address, hub, first)


async def burst(address: str, calls: int, concurrency: int = 16) -> None:
    """Entry calls, one after the other in each task."""
    async with mesh.connect("bench", gateway=address) as client:

        async def one(first: int) -> None:
            for _ in range(first, calls, concurrency):
                await client.call("s0", METHOD, PARAMS)

        async with trio.open_nursery() as nursery:
            for first in range(concurrency):
                nursery.start_soon(one, first)


@dataclass
class Paced:
    """What became of calls that were made evenly, and of the gateway meanwhile."""

    calls: int
    lost: int = 0
    late: int = 0
    behind: float = 0.0
    """Seconds that the caller itself was late, at most."""
    elapsed: float = 0.0
    took: list[float] = field(default_factory=list)
    told: dict[str, float] = field(default_factory=dict)
    """What the gateway says at the end; processor time and traces are of these calls alone."""
    settled: float = 0.0
    """Seconds from the last call's end until all traces were complete."""

    def quantile(self, q: float) -> float:
        """Milliseconds that a share of ``q`` of the calls did not exceed."""
        ordered = sorted(self.took)
        return ordered[min(int(len(ordered) * q), len(ordered) - 1)] * 1e3

    @property
    def share(self) -> float:
        """Percentage of a core that the gateway took."""
        return self.told["cpu"] / self.elapsed * 100


async def _pace(client: mesh.Client, rate: float, paced: Paced) -> None:
    async def one() -> None:
        started = time.perf_counter()
        try:
            await client.call("s0", METHOD, PARAMS, timeout=DEADLINE)
        except mesh.DeadlineExceeded:
            paced.late += 1
        except mesh.CallError:
            paced.lost += 1
        else:
            paced.late += time.perf_counter() - started > DEADLINE
        paced.took.append(time.perf_counter() - started)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for index in range(paced.calls):
            due = started + index / rate
            await trio.sleep_until(due)
            paced.behind = max(paced.behind, trio.current_time() - due)
            nursery.start_soon(one)
    paced.elapsed = trio.current_time() - started


def paced_run(rate: float, window: float, warm_up: int, *, depth: int, **settings: Any) -> Paced:
    """Make calls evenly of a fresh chain.

    Args:
        rate: Calls per second.
        window: Seconds.
        warm_up: Calls before that.
        depth: Services, each of which calls the next.
        settings: Those of :func:`chain`.
    """
    calls = max(1, int(rate * window))
    if settings.get("traces"):  # room for all of them, since they are counted at the end
        room = (calls + warm_up + 100) * depth * SPANS
        settings["traces"] = settings["traces"] | {
            "store_spans": room,
            "store_bytes": room * SPAN_BYTES,
        }
    with chain(depth, watch=True, **settings) as it:
        trio.run(burst, it.address, warm_up)
        it.settle()

        async def load() -> Paced:
            async with mesh.connect("bench", gateway=it.address) as client:
                paced = Paced(calls)
                before = it.hub.ask()
                await _pace(client, rate, paced)
                paced.told = it.hub.ask()
                ended = time.perf_counter()
                after = await trio.to_thread.run_sync(it.settle)
                paced.settled = time.perf_counter() - ended
                for key in ("kept", "complete", "spans", "exported", "not_exported"):
                    paced.told[key] = after.get(key, 0) - before.get(key, 0)
                paced.told["cpu"] -= before["cpu"]
                return paced

        return trio.run(load)
