"""Which instance gets the next call: the healthiest, then the one with least calls in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_telemetry.decisions import NAMED

if TYPE_CHECKING:
    from mesh.gateway.session import Session


def pick(instances: list[Session], max_in_flight: int) -> Session | None:
    """The instance for the next call, or None where all have too many calls or bytes waiting.

    Among equals it is the one that was picked longest ago, so that an idle mesh goes round.
    Counting looks at every instance; with the tens that one service has, that costs less than
    keeping them sorted through every call and answer. What it was picked by stays at the session
    until it gets the call.
    """
    if len(instances) == 1:
        only = instances[0]
        link = only.link
        # What `load` and `full` say, without the calls: most services have one instance.
        if len(only.serving) + len(only.abandoned) < max_in_flight and link.queued < link.limit:
            return only
        return None
    best: Session | None = None
    rank: tuple[int, int, int] | None = None
    loads: list[int] = []
    latest = 0
    for session in instances:
        load = len(session.serving) + len(session.abandoned)
        link, picked = session.link, session.picked
        if picked > latest:  # noqa: PLR1730 - max() costs more, for each instance
            latest = picked
        if load >= max_in_flight or link.queued >= link.limit:
            continue
        loads.append(load)
        this = (session.health, load, picked)
        if rank is None or this < rank:
            best, rank = session, this
    if best is not None and rank is not None:
        best.picked = latest + 1
        here, full = rank[1], len(instances) - len(loads)
        loads.remove(here)
        loads.sort()
        if len(loads) > NAMED:
            loads = [loads[0], loads[-1]]
        best.compared = (len(instances), full, here, *loads)
    return best
