"""The calls of a trace as lines: a tree of labels, figures in columns, and bars along the time."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

from mesh_telemetry.logs import clean, clean_line
from mesh_telemetry.texts import Look, Part, cells, figure, fit, milliseconds, shorten
from mesh_telemetry.waterfall import EXCEPTION, EXCEPTION_MESSAGE, EXCEPTION_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mesh_telemetry.hops import Hop
    from mesh_telemetry.texts import Line, Signs
    from mesh_telemetry.waterfall import RowEvent

SHORTEST_BAR, LONGEST_BAR = 12, 100
SHORTEST_LABEL = 24
UNIT = "milliseconds"
"""Of the figures in the tree."""
MOST_EVENTS = 3
"""Events of a span that are shown unless all are asked for."""
LONGEST_VALUE = 40
"""Characters of an attribute's value."""


class Branch(NamedTuple):
    """One hop in the drawing."""

    before: str
    below: str
    """What stands before further lines about it."""
    hop: Hop


class Tree:
    """A drawing of hops, each on a line, with more about it below.

    Args:
        hops: Those at the top.
        signs: What to draw with.
        width: Columns.
        clips: Whether to shorten texts that do not fit.
        whole: Whether every span has a line of its own.
    """

    def __init__(
        self, hops: Sequence[Hop], signs: Signs, width: int, *, clips: bool, whole: bool
    ) -> None:
        self._top = hops
        self._signs = signs
        self._width = width
        self._clips = clips
        self._whole = whole

    def lines(self) -> Iterator[Line]:
        """The lines, a heading first, what the bars mean last."""
        branches = self._branches()
        labels = [self._label(branch) for branch in branches]
        columns = _columns(branches)
        figures = sum(size + 2 for _, _, size in columns)
        wanted = max(len(UNIT), *(sum(cells(part.text) for part in label) for label in labels))
        room = max(SHORTEST_LABEL, self._width - figures - 2 - SHORTEST_BAR)
        width = min(wanted, room)
        size = min(LONGEST_BAR, max(SHORTEST_BAR, self._width - width - figures - 2))
        yield [
            Part(UNIT.ljust(width), Look.FAINT),
            *(Part(f"  {name:>{size}}", Look.FAINT) for name, _, size in columns),
        ]
        start = min(branch.hop.start for branch in branches)
        total = max(branch.hop.end for branch in branches) - start or 1e-9
        used: set[str] = set()
        for branch, label in zip(branches, labels, strict=True):
            line = fit(label, width)
            for name, told, column in columns:
                look = Look.PLAIN if name == "total" else Look.FAINT
                line.append(Part(f"  {told(branch.hop):>{column}}", look))
            drawn = self._bar(branch.hop, start, total, size)
            used.update(drawn)
            line += [Part("  "), Part(drawn, Look.BAD if branch.hop.error else Look.GOOD)]
            yield line
            yield from self._details(branch)
        yield from self._legend(used)

    def _branches(self) -> list[Branch]:
        signs, found = self._signs, []
        stack = [Branch("", "", hop) for hop in reversed(self._top)]
        while stack:
            branch = stack.pop()
            found.append(branch)
            for number, child in enumerate(reversed(branch.hop.children)):
                last = number == 0
                stack.append(
                    Branch(
                        branch.below + (signs.last if last else signs.between),
                        branch.below + ("   " if last else signs.onwards),
                        child,
                    )
                )
        return found

    def _label(self, branch: Branch) -> Line:
        hop, first = branch.hop, branch.hop.first
        look = Look.BAD if hop.error else Look.STRONG if hop.is_call else Look.PLAIN
        label = [
            Part(branch.before, Look.FAINT),
            Part(self._where(hop), Look.FAINT),
            Part(clean_line(hop.name), look),
        ]
        server = hop.served.service if hop.served is not None and not self._whole else ""
        if server and not hop.name.startswith(f"{server}."):
            label.append(Part(f" by {clean_line(server)}", Look.FAINT))
        marks = ("?" if first.orphan else "") + (
            "~" if any(row.shifted_ms for row in hop.rows) else ""
        )
        if marks:
            label.append(Part(f" {marks}", Look.ODD))
        return label

    def _where(self, hop: Hop) -> str:
        """What comes first where each span has a line: the name is the same four times."""
        return f"{clean_line(hop.first.service)} {hop.first.kind} " if self._whole else ""

    def _bar(self, hop: Hop, start: float, total: float, size: int) -> str:
        """When it ran; in each cell, what it did for most of it."""
        first = min(size - 1, int((hop.start - start) / total * size))
        if hop.end - hop.start < total / size / 8:
            return " " * first + self._signs.moment
        length = max(1, min(size - first, round((hop.end - hop.start) / total * size)))
        sign = self._signs_along(hop)
        took = hop.end - hop.start
        # The middle of each cell, on the hop's own clock.
        drawn = [sign(hop.start + (cell + 0.5) / length * took) for cell in range(length)]
        return " " * first + "".join(drawn)

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

    def _legend(self, used: set[str]) -> Iterator[Line]:
        signs = self._signs
        told = [
            f"{sign} {meaning}"
            for sign, meaning in (
                (signs.own, "own work"),
                (signs.waiting, "waits for calls below"),
                (signs.unseen, "no word of the callee"),
                (signs.absent, "waits for an instance"),
                (signs.way, "on the way: gateway, queues, network"),
            )
            if sign in used
        ]
        if told:
            yield [Part("  ".join(told), Look.FAINT)]

    def _details(self, branch: Branch) -> Iterator[Line]:
        """What else is to be said of one hop."""
        hop, signs = branch.hop, self._signs
        indent = branch.below + (signs.onwards if hop.children else "   ")
        if hop.error is not None:
            kind, message = hop.error
            first = clean(message).split("\n")[0]
            origin = hop.origin
            if origin is not None:
                below, _ = origin.error or ("", "")
                kind = "" if below == kind else kind
                first = f"failed below at {self._where(origin)}{clean_line(origin.name)}"
            # What only passes a failure on says so at the top, and nothing in between.
            if origin is None or not branch.before:
                said = ": ".join(part for part in (clean_line(kind), first) if part)
                yield self._detail(indent, f"{signs.bad} {said}", Look.BAD)
        if hop.waited_ms:
            waited = f"waited {milliseconds(hop.waited_ms)} for an instance of {hop.service}"
            yield self._detail(indent, clean_line(waited), Look.ODD)
        told = {key: value for row in hop.rows for key, value in row.attributes.items()}
        if told:
            yield self._detail(indent, _attributes(told), Look.ADDED)
        events = hop.events
        for event in events if self._whole else events[:MOST_EVENTS]:
            name, told = _event(event)
            text = f"{signs.dot} {clean_line(name)} at {figure(event.at_ms)}"
            yield self._detail(indent, f"{text}  {_attributes(told)}".rstrip(), Look.ADDED)
        if len(events) > MOST_EVENTS and not self._whole:
            yield self._detail(indent, f"and {len(events) - MOST_EVENTS} more events", Look.FAINT)

    def _detail(self, indent: str, text: str, look: Look) -> Line:
        if self._clips:
            text = shorten(text, max(8, self._width - len(indent)))
        return [Part(indent, Look.FAINT), Part(text, look)]


