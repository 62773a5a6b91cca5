"""Which peers have lost parts of kept traces of late: for whoever asks what is not in order."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import msgspec

RECENT = 300.0
"""Seconds for which a loss is news."""
MOST_PEERS = 100
"""Processes that are remembered, those that lost something last."""
BELIEVED = 100_000
"""Lost spans that a process is believed at once: ten times what it holds of records and spans."""
BELIEVED_RATE = 10_000.0
"""Lost spans that it is believed per second: more than gateways ask of it, or Python makes."""
MOST_TRACES = 1000
"""Traces of each process of which spans did not come, those given up last."""


class Untold(NamedTuple):
    """What one process did not tell of one trace in time."""

    spans: int
    at: float
    """When it was given up."""


class Loss(msgspec.Struct):
    """What one process has lost, with at most :data:`RECENT` seconds from one loss to the next.

    Times are seconds on the clock of the caller.
    """

    peer: str
    process: str
    dropped: int = 0
    """Spans that it said to have lost, as far as it is believed."""
    credit: float = float(BELIEVED)
    """Lost spans that it would be believed when it said so last."""
    dropped_at: float = float("-inf")
    """When it said so last."""
    untold: OrderedDict[bytes, Untold] = msgspec.field(default_factory=OrderedDict)
    """By trace, what it was asked for and did not tell: most of the dropped are among them."""

    @property
    def spans(self) -> int:
        """Spans that are lost at least."""
        return max(self.dropped, sum(untold.spans for untold in self.untold.values()))

    @property
    def last(self) -> float:
        """When it lost something last."""
        if not self.untold:
            return self.dropped_at
        return max(self.dropped_at, next(reversed(self.untold.values())).at)


class Losses:
    """The losses of a gateway's peers."""

    def __init__(self) -> None:
        self._by_process: OrderedDict[str, Loss] = OrderedDict()

    def drop(self, peer: str, process: str, now: float, spans: int) -> int:
        """A peer says that it has lost so many spans more; returns how many it is believed.

        A peer may say what it likes, and shall not spoil the numbers of all others by it.
        """
        loss = self._open(peer, process, now)
        loss.credit = min(BELIEVED, loss.credit + (now - loss.dropped_at) * BELIEVED_RATE)
        believed = min(spans, int(loss.credit))
        loss.credit -= believed
        loss.dropped += believed
        loss.dropped_at = now
        return believed

    def give_up(self, peer: str, process: str, now: float, trace_id: bytes, spans: int) -> None:
        """A peer owes so many spans of a trace for too long; they may come all the same."""
        untold = self._open(peer, process, now).untold
        untold.pop(trace_id, None)
        untold[trace_id] = Untold(spans, now)
        if len(untold) > MOST_TRACES:
            untold.popitem(last=False)

    def tell(self, process: str, trace_id: bytes, spans: int) -> None:
        """A peer has told of a trace, late perhaps; so many spans of it are owed still."""
        loss = self._by_process.get(process)
        if loss is None or trace_id not in loss.untold:
            return
        if spans:
            loss.untold[trace_id] = loss.untold[trace_id]._replace(spans=spans)
            return
        del loss.untold[trace_id]
        if not loss.spans:
            del self._by_process[process]

    def recent(self, now: float) -> list[Loss]:
        """Those that are news."""
        return [loss for loss in self._by_process.values() if loss.last > now - RECENT]

    def _open(self, peer: str, process: str, now: float) -> Loss:
        """What is known of a process that loses something now."""
        loss = self._by_process.pop(process, None)
        if loss is None or loss.last <= now - RECENT:
            loss = Loss(peer, process)
        self._by_process[process] = loss
        if len(self._by_process) > MOST_PEERS:
            self._by_process.popitem(last=False)
        return loss
