"""The calls of a trace as lines: a tree of labels, figures in columns, and a bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mesh_telemetry.bars import LONGEST_BAR, SHORTEST_BAR, Bars
from mesh_telemetry.call_lines import MESSAGE, SEVERITY
from mesh_telemetry.logs import DIGITS, clean, clean_line
from mesh_telemetry.siblings import Siblings, collapse, failures
from mesh_telemetry.texts import Look, Part, cells, figure, fit, milliseconds, shorten
from mesh_telemetry.waterfall import EXCEPTION, EXCEPTION_MESSAGE, EXCEPTION_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mesh_telemetry.hops import Hop
    from mesh_telemetry.siblings import Failures
    from mesh_telemetry.texts import Line, Signs
    from mesh_telemetry.waterfall import RowEvent

SHORTEST_LABEL = 24
UNIT = "milliseconds"
"""Of the figures in the tree."""
MOST_EVENTS = 3
"""Events of a span that are shown unless all are asked for."""
MOST_LINES = 10
"""Likewise of log lines."""
_LOOKS = {"WARNING": Look.ODD, "ERROR": Look.BAD, "CRITICAL": Look.BAD}
COLUMNS = ("total", "own", "way", "left")
STEP = 100
"""Lines that are prepared in one go: about 1 ms."""
LONGEST_VALUE = 40
"""Characters of an attribute's value."""


class Branch(NamedTuple):
    """One hop in the drawing, or several that are told as one."""

    before: str
    below: str
    """What stands before further lines about it; neither is wider than the drawing."""
    of: Siblings

    @property
    def hop(self) -> Hop:
        """The hop, or the first of several."""
        return self.of.hop

    @property
    def children(self) -> Sequence[Hop]:
        """What is drawn below."""
        return () if self.of.alike else self.hop.children


