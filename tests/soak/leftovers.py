"""What may not be left once the load has ended and everything has settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from tests.soak.journal import Holds
    from tests.soak.processes import Sample

MIB = 1024 * 1024
GATEWAY_GROWTH = 128 * MIB
"""How much more memory a gateway may hold after the load than when it was ready: 40 MiB are the
20,000 spans that it keeps, 32 MiB what it held for one flood, and the rest is the allocator's."""
EMPTY = frozenset({"mesh_calls_in_flight", "mesh_outbox_bytes", "mesh_traces_pending",
                   "mesh_peer_in_flight"})  # fmt: skip
"""What the gateway's gauges of these names must be back at: 0."""


def in_gateway(
    status: Mapping[str, Any], services: Iterable[Mapping[str, Any]], families: Iterable[Metric]
) -> list[str]:
    """What a gateway without load still holds, by its own views.

    Args:
        status: Its ``/api/status``.
        services: Its ``/api/services``.
        families: Its metrics.
    """
    found = [f"{status[what]:,} {what}" for what in ("in_flight", "waiting") if status[what]]
    for row in services:
        for instance in row["instances"]:
            found += [
                f"{instance[what]:,} {what} of {instance['peer']} {instance['process_id']}"
                for what in ("in_flight", "queued_bytes")
                if instance[what]
            ]
    for family in families:
        found += [
            f"{sample.name} {sample.labels} {sample.value:g}"
            for sample in family.samples
            if sample.name in EMPTY and sample.value
        ]
    return found


def in_peer(life: str, holds: Holds | None, since: float) -> list[str]:
    """What a peer without load still holds, by what it noted after that moment."""
    if holds is None or holds.at < since:
        return [f"{life} has not noted what it holds"]
    if holds.calling or holds.serving or holds.assembling:
        what = (
            f"{holds.calling} calls, serves {holds.serving}, and holds {holds.assembling:,} bytes"
        )
        return [f"{life} waits for {what} of long messages"]
    return []


def files(life: str, start: Sample, now: Sample) -> list[str]:
    """A process without load must have no more files open than when it was ready."""
    if now.files <= start.files:
        return []
    return [
        f"{life} had {start.files} files open when it was ready, and {now.files} after the load"
    ]


def memory(life: str, start: Sample, now: Sample) -> list[str]:
    """A gateway may hold what its bounds allow, and no more."""
    grown = now.memory - start.memory
    most = f"{GATEWAY_GROWTH / MIB:g} MiB more is most"
    if grown <= GATEWAY_GROWTH:
        return []
    return [f"{life} holds {grown / MIB:.1f} MiB more than when it was ready; {most}"]
