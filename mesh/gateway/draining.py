"""How a gateway ends without losing a call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from mesh.gateway.life import ping
from mesh.wire import codec

if TYPE_CHECKING:
    from mesh.gateway.core import Core
    from mesh.gateway.endings import Endings

log = logging.getLogger("mesh.gateway")

LAST_WORDS = 1.0
"""Seconds that peers have at the end of a drain to hear of it, and to tell their parts of the last
kept traces."""
GOODBYE = 0
"""The number of the drain's pings; those of the service `mesh` have others."""


def say_goodbye(core: Core) -> None:
    """Take no new calls from now on, and tell all peers.

    Nothing else is done between the two, so that whoever is refused for it has been told before: it
    sends the call to the next gateway.
    """
    core.draining = True
    peers = sum(not session.internal for session in core.sessions.values())
    core.events.drains(len(core.table), peers)
    drain_us = int(core.limits.drain * 1e6)
    goaway = codec.encode_header(codec.GoAway("the gateway is shutting down", drain_us))
    for session in list(core.sessions.values()):
        if not session.internal:
            core.send(session.link, goaway)
    core.flush()


async def drain(core: Core, endings: Endings) -> None:
    """Return once no call is in flight and all peers know, or the limit is over."""
    for entry in list(core.held.entries.values()):
        if entry.parent is None:
            endings.stop(entry)  # what it waits for comes to the next gateway, and so does it
    core.flush()
    async with trio.open_nursery() as nursery:
        # A peer's answer to a ping follows the calls that it made before it heard the goodbye.
        # These are refused; had it closed before, the peer could not tell whether they have run.
        for session in list(core.sessions.values()):
            if not session.internal:
                nursery.start_soon(ping, core, session, GOODBYE)
        with trio.move_on_after(core.limits.drain):
            await core.table.wait_empty()
        left = len(core.table)
        for entry in list(core.table.by_id.values()):
            endings.stop(entry)
        core.flush()
        until = nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS
        if core.tracing is not None:
            await core.tracing.collector.settle()
    with trio.move_on_at(until):
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
