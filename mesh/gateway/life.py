"""Life signs: heartbeats both ways, pings, and what a gateway thinks of peers that give none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mesh.wire import codec
from mesh.wire.codec import BEAT, PING, PONG

if TYPE_CHECKING:
    from mesh.gateway.core import Core
    from mesh.gateway.session import Session

HEALTHY, LATE, UNRESPONSIVE = 0, 1, 2
HEALTH_NAMES = ("healthy", "late", "unresponsive")
DRAINING = "draining"

SLICE = 50
"""Sessions that one step of the pulse looks after before other tasks may run."""


async def pulse(core: Core) -> None:
    """Heartbeats to all peers, judgement of theirs, forgetting of what is gone."""
    interval, sequence = core.limits.heartbeat, 0
    while True:
        due = trio.current_time() + interval
        await trio.sleep_until(due)
        core.loop_lag = trio.current_time() - due
        core.usage = core.process.usage()
        sequence += 1
        core.registry.sweep(trio.current_time())
        if core.payloads is not None:
            core.payloads.prune()
        for index, session in enumerate(list(core.sessions.values())):
            if session.id in core.sessions:
                beat(core, session, sequence)
            if index % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()


def beat(core: Core, session: Session, sequence: int) -> None:
    """Send a peer a heartbeat, and judge it by its own."""
    limits, link = core.limits, session.link
    now = trio.current_time()
    missed = (now - session.last_heartbeat) / limits.heartbeat - 1
    before = session.health
    session.health = (
        UNRESPONSIVE
        if missed >= limits.unresponsive_after
        else LATE
        if missed >= limits.late_after
        else HEALTHY
    )
    if session.health != before:
        silent = now - session.last_heartbeat
        core.events.health(session, HEALTH_NAMES[session.health], silent)
    silent = now - session.last_received
    if link.is_tcp and silent > limits.silent_after * limits.heartbeat:
        session.expel(f"silent for {silent:.0f} s")
        return
    if not link.full:
        link.put(_frame(core, session, BEAT, sequence, core.loop_lag))
        link.flush()


def heard(core: Core, session: Session, heartbeat: codec.Heartbeat) -> None:
    """A peer's heartbeat is here, or its answer to a ping."""
    now = trio.current_time()
    if heartbeat.flag == PONG:
        waiting = session.pings.pop(heartbeat.sequence, None)
        if waiting is not None:
            started, event, result = waiting
            result.append(now - started)
            event.set()
        return
    if session.health != HEALTHY:
        core.events.health(session, HEALTH_NAMES[HEALTHY], now - session.last_heartbeat)
    session.last_heartbeat = now
    session.health = HEALTHY
    session.heartbeat = heartbeat
    if heartbeat.flag == PING:
        core.send(session.link, _frame(core, session, PONG, heartbeat.sequence))


async def ping(core: Core, session: Session, token: int) -> float | None:
    """The round trip to a peer's event loop, in seconds; None where the connection ends first.

    Args:
        core: The gateway.
        session: The peer.
        token: A number that no other ping under way has.
    """
    result: list[float] = []
    event = trio.Event()
    session.pings[token] = (trio.current_time(), event, result)
    try:
        session.link.put(_frame(core, session, PING, token))
        session.link.flush()
        await event.wait()
    finally:
        session.pings.pop(token, None)
    return result[0] if result else None


def _frame(core: Core, session: Session, flag: int, sequence: int, loop_lag: float = 0.0) -> bytes:
    usage = core.usage
    lag = max(0, int(loop_lag * 1e6))
    return codec.encode_header(
        codec.Heartbeat(
            sequence, flag, lag, len(core.table), session.link.queued, usage.memory, usage.cpu_us
        )
    )
