"""Which instance gets the next call: the healthiest, then the one with least calls in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.gateway.session import Session


def pick(instances: list[Session], max_in_flight: int) -> Session | None:
    """The instance for the next call, or None where all have too many calls or bytes waiting.

    Among equals it is the one that was picked longest ago, so that an idle mesh goes round.
    Counting looks at every instance; with the tens that one service has, that costs less than
    keeping them sorted through every call and answer.
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
    for session in instances:
        load = session.load
        if load >= max_in_flight or session.link.full:
            continue
        this = (session.health, load, session.picked)
        if rank is None or this < rank:
            best, rank = session, this
    if best is not None:
        best.picked = max(session.picked for session in instances) + 1
    return best
