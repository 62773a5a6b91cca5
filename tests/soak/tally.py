"""The figures of a run: every call in exactly one class, and how long they took."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.soak.journal import Begun, Ended

STEP = math.log(1.03)
"""Latencies are counted in buckets that grow by 3 %."""
LEAST = 1e-5


class Latencies:
    """A histogram whose size does not grow."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self._buckets[int(math.log(max(seconds, LEAST) / LEAST) / STEP)] += 1

    def quantile(self, share: float) -> float:
        """The seconds that this share of all stays below, to 3 %; 0 where there are none."""
        target = share * self._buckets.total()
        for bucket in sorted(self._buckets):
            target -= self._buckets[bucket]
            if target <= 0:
                return LEAST * math.exp((bucket + 1) * STEP)
        return 0.0


@dataclass(slots=True)
class Tally:
    """What a run has seen so far.

    Attributes:
        outcomes: Calls by class; each call is in one.
        moved: Bytes of payload that callers sent and got.
        lateness: The longest that a call ended after its deadline, in seconds.
        lag: The longest that a caller's loop was late, in seconds.
        entry: The latencies of entry calls that succeeded.
        answered: When each peer was first answered since the last gateway was killed.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    nested: int = 0
    moved: int = 0
    reconnects: int = 0
    lateness: float = -math.inf
    lag: float = 0.0
    entry: Latencies = field(default_factory=Latencies)
    answered: dict[str, float] = field(default_factory=dict)
    killed_at: float = 0.0

    def gateway_died(self, now: float) -> None:
        """From now on it is watched whom the next gateway answers."""
        self.killed_at = now
        self.answered.clear()

    def begun(self, begun: Begun) -> None:
        """A call is made."""
        self.calls += 1
        self.nested += begun.nested
        self.kinds[begun.kind] += 1

    def ended(self, peer: str, begun: Begun, ended: Ended, *, lost_with_gateway: bool) -> None:
        """A call has ended for its caller.

        Args:
            peer: What the caller is called in the mesh.
            begun: How it began.
            ended: How it ended.
            lost_with_gateway: Whether its connection was lost by a kill of the gateway.
        """
        self.moved += begun.size + ended.size
        what = ended.reason if ended.how == "error" else ended.how
        if lost_with_gateway:
            what = "unknown, as the gateway was killed"
        elif not ended.gateway:
            what = f"never sent: {what}"
        self.outcomes[what] += 1
        if ended.how == "ok":
            if begun.begun > self.killed_at:
                self.answered.setdefault(peer, ended.ended)
            if not begun.nested:
                self.entry.add(ended.ended - begun.begun)

    def orphaned(self) -> None:
        """A call's caller died before it had ended."""
        self.outcomes["unknown, as the caller was killed"] += 1

    def late(self, late: float, lag: float) -> None:
        """A call ended so long after its deadline; negative is before."""
        self.lateness = max(self.lateness, late)
        self.lag = max(self.lag, lag)
