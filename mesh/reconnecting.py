"""How long a peer waits before it tries to connect again. Free of I/O and clocks."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from mesh.limits import Limits

SOON = 0.25
"""Seconds: the longest pause while a gateway is expected back."""
SOON_FOR = 10.0
"""Seconds for which it is, from the start, or from the end of a connection that was in order."""


class Try(Enum):
    """What became of one try to connect."""

    ABSENT = auto()
    """Nobody listens at the address."""
    FAILED = auto()
    """Somebody does, but does not let this peer in, or not in time."""
    LOST = auto()
    """There was a connection, which is over."""
    GOODBYE = auto()
    """There was one, whose gateway has shut down in order."""


class Pauses:
    """The pauses of one peer.

    Args:
        limits: Has the first and the longest of them.
        random: Spreads them.
        now: When the first try begins, in seconds.
    """

    def __init__(self, limits: Limits, random: random.Random, now: float) -> None:
        self._first, self._longest = limits.reconnect_first, limits.reconnect_longest
        self._random = random
        self._bound = self._first
        self._expected_until = now + SOON_FOR

    def after(self, came: Try, lasted: float, now: float) -> float:
        """The pause after a try, in seconds.

        Args:
            came: What became of it.
            lasted: How long it and its connection took, in seconds.
            now: When that was over.
        """
        # A connection that is lost at once, for example because this peer breaks a rule, must
        # not be tried again as if all had been well.
        lived = came is Try.LOST and lasted >= self._longest
        if lived or came is Try.GOODBYE:
            self._bound, self._expected_until = self._first, now + SOON_FOR
        else:
            self._bound = min(self._longest, self._bound * 2)
            if came is Try.ABSENT and now < self._expected_until:
                # Trying costs next to nothing where nobody listens, and callers wait. Who listens
                # and is slow, since a thousand peers have come back at once, is left alone longer.
                self._bound = min(self._bound, max(self._first, SOON))
        # Full jitter, so that the peers of a gateway that comes back do not come all at once:
        # https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        return self._random.uniform(0, self._bound)