def _columns(branches: Sequence[Branch]) -> list[tuple[str, Callable[[Hop], str], int]]:
    """Figures: the heading, what to show of a hop, and how wide that is."""
    shown: list[tuple[str, Callable[[Hop], str]]] = [
        ("total", lambda hop: figure(hop.end - hop.start)),
        ("own", lambda hop: figure(hop.own_ms)),
    ]
    if any(branch.hop.way_ms is not None for branch in branches):
        shown.append(("way", lambda hop: figure(hop.way_ms)))
    if any(branch.hop.left_ms is not None for branch in branches):
        shown.append(("left", lambda hop: figure(hop.left_ms)))
    return [
        (name, told, max(len(name), *(len(told(branch.hop)) for branch in branches)))
        for name, told in shown
    ]


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


def _event(event: RowEvent) -> tuple[str, dict[str, Any]]:
    """What to call an event, and what else it tells; of an exception its type and message."""
    told = dict(event.attributes)
    kind = told.get(EXCEPTION_TYPE)
    if event.name != EXCEPTION or not kind:
        return event.name, told
    message = str(told.get(EXCEPTION_MESSAGE, ""))
    name = f"{kind}: {message}" if message else str(kind)
    return name, {key: value for key, value in told.items() if not key.startswith("exception.")}


def _attributes(attributes: dict[str, Any]) -> str:
    told = (
        f"{key}={shorten(value if isinstance(value, str) else str(value), LONGEST_VALUE)}"
        for key, value in attributes.items()
    )
    return clean("  ".join(told)).replace("\n", " ")
