"""Which peers have lost parts of kept traces of late: for whoever asks what is not in order."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

RECENT = 300.0
"""Seconds for which a loss is news."""
MOST_PEERS = 100
"""Processes that are remembered, those that lost something last."""


class Loss(msgspec.Struct):
    """What one process has lost, with at most :data:`RECENT` seconds from one loss to the next."""

    peer: str
    process: str
    last: float
    """When it lost something last, in seconds on the clock of the caller."""
    dropped: int = 0
    """Spans that it said to have lost."""
    untold: int = 0
    """Spans that it was asked for and did not tell in time: most of the dropped are among them."""

    @property
    def spans(self) -> int:
        """Spans that are lost at least."""
        return max(self.dropped, self.untold)


class Losses:
    """The losses of a gateway's peers."""

    def __init__(self) -> None:
        self._by_process: OrderedDict[str, Loss] = OrderedDict()

    def note(
        self, peer: str, process: str, now: float, *, dropped: int = 0, untold: int = 0
    ) -> None:
        """A peer has lost so many spans more."""
        loss = self._by_process.pop(process, None)
        if loss is None or loss.last <= now - RECENT:
            loss = Loss(peer, process, now)
        loss.last = now
        loss.dropped += dropped
        loss.untold += untold
        self._by_process[process] = loss
        if len(self._by_process) > MOST_PEERS:
            self._by_process.popitem(last=False)

    def recent(self, now: float) -> list[Loss]:
        """Those that are news."""
        return [loss for loss in self._by_process.values() if loss.last > now - RECENT]
