"""When a call is slow: measured by what its method has taken lately.

One bound for all methods would call everything slow in one service and nothing in another. The
figures are there anyway, in each method's histogram; what has been added to it in the last half
minute tells what is usual now.
"""

from __future__ import annotations

from math import inf
from operator import sub
from typing import TYPE_CHECKING

from mesh_telemetry.names import DURATION_BOUNDS
from mesh_telemetry.quantiles import quantile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh_telemetry.metrics import MethodSeries

HALF = 15.0
"""Seconds. The window is one to two of these long: the running one and the one before."""
MIN_CALLS = 100
"""Calls in the window below which a 99th percentile says nothing."""
LEAST = 0.001
"""Seconds below which no call is slow: there it is the event loop that is measured."""


class _Window:
    """A method's histogram as it was when the half before, and the running one, began."""

    __slots__ = ("half", "newer", "older", "total")

    def __init__(self, half: int) -> None:
        self.half = half
        self.older = self.newer = [0] * (len(DURATION_BOUNDS) + 1)
        self.total = 0


class SlowMethods:
    """Sets :attr:`~mesh_telemetry.metrics.MethodSeries.slow_after` of methods.

    It is the 99th percentile of the last 15 to 30 seconds, but twice the median at least, so that
    in a method that always takes the same not every hundredth call is slow, and a millisecond; and
    never more than the method's objective, or the setting where it has none.

    Args:
        slow_after: Seconds from which on every call is slow, of methods without an objective;
            :attr:`~mesh_telemetry.sampling.TraceSettings.slow_after`.
    """

    def __init__(self, slow_after: float) -> None:
        self._slow_after = slow_after
        self._windows: dict[MethodSeries, _Window] = {}

    def update(self, methods: Iterable[MethodSeries], now: float) -> None:
        """Look at the histograms again; about once a second, and from the beginning.

        Args:
            methods: All of them, every time; one never seen before gets the setting.
            now: Seconds on a clock that does not go back.
        """
        half = int(now // HALF)
        for series in methods:
            total = sum(series.buckets)
            window = self._windows.get(series)
            most = self._slow_after if series.objective is None else series.objective
            if window is None:
                series.slow_after = most
                if not total:
                    continue
                window = self._windows[series] = _Window(half)
            if window.half != half:
                window.half = half
                window.older, window.newer = window.newer, series.buckets.copy()
            elif window.total == total:
                continue
            window.total = total
            recent = list(map(sub, series.buckets, window.older))
            series.slow_after = min(most, _unusual(recent))


def _unusual(recent: list[int]) -> float:
    """From how many seconds on a call is slower than these."""
    if sum(recent) < MIN_CALLS:
        return inf
    p99, p50 = quantile(recent, 0.99), quantile(recent, 0.5)
    return max(p99 or 0.0, 2.0 * (p50 or 0.0), LEAST)
