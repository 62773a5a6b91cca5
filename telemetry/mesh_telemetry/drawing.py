"""Draws a kept trace as text: every call on a line, with when it ran, and where the time went.

Nothing but ids and the legend of the bars wraps: where it is to be clipped, what does not fit is
shortened; else texts are whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh_telemetry.budget import Budget
from mesh_telemetry.hops import Hop, fold
from mesh_telemetry.layout import Tree
from mesh_telemetry.logs import clean_line
from mesh_telemetry.texts import UNICODE, Look, Part, cells, count_spans, cut, further, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mesh_telemetry.texts import Line, Signs
    from mesh_telemetry.waterfall import TraceSummary, WaterfallRow

IN_CALLER = "in the caller"
"""Where the time went in which none of several entry calls was waited for."""
WIDTH = 120
"""Columns of a drawing where nobody says how many there are."""


class Drawing:
    """One kept trace as lines for people.

    Args:
        summary: What is known of the trace.
        rows: Of :func:`~mesh_telemetry.waterfall.waterfall`, depth first.
        width: Columns.
        signs: What to draw with.
        clips: Whether no line but ids may be wider; else only labels, bars and their legend keep to
            the width.
        whole: Whether every span has a line of its own, and not every call.
    """

    def __init__(
        self,
        summary: TraceSummary,
        rows: Sequence[WaterfallRow],
        *,
        width: int = WIDTH,
        signs: Signs = UNICODE,
        clips: bool = False,
        whole: bool = False,
    ) -> None:
        self._summary = summary
        self._rows, self._whole = rows, whole
        self._signs, self._width, self._clips = signs, width, clips
        self._hops = fold(rows)
        self._lacks_entry = False
        self._has_several = summary.entry_calls > 1 and len(self._hops) > 1
        if rows:
            self._entry = self._find_entry()

    def _find_entry(self) -> Hop:
        """The entry call; where its spans are missing, what the summary knows of it.

        Of several, something that has all of them inside.
        """
        about = self._summary
        name = f"{about.service}.{about.method}" if about.method else ""
        longest = max(self._hops, key=lambda hop: hop.end - hop.start)
        if not name or any(row.method == name for row in self._rows):
            return self._all() if self._has_several else longest
        self._lacks_entry = True
        start = min(hop.start for hop in self._hops)
        took = about.duration_ms
        if took is None:
            took = max(hop.end for hop in self._hops) - start
        row = msgspec.structs.replace(
            longest.first, name=name, method=name, code=about.code or "unknown", kind="server",
            start_ms=start, duration_ms=took, deadline_ms=None, waited_ms=0.0, error=False,
        )  # fmt: skip
        return Hop([row], children=self._top(), whole=True)

    def _all(self) -> Hop:
        """What is at the top as if it were inside one span."""
        start = min(hop.start for hop in self._hops)
        row = msgspec.structs.replace(
            self._hops[0].first, name=IN_CALLER, method="", code="", kind="internal", error=False,
            start_ms=start, duration_ms=max(hop.end for hop in self._hops) - start,
            deadline_ms=None, waited_ms=0.0,
        )  # fmt: skip
        return Hop([row], children=self._hops, whole=True)

    def _top(self) -> list[Hop]:
        """The hops below no other one by their spans: what lost its parent hangs anywhere."""
        top: list[Hop] = []
        for root in self._hops:
            lost = [hop for hop in root.children if hop.first.orphan]
            rest = [hop for hop in root.children if not hop.first.orphan]
            top += [Hop(root.rows, root.served, rest, whole=root.whole), *lost]
        return top

    def lines(self) -> Iterator[Line]:
        """The drawing, line by line."""
        return (line for line in self.steps() if line is not None)

    def steps(self) -> Iterator[Line | None]:
        """The same for a loop that must not be held up: None where a line takes several steps.

        Most of them take less than 0.1 ms, those without a line up to 2 ms, and the longest 2 us to
        3 us for each span of the trace, however deep that is.
        """
        yield self._fit(heading(self._summary, self._took))
        yield from ids(self._summary, self._width if self._clips else None)
        for line in self._body():
            yield self._fit(line) if line is not None else None

    def _fit(self, line: Line) -> Line:
        return cut(line, self._width) if self._clips else line

    def _body(self) -> Iterator[Line | None]:
        about = self._summary
        began = f"began {about.started[:10]} {about.started[11:23]} UTC"
        told = f"{began}  {about.spans} spans of {len(about.services)} services"
        # What lists and metrics say.
        there = milliseconds(about.duration_ms or 0.0)
        if about.duration_ms is not None and there != milliseconds(self._took):
            told += f"  at gateway {there}"
        yield [Part(told, Look.FAINT)]
        if not self._rows:
            yield [Part("none of its spans has come yet", Look.ODD)]
            return
        yield []
        hops = fold(self._rows, whole=True) if self._whole else self._hops
        tree = Tree(
            hops, self._signs, self._width, clips=self._clips, whole=self._whole,
            trace_id=about.trace_id,
        )  # fmt: skip
        yield from tree.steps()
        yield from self._notes()
        yield []
        budget = Budget(self._entry, self._signs, self._width, lacks_entry=self._lacks_entry)
        names_entry = len(self._hops) > 1 and not self._has_several
        yield from budget.lines(names_entry=names_entry)

    @property
    def _took(self) -> float:
        """Milliseconds of the entry call, its way to the gateway and back included."""
        if self._hops:
            return self._entry.end - self._entry.start
        return self._summary.duration_ms or 0.0

    def _notes(self) -> Iterator[Line]:
        """What is to be known about the drawing."""
        first = self._hops[0].first
        if self._lacks_entry:
            entry = clean_line(self._entry.name)
            yield _note(f"! missing: the root: no span of {entry}; times are the gateway's")
        elif first.parent_id and first.of_gateway:
            by = clean_line(self._summary.caller) or "its caller"
            yield _note(f"! missing: the root: the span of {by}, which called")
        orphans = sum(row.orphan for row in self._rows)
        if orphans:
            lost = "without the span above, which is not there: put at the root"
            yield _note(f"? {count_spans(orphans)} {lost}")
        shifts = [abs(row.shifted_ms) for row in self._rows if row.shifted_ms]
        if shifts:
            by = milliseconds(max(shifts))
            yield _note(
                f"~ {count_spans(len(shifts))} moved by up to {by}, as hosts' clocks disagree"
            )
        yield from missing(self._summary)


def heading(about: TraceSummary, took_ms: float, where: str = "") -> Line:
    """What a trace is, and how it ended.

    Args:
        about: The trace.
        took_ms: Milliseconds of its entry call.
        where: Whose these are, where that is not the caller.
    """
    ended = about.duration_ms is not None
    name = clean_line(f"{about.service}.{about.method}") if about.method else "unknown call"
    ok = Look.GOOD if about.code == "ok" else Look.BAD
    return [
        Part(name + further(about.entry_calls), Look.STRONG),
        Part(f" by {clean_line(about.caller)}" if about.caller else ""),
        Part("  "),
        Part(clean_line(about.code), ok) if ended else Part("still runs", Look.ODD),
        Part(f" after {milliseconds(took_ms)}{where}" if ended else ""),
        Part(f"  kept: {about.reason}", Look.FAINT),
    ]


def ids(about: TraceSummary, width: int | None) -> Iterator[Line]:
    """What people copy is never cut: where it is too wide, it takes a line more, or wraps."""
    trace = [Part("trace ", Look.FAINT), Part(about.trace_id)]
    same = about.activity_id == about.trace_id
    activity = "the same" if same else clean_line(about.activity_id)
    told = [Part("activity ", Look.FAINT), Part(activity)]
    line = [*trace, Part("  "), *told]
    if width is not None and sum(cells(part.text) for part in line) > width:
        yield trace
        yield told
    else:
        yield line


def missing(about: TraceSummary) -> Iterator[Line]:
    """What is not there of a trace."""
    for said in about.missing:
        yield _note(f"! missing: {clean_line(said)}")
    if about.dropped:
        lost = "that a process has lost, or the store had no room for"
        yield _note(f"! missing: {count_spans(about.dropped)} {lost}")


def _note(text: str) -> Line:
    return [Part(text, Look.ODD)]
