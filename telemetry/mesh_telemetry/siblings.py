"""Many calls of one method side by side: which of them have a line, and which are told as one.

What is told as one is alike in all that a reader looks for: the method, how it ended, and every
failure in it or below it. So each different failure has a line of its own, however many there are.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mesh_telemetry.texts import figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mesh_telemetry.hops import Hop

MANY = 8
"""Calls that are alike, side by side, of which each has a line."""
SLOWEST = 3
"""Of more, those that keep their line."""

Failures: TypeAlias = "Mapping[Hop, int]"
"""Of each hop, a number for the failures in it and below it; 0 where there are none."""


class Siblings(NamedTuple):
    """A line of the drawing: one hop, or several that are alike."""

    hop: Hop
    alike: Sequence[Hop] = ()
    """All that the line stands for, by start; none where it is the hop alone."""

    @property
    def spread(self) -> str:
        """How long they took, in milliseconds."""
        took = [hop.end - hop.start for hop in self.alike]
        return f"p50 {figure(median(took))}  max {figure(max(took))}"

    @property
    def inside(self) -> int:
        """Calls and spans below them."""
        return sum(1 for hop in self.alike for _ in hop.walk()) - len(self.alike)


def failures(tops: Iterable[Hop]) -> tuple[Failures, Iterator[None]]:
    """What failed in and below each hop of these trees.

    Hops have one number where they failed alike, by name, type and message, with failures of the
    same numbers below: so that a hop costs no more for being deep, or high above many failures.

    Returns:
        The numbers, and the steps that fill them in: two for each hop, of 1 us to 5 us.
    """
    found: dict[Hop, int] = {}
    return found, _number(tops, found)


def _number(tops: Iterable[Hop], found: dict[Hop, int]) -> Iterator[None]:
    hops: list[Hop] = []
    for top in tops:
        for hop in top.walk():
            hops.append(hop)
            yield
    numbers: dict[object, int] = {}
    for hop in reversed(hops):
        below = frozenset(found[child] for child in hop.children) - {0}
        if hop.error is None and len(below) <= 1:
            found[hop] = next(iter(below), 0)
        else:
            own = None if hop.error is None else (hop.name, hop.error)
            found[hop] = numbers.setdefault((own, below), len(numbers) + 1)
        yield


def collapse(hops: Sequence[Hop], failed: Failures) -> Iterator[Siblings]:
    """The lines for hops side by side: of many that are alike, the slowest and then all others.

    Args:
        hops: By start.
        failed: Of these and those below them.
    """
    if len(hops) <= MANY:
        yield from map(Siblings, hops)
        return
    kinds: dict[tuple[object, ...], list[Hop]] = {}
    for hop in hops:
        served = hop.served.service if hop.served is not None else ""
        kind = (hop.name, hop.first.kind, hop.first.code, served, hop.first.orphan, failed[hop])
        kinds.setdefault(kind, []).append(hop)
    hidden: set[Hop] = set()
    after: dict[Hop, Siblings] = {}
    for alike in kinds.values():
        if len(alike) > MANY:
            slowest = sorted(alike, key=lambda hop: hop.start - hop.end)[:SLOWEST]
            others = [hop for hop in alike if hop not in slowest]
            hidden.update(others)
            after[max(slowest, key=alike.index)] = Siblings(others[0], others)
    for hop in hops:
        if hop not in hidden:
            yield Siblings(hop)
        if hop in after:
            yield after[hop]
