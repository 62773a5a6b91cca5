"""How a gateway ends without losing a call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from mesh.wire import codec

if TYPE_CHECKING:
    from mesh.gateway.core import Core
    from mesh.gateway.endings import Endings

log = logging.getLogger("mesh.gateway")

LAST_PARTS = 1.0
"""Seconds that peers have at the end of a drain to tell their parts of the last kept traces."""


async def drain(core: Core, endings: Endings) -> None:
    """Tell all peers, and return once no call is in flight or the limit is over."""
    limit = core.limits.drain
    peers = sum(not session.internal for session in core.sessions.values())
    core.events.drains(len(core.table), peers)
    goaway = codec.encode_header(codec.GoAway("the gateway is shutting down", int(limit * 1e6)))
    for session in list(core.sessions.values()):
        if not session.internal:
            core.send(session.link, goaway)
    core.flush()
    with trio.move_on_after(limit):
        await core.table.wait_empty()
    left = len(core.table)
    for entry in list(core.table.by_id.values()):
        endings.stop(entry)
    core.flush()
    tracing = core.tracing
    with trio.move_on_after(LAST_PARTS):
        if tracing is not None:
            await tracing.collector.settle()
    with trio.move_on_after(1.0):
        for session in list(core.sessions.values()):
            await session.link.wait_below(0)
    calls = core.metrics.calls()
    log.info(
        "drained after %.1f s: %d calls routed, %d ended with an error, %d ended by the drain",
        trio.current_time() - core.started,
        core.table.last_id,
        sum(sum(series.codes[1:]) for series in calls),
        left,
    )