class Tree:
    """A drawing of hops, each on a line, with more about it below.

    Args:
        hops: Those at the top.
        signs: What to draw with.
        width: Columns.
        clips: Whether to shorten texts that do not fit.
        whole: Whether every span has a line of its own.
        trace_id: What a drawing of all of it is asked for by.
    """

    def __init__(
        self,
        hops: Sequence[Hop],
        signs: Signs,
        width: int,
        *,
        clips: bool,
        whole: bool,
        trace_id: str,
    ) -> None:
        self._top = hops
        self._trace_id = trace_id
        self._signs = signs
        self._width = width
        self._clips = clips
        self._whole = whole

    def steps(self) -> Iterator[Line | None]:
        """The lines, a heading first, what the bars mean last; None between steps before these."""
        failed, steps = failures(() if self._whole else self._top)
        for number, _ in enumerate(steps, 1):
            if number % STEP == 0:
                yield None
        yield None
        branches: list[Branch] = []
        labels: list[Line] = []
        wanted = len(UNIT)
        told: list[tuple[str, ...]] = []
        for branch in self._branches(failed):
            branches.append(branch)
            labels.append(self._label(branch))
            wanted = max(wanted, sum(cells(part.text) for part in labels[-1]))
            told.append(() if branch.of.alike else _figures(branch.hop))
            if len(branches) % STEP == 0:
                yield None
        columns = _columns([figures for figures in told if figures])
        spread = max(len(branch.of.spread) + 2 if branch.of.alike else 0 for branch in branches)
        # What is told of several has the room of all columns; the first makes up for what it lacks.
        columns["total"] += max(0, spread - sum(columns.values()))
        figures = sum(columns.values())
        room = max(SHORTEST_LABEL, self._width - figures - 2 - SHORTEST_BAR)
        width = min(wanted, room)
        bar = min(LONGEST_BAR, max(SHORTEST_BAR, self._width - width - figures - 2))
        heading = "".join(f"{name:>{size}}" for name, size in columns.items())
        yield [Part(UNIT.ljust(width), Look.FAINT), Part(heading, Look.FAINT)]
        start = min(branch.hop.start for branch in branches)
        end = max(hop.end for branch in branches for hop in (branch.hop, *branch.of.alike))
        bars = Bars(start, end, bar, self._signs)
        for branch, label, values in zip(branches, labels, told, strict=True):
            line = fit(label, width)
            if branch.of.alike:
                line.append(Part(f"{branch.of.spread:>{figures}}", Look.FAINT))
            else:
                by_name = dict(zip(COLUMNS, values, strict=True))
                total, *rest = (f"{by_name[name]:>{size}}" for name, size in columns.items())
                line += [Part(total), Part("".join(rest), Look.FAINT)]
            drawn = bars.draw(branch.of.alike or (branch.hop,))
            line += [Part("  "), Part(drawn, Look.BAD if branch.hop.error else Look.GOOD)]
            yield line
            yield from self._details(branch)
        for meanings in bars.legend(self._width):
            yield [Part(meanings, Look.FAINT)]

    def _branches(self, failed: Failures) -> Iterator[Branch]:
        signs = self._signs

        def lines(hops: Sequence[Hop]) -> list[Siblings]:
            return [*map(Siblings, hops)] if self._whole else [*collapse(hops, failed)]

        stack = [Branch("", "", one) for one in reversed(lines(self._top))]
        while stack:
            branch = stack.pop()
            yield branch
            for number, child in enumerate(reversed(lines(branch.children))):
                last = number == 0
                before = branch.below + (signs.last if last else signs.between)
                below = branch.below + ("   " if last else signs.onwards)
                stack.append(Branch(before[: self._width], below[: self._width], child))

    def _label(self, branch: Branch) -> Line:
        hop, first, alike = branch.hop, branch.hop.first, branch.of.alike
        look = Look.BAD if hop.error else Look.STRONG if hop.is_call else Look.PLAIN
        label = [
            Part(branch.before, Look.FAINT),
            Part(self._where(hop), Look.FAINT),
            Part(clean_line(hop.name), look),
        ]
        server = hop.served.service if hop.served is not None and not self._whole else ""
        if server and not hop.name.startswith(f"{server}."):
            label.append(Part(f" by {clean_line(server)}", Look.FAINT))
        if alike:
            label.append(Part(f" {self._signs.times}{len(alike):,}", Look.STRONG))
            if first.code not in {"", "ok"}:
                label.append(Part(f" {clean_line(first.code)}", Look.BAD))
        if all(one.is_detached for one in alike or (hop,)):
            label.append(Part(" detached", Look.FAINT))
        is_moved = any(row.shifted_ms for one in alike or (hop,) for row in one.rows)
        marks = ("?" if first.orphan else "") + ("~" if is_moved else "")
        if marks:
            label.append(Part(f" {marks}", Look.ODD))
        return label

    def _where(self, hop: Hop) -> str:
        """What comes first where each span has a line: the name is the same four times."""
        return f"{clean_line(hop.first.service)} {hop.first.kind} " if self._whole else ""

    def _details(self, branch: Branch) -> Iterator[Line]:
        """What else is to be said of one hop."""
        hop, signs = branch.hop, self._signs
        indent = branch.below + (signs.onwards if branch.children else "   ")
        if branch.of.alike:
            if inside := branch.of.inside:
                yield self._detail(indent, f"and {inside:,} calls and spans inside", Look.FAINT)
            return
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
        yield from self._lines(hop, indent)

    def _lines(self, hop: Hop, indent: str) -> Iterator[Line]:
        """What it logged: the newest lines, as they are nearest to how it ended."""
        if left_out := hop.lines_left_out:
            yield self._detail(
                indent,
                f"+{left_out:,} log {'line' if left_out == 1 else 'lines'} left out",
                Look.ODD,
            )
        lines = sorted(hop.lines, key=lambda line: line.at_ms)
        shown = lines if self._whole else lines[-MOST_LINES:]
        if hidden := len(lines) - len(shown):
            earlier = f"{hidden:,} earlier {'one' if hidden == 1 else 'ones'}"
            asking = f"mesh trace {self._trace_id[:DIGITS]} --all"
            yield self._detail(indent, f"and {earlier}: {asking}", Look.FAINT)
        width = max((len(figure(line.at_ms)) for line in shown), default=0)
        for line in shown:
            level, text = (str(line.attributes.get(key, "")) for key in (SEVERITY, MESSAGE))
            told = f"{figure(line.at_ms):>{width}} {level.lower():7} {text}"
            look = _LOOKS.get(level.upper(), Look.PLAIN)
            yield self._detail(indent, clean_line(told), look)

    def _detail(self, indent: str, text: str, look: Look) -> Line:
        if self._clips:
            text = shorten(text, max(8, self._width - len(indent)))
        return [Part(indent, Look.FAINT), Part(text, look)]


def _figures(hop: Hop) -> tuple[str, ...]:
    """What the columns show of a hop."""
    return (
        figure(hop.end - hop.start),
        figure(hop.own_ms),
        figure(hop.way_ms),
        figure(hop.left_ms),
    )


def _columns(told: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """The columns of which something is known, and how wide they are, with what parts them."""
    longest = {
        name: max(map(len, some))
        for name, some in zip(COLUMNS, zip(*told, strict=True), strict=True)
    }
    return {name: max(len(name), size) + 2 for name, size in longest.items() if size}


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
