"""Bars along the time: when a call ran, and what it did."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mesh_telemetry.hops import Hop
    from mesh_telemetry.texts import Signs

SHORTEST_BAR, LONGEST_BAR = 12, 100
"""Columns."""


class Bars:
    """The bars of one drawing.

    Args:
        start: When its first call began, in milliseconds.
        end: When its last call ended.
        size: Columns.
        signs: What to draw with.
    """

    def __init__(self, start: float, end: float, size: int, signs: Signs) -> None:
        self._start = start
        self._total = end - start or 1e-9
        self._size = size
        self._signs = signs
        self._used: set[str] = set()

    def draw(self, hops: Sequence[Hop]) -> str:
        """When they ran; in each cell, what one of them did for most of it.

        Args:
            hops: By start, so that a cell which one has filled, or passed, stays as it is.
        """
        drawn: list[str] = []
        for hop in hops:
            first, length = self._place(hop)
            drawn += " " * (first - len(drawn))
            if len(drawn) < first + length:
                filled = len(drawn) - first
                drawn += self._cells(hop, length)[filled:]
        self._used.update(drawn)
        return "".join(drawn)

    def legend(self, width: int) -> list[str]:
        """What the signs mean that have been drawn: as many lines of this width as it takes."""
        signs = self._signs
        lines: list[str] = []
        for sign, meaning in (
            (signs.own, "own work"),
            (signs.waiting, "waits for calls below"),
            (signs.unseen, "no word of the callee"),
            (signs.absent, "waits for an instance"),
            (signs.way, "on the way: gateway, queues, network"),
        ):
            told = f"{sign} {meaning}"
            if sign not in self._used:
                continue
            if lines and len(lines[-1]) + 2 + len(told) <= width:
                lines[-1] += f"  {told}"
            else:
                lines.append(told)
        return lines

    def _place(self, hop: Hop) -> tuple[int, int]:
        """The first cell in which it ran, and how many there are, at least one."""
        first = min(self._size - 1, int((hop.start - self._start) / self._total * self._size))
        length = round((hop.end - hop.start) / self._total * self._size)
        return first, max(1, min(self._size - first, length))

    def _cells(self, hop: Hop, length: int) -> list[str]:
        took = hop.end - hop.start
        if took < self._total / self._size / 8:
            return [self._signs.moment]
        sign = self._signs_along(hop)
        # The middle of each cell, on the hop's own clock.
        return [sign(hop.start + (cell + 0.5) / length * took) for cell in range(length)]

    def _signs_along(self, hop: Hop) -> Callable[[float], str]:
        """What stands for the hop at a time in it."""
        signs = self._signs
        begin, end = hop.work
        absent = hop.waited or (0.0, -1.0)
        starts, ends = _busy(hop.children)
        working = signs.unseen if hop.is_unseen else signs.way if hop.is_passing else signs.own

        def sign(at: float) -> str:
            if absent[0] <= at <= absent[1]:
                return signs.absent
            if not begin <= at <= end:
                return signs.way
            before = bisect_right(starts, at)
            return signs.waiting if before and at <= ends[before - 1] else working

        return sign


def _busy(hops: Sequence[Hop]) -> tuple[list[float], list[float]]:
    """When any of these ran: the starts and the ends of times that do not meet."""
    starts: list[float] = []
    ends: list[float] = []
    for start, end in sorted((hop.start, hop.end) for hop in hops):
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends
