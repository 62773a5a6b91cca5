"""Where the time of an entry call went, and what its deadline allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mesh_telemetry.logs import clean_line
from mesh_telemetry.texts import Look, Part, milliseconds, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh_telemetry.hops import Hop
    from mesh_telemetry.texts import Line, Signs

MOST_SHARES = 6
"""Methods that are named among those that used the time."""
SHORTEST_NAME = 28
SHORTEST_BAR, LONGEST_BAR = 12, 40
STEP = 100
"""Hops that are looked at in one go: about 0.5 ms."""
_EPSILON = 1e-9


@dataclass
class Share:
    """What one method, a wait or the way took of an entry call's time."""

    name: str
    """A method; a service that was waited for; empty for the way between processes."""
    is_wait: bool = False
    """Whether this is the time in which no instance of the service was there."""
    ms: float = 0.0
    times: int = 0
    """Hops that it took it in."""
    most_ms: float = 0.0
    most: str = ""
    """The hop that had the most of it, and how much that was."""


_Shares: TypeAlias = "dict[tuple[str, bool], Share]"
"""By name, and whether it is a wait."""


def spent(entry: Hop) -> list[Share]:
    """Where the time of an entry call went; the largest share first, the sum is its duration.

    Every moment belongs to the one hop that all above it waited for. Of calls that ran at the same
    time that is the one that ended last, as in the critical path of CRISP
    (https://www.usenix.org/conference/atc22/presentation/zhang-zhizhou).
    """
    shares: _Shares = {}
    for _ in _spend(entry, shares):
        pass
    return _largest_first(shares)


def _spend(entry: Hop, shares: _Shares) -> Iterator[None]:
    """Fill in the shares, a hop with each step: about 5 us."""

    def add(name: str, ms: float, hop: Hop, *, is_wait: bool = False) -> None:
        if ms > _EPSILON:
            share = shares.setdefault((name, is_wait), Share(name, is_wait))
            share.ms += ms
            share.times += 1
            if ms > share.most_ms:
                share.most, share.most_ms = hop.name, ms

    stack = [(entry, entry.end)]
    while stack:
        hop, until = stack.pop()
        begin, end = hop.work
        begin, end = min(begin, until), min(end, until)
        waited = min(hop.waited_ms, begin - hop.start)
        add(hop.service, waited, hop, is_wait=True)
        add("", begin - hop.start + until - end - waited, hop)
        own, at = 0.0, end
        for child, child_end in _waited_for(hop.children, begin, end):
            own += at - child_end
            stack.append((child, child_end))
            at = child.start
        add(hop.name, own + max(0.0, at - begin), hop)
        yield


def _largest_first(shares: _Shares) -> list[Share]:
    return sorted(shares.values(), key=lambda share: -share.ms)


def _waited_for(children: Iterable[Hop], begin: float, end: float) -> Iterator[tuple[Hop, float]]:
    """The last children first, each with when it ceased to be waited for."""
    at = end
    for child in sorted(children, key=lambda child: -child.end):
        if child.start < begin or child.start >= at:
            continue
        over = child.end - at
        # What still ran for long when the next one began, or its parent ended, nobody waited for.
        if over > (child.end - child.start) / 2:
            continue
        yield child, min(child.end, at)
        at = child.start


class Budget:
    """The lines that say where the time of an entry call went.

    Args:
        entry: The call.
        signs: What to draw with.
        width: Columns.
        lacks_entry: Whether no span of the entry call is there.
    """

    def __init__(self, entry: Hop, signs: Signs, width: int, *, lacks_entry: bool) -> None:
        self._entry = entry
        self._signs = signs
        self._width = width
        self._lacks_entry = lacks_entry

    def lines(self, *, names_entry: bool) -> Iterator[Line | None]:
        """The lines, a title first; None between steps before the others.

        Args:
            names_entry: Whether to say whose time it is.
        """
        total = self._entry.end - self._entry.start
        yield self._heading(total, names_entry=names_entry)
        found: _Shares = {}
        for number, _ in enumerate(_spend(self._entry, found), 1):
            if number % STEP == 0:
                yield None
        shares = _largest_first(found)
        if not shares:
            return
        named = len(shares) if len(shares) == MOST_SHARES + 1 else MOST_SHARES
        rows = [(self._title(share), share.ms, _note(share)) for share in shares[:named]]
        if rest := shares[named:]:
            rows.append((f"{len(rest)} others", sum(share.ms for share in rest), ""))
        names = max(len(name) for name, _, _ in rows)
        names = min(names, max(SHORTEST_NAME, self._width - 60))
        notes = max(len(note) for _, _, note in rows)
        bar = min(LONGEST_BAR, max(SHORTEST_BAR, self._width - names - notes - 24))
        for name, ms, note in rows:
            part = ms / total if total else 0.0
            drawn = self._signs.own * round(part * bar) or self._signs.moment
            yield [
                Part(f"  {shorten(name, names):<{names}}  {milliseconds(ms):>8}  {part:>4.0%}  "),
                Part(f"{drawn:<{bar}}", Look.GOOD if ms < shares[0].ms else Look.ODD),
                Part(f"  {note}", Look.FAINT),
            ]

    def _heading(self, total: float, *, names_entry: bool) -> Line:
        allowed = self._entry.left_ms
        title = [Part(f"Where {milliseconds(total)}", Look.STRONG)]
        if allowed is not None:
            look = Look.WORST if total >= allowed else Look.STRONG
            title.append(Part(f" of the {milliseconds(allowed)} allowed", look))
        whose = f" of {clean_line(self._entry.name)}" if names_entry else ""
        return [*title, Part(f"{whose} went", Look.STRONG)]

    def _title(self, share: Share) -> str:
        name = clean_line(share.name)
        if share.is_wait:
            return f"waiting for {name or 'an instance'}"
        if self._lacks_entry and share.name == self._entry.name:
            return f"{name} (spans missing)"
        return name or "on the way"


def _note(share: Share) -> str:
    if share.name:
        return f"{share.times} calls" if share.times > 1 else ""
    if share.most_ms > share.ms / 2:
        return f"most to {clean_line(share.most)}"
    return f"{share.times} hops" if share.times > 1 else ""
