"""Two readings of what a gateway has counted, and what happened between them."""

from __future__ import annotations

from collections import Counter
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from mesh.cli.listing import BUILTIN
from mesh.errors import Reason, Unavailable
from mesh.units import tell_seconds
from mesh_telemetry import DURATION_BOUNDS, OTHER, quantile
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mesh.client import Client

    Reading = dict[str, Any]

AWAY = 10.0
"""Seconds that a gateway which ends has to make way for the next one, a drain's among them."""
PAUSE = 0.1
"""Seconds until a gateway that drains is asked again."""
_PASSING = frozenset({Reason.CONNECTION_LOST, Reason.GATEWAY_DRAINING, Reason.GATEWAY_UNREACHABLE})
UNCALLED = "Nobody has called anything yet."
UNSERVED = "No method has been registered; serve one with mesh.run()."
UNCOUNTED = "This gateway counts no calls: its telemetry is off."


class Difference(NamedTuple):
    """What was counted between two readings."""

    seconds: float
    restarted: bool
    """Whether another gateway has made way for the one that was read last; then the counts are all
    of that one's."""
    rows: list[dict[str, Any]]
    """Those of the later reading, with what was counted meanwhile."""


async def read_sample(client: Client) -> Reading:
    """All that a gateway has counted by method; the command itself is no load of it."""
    sample: Reading = await client.call(BUILTIN, "sample")
    gateway = sample["gateway"]
    own = {"peers": gateway["peers"] - 1, "in_flight": gateway["in_flight"] - 1}
    return {**sample, "gateway": {**gateway, **own}}


async def read_edges(client: Client) -> Reading:
    """All that a gateway has counted by caller and method."""
    while True:
        began = await client.call(BUILTIN, "status")
        edges = await client.call(BUILTIN, "edges")
        gateway = await client.call(BUILTIN, "status")
        if began["gateway"] == gateway["gateway"]:  # the edges are no other one's
            return {"gateway": gateway, "edges": edges}


async def read_again(client: Client, read: Callable[[Client], Awaitable[Reading]]) -> Reading:
    """A later reading, of the gateway that has come where the first one has gone.

    Raises:
        CallError: There is none.
    """
    until = trio.current_time() + AWAY
    while True:
        try:
            return await read(client)
        except Unavailable as failure:
            if failure.reason not in _PASSING or trio.current_time() >= until:
                raise
        await trio.sleep(PAUSE)


def difference(before: Reading | None, after: Reading, what: str) -> Difference:
    """What was counted between two readings; without a first one, since the gateway's start.

    Args:
        before: The first one.
        after: The second one.
        what: ``methods`` of samples, or ``edges``.
    """
    seconds: float = after["gateway"]["uptime_s"]
    restarted, earlier = False, {}
    if before is not None:
        restarted = before["gateway"]["gateway"] != after["gateway"]["gateway"]
        if not restarted:
            seconds -= before["gateway"]["uptime_s"]
            earlier = {_key(row): row for row in before[what]}
    rows = [_since(earlier.get(_key(row)), row) for row in after[what]]
    return Difference(max(seconds, 1e-6), restarted, rows)


def uncalled(reading: Reading) -> list[dict[str, Any]]:
    """The methods of a sample that are registered and that nobody has called, with their counts."""
    called = {_key(row) for row in reading["methods"]}
    registered = {
        ("", service["name"], method)
        for service in reading["services"]
        for instance in service["instances"]
        for method in instance["methods"]
    }
    return [
        {
            "service": service,
            "method": method,
            "calls": 0,
            "errors": {},
            "in_flight": 0,
            "duration_s": 0.0,
            "buckets": [0] * (len(DURATION_BOUNDS) + 1),
        }
        for _, service, method in registered - called
    ]


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row.get("caller", ""), row["service"], row["method"]


def _since(old: dict[str, Any] | None, row: dict[str, Any]) -> dict[str, Any]:
    if old is None:
        return row
    sums = [name for name in ("calls", "duration_s") if name in row]
    return {
        **row,
        **{name: row[name] - old[name] for name in sums},
        "errors": dict(Counter(row["errors"]) - Counter(old["errors"])),
        "buckets": list(map(sub, row["buckets"], old["buckets"])),
    }


def rates(row: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Rates and latencies of what was counted in so many seconds."""
    took = row.get("duration_s")  # older gateways tell it of methods alone
    return {
        "calls_per_second": round(row["calls"] / seconds, 6),
        "errors_per_second": round(sum(row["errors"].values()) / seconds, 6),
        "p50": tell_seconds(quantile(row["buckets"], 0.50, total=took)),
        "p95": tell_seconds(quantile(row["buckets"], 0.95, total=took)),
        "p99": tell_seconds(quantile(row["buckets"], 0.99, total=took)),
    }


def method_name(row: dict[str, Any]) -> str:
    """A method for people: calls of what nobody has registered are counted together."""
    name = f"{row['service']}.{row['method']}"
    return "(not registered)" if name == f"{OTHER}.{OTHER}" else clean(name)


def tell_restart(seconds: float) -> str:
    """What people read where the gateway is not the one of the reading before."""
    return f"the gateway was restarted; this is since its start, {duration(seconds)} ago"
