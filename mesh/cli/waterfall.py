"""Draws a kept trace: every call on a line, with when it ran, and where the time went.

Nothing wraps: on a terminal what does not fit is shortened, in a pipe texts are whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from rich.text import Text

from mesh.cli.output import duration, outcome, shorten
from mesh_telemetry import Hop, Share, TraceSummary, WaterfallRow, fold, spent
from mesh_telemetry.logs import clean, clean_line
from mesh_telemetry.names import OTHER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from mesh_telemetry.waterfall import RowEvent

PIPE_WIDTH = 120
"""Columns for the drawing where there is no terminal."""
SHORTEST_BAR, LONGEST_BAR = 12, 100
SHORTEST_LABEL = 24
UNIT = "milliseconds"
"""Of the figures in the tree."""
ENDLESS_MS = 1e9
"""Milliseconds from which on a deadline is none."""
MOST_EVENTS = 3
"""Events of a span that are shown unless all are asked for."""
MOST_SHARES = 6
"""Methods that are named among those that used the time."""
LONGEST_VALUE = 40
"""Characters of an attribute's value."""


class Signs(NamedTuple):
    """What trees and bars are drawn with."""

    between: str
    last: str
    onwards: str
    own: str
    waiting: str
    way: str
    unseen: str
    absent: str
    moment: str
    good: str
    bad: str
    dot: str


_UNICODE = Signs("├─ ", "└─ ", "│  ", "█", "░", "─", "▒", "┄", "▏", "✓", "✗", "•")
_ASCII = Signs("|- ", "`- ", "|  ", "#", ".", "-", "?", "=", "|", "+", "!", "*")


def signs_of(console: Console) -> Signs:
    """Signs that this output can show."""
    return _UNICODE if "utf" in console.encoding.lower() else _ASCII


class Line(NamedTuple):
    """One hop in the drawing."""

    branch: str
    below: str
    """What stands before further lines about it."""
    hop: Hop


class Drawing:
    """One kept trace on its way to a console.

    Args:
        console: Where to.
        told: What the method `mesh.trace` tells with the format ``waterfall``.
        whole: Whether every span has a line of its own.
    """

    def __init__(self, console: Console, told: dict[str, Any], *, whole: bool = False) -> None:
        self._console = console
        self._summary = msgspec.convert(told["summary"], TraceSummary)
        rows = msgspec.convert(told["rows"], list[WaterfallRow])
        self._rows, self._whole = rows, whole
        self._hops = fold(rows)
        self._drawn = fold(rows, whole=whole)
        self._lacks_entry = False
        if rows:
            self._entry = self._find_entry()
        self._signs = signs_of(console)
        self._width = console.width if console.is_terminal else PIPE_WIDTH

    def _find_entry(self) -> Hop:
        """The entry call; where its spans are missing, what the summary knows of it."""
        about = self._summary
        name = f"{about.service}.{about.method}" if about.method else ""
        longest = max(self._hops, key=lambda hop: hop.end - hop.start)
        known = {row.name for row in self._rows if row.code}
        if not name or name in known or any(row.name == OTHER for row in longest.rows):
            return longest
        self._lacks_entry = True
        start = min(hop.start for hop in self._hops)
        took = about.duration_ms
        if took is None:
            took = max(hop.end for hop in self._hops) - start
        row = msgspec.structs.replace(
            longest.first, name=name, code=about.code or "unknown", kind="server", start_ms=start,
            duration_ms=took, deadline_ms=None, waited_ms=0.0, error=False,
        )  # fmt: skip
        return Hop([row], children=self._top(), whole=True)

    def _top(self) -> list[Hop]:
        """The hops below no other one by their spans: what lost its parent hangs anywhere."""
        top: list[Hop] = []
        for root in self._hops:
            lost = [hop for hop in root.children if hop.first.orphan]
            rest = [hop for hop in root.children if not hop.first.orphan]
            top += [Hop(root.rows, root.served, rest, whole=root.whole), *lost]
        return top

    def show(self) -> None:
        """Print the drawing."""
        for line in self._heading():
            self._print(line)
        if not self._rows:
            self._print(Text("none of its spans has come yet", style="yellow"))
            return
        self._print(Text())
        for line in self._tree():
            self._print(line)
        for line in self._notes():
            self._print(line)
        self._print(Text())
        for line in self._budget():
            self._print(line)

    def _print(self, line: Text) -> None:
        line.rstrip()
        if self._console.is_terminal:
            line.truncate(self._width, overflow="ellipsis")
        self._console.print(line, soft_wrap=True)

    def _heading(self) -> Iterator[Text]:
        about = self._summary
        ended = about.duration_ms is not None
        took = self._entry.end - self._entry.start if self._hops else about.duration_ms or 0.0
        yield Text.assemble(
            (
                clean_line(f"{about.service}.{about.method}") if about.method else "unknown call",
                "bold",
            ),
            (f" by {clean_line(about.caller)}" if about.caller else ""),
            "  ",
            outcome(about.code) if ended else Text("still runs", style="yellow"),
            f" after {_duration(took)}" if ended else "",
            (f"  kept: {about.reason}", "dim"),
        )
        yield Text.assemble(
            ("trace ", "dim"),
            about.trace_id,
            ("  activity ", "dim"),
            clean_line(about.activity_id) if about.activity_id != about.trace_id else "the same",
        )
        yield Text.assemble(
            (f"began {about.started[:10]} {about.started[11:23]} UTC", "dim"),
            (f"  {about.spans} spans of {len(about.services)} services", "dim"),
        )

    # The tree and its bars.

    def _lines(self) -> list[Line]:
        signs, lines = self._signs, []
        stack = [("", "", hop) for hop in reversed(self._drawn)]
        while stack:
            branch, below, hop = stack.pop()
            lines.append(Line(branch, below, hop))
            for number, child in enumerate(reversed(hop.children)):
                last = number == 0
                stack.append((
                    below + (signs.last if last else signs.between),
                    below + ("   " if last else signs.onwards),
                    child,
                ))  # fmt: skip
        return lines

    def _tree(self) -> Iterator[Text]:
        lines = self._lines()
        labels = [self._label(line) for line in lines]
        columns = self._columns(lines)
        figures = sum(width + 2 for _, _, width in columns)
        wanted = max(len(UNIT), *map(len, labels))
        room = max(SHORTEST_LABEL, self._width - figures - 2 - SHORTEST_BAR)
        width = min(wanted, room)
        bar = min(LONGEST_BAR, max(SHORTEST_BAR, self._width - width - figures - 2))
        heading = Text(UNIT.ljust(width), style="dim")
        for name, _, size in columns:
            heading.append(f"  {name:>{size}}", style="dim")
        yield heading
        start = min(line.hop.start for line in lines)
        total = max(line.hop.end for line in lines) - start or 1e-9
        used: set[str] = set()
        for line, label in zip(lines, labels, strict=True):
            text = _fit(label, width)
            for name, figure, size in columns:
                text.append(f"  {figure(line.hop):>{size}}", style="" if name == "total" else "dim")
            drawn = self._bar(line.hop, start, total, bar)
            used.update(drawn)
            text.append("  ")
            text.append(drawn, style="red" if line.hop.error else "green")
            yield text
            yield from self._details(line)
        yield from self._legend(used)

    def _label(self, line: Line) -> Text:
        hop, first = line.hop, line.hop.first
        style = "red" if hop.error else "bold" if hop.is_call else ""
        # The service comes first where each span has a line: the name is the same four times.
        where = f"{clean_line(first.service)} {first.kind} " if self._whole else ""
        label = Text.assemble((line.branch, "dim"), (where, "dim"), (clean_line(hop.name), style))
        server = hop.served.service if hop.served is not None and not self._whole else ""
        if server and not hop.name.startswith(f"{server}."):
            label.append(f" by {clean_line(server)}", style="dim")
        marks = ("?" if first.orphan else "") + (
            "~" if any(row.shifted_ms for row in hop.rows) else ""
        )
        if marks:
            label.append(f" {marks}", style="yellow")
        return label

    def _columns(self, lines: Sequence[Line]) -> list[tuple[str, Callable[[Hop], str], int]]:
        """Figures: the heading, what to show of a hop, and how wide that is."""
        shown: list[tuple[str, Callable[[Hop], str]]] = [
            ("total", lambda hop: _figure(hop.end - hop.start)),
            ("own", lambda hop: _figure(hop.own_ms)),
        ]
        if any(line.hop.way_ms is not None for line in lines):
            shown.append(("way", lambda hop: _figure(hop.way_ms)))
        if any(_left(line.hop) is not None for line in lines):
            shown.append(("left", lambda hop: _figure(_left(hop))))
        return [
            (name, figure, max(len(name), *(len(figure(line.hop)) for line in lines)))
            for name, figure in shown
        ]

    def _bar(self, hop: Hop, start: float, total: float, size: int) -> str:
        """When it ran; in each cell, what it did for most of it."""
        signs = self._signs
        first = min(size - 1, int((hop.start - start) / total * size))
        if hop.end - hop.start < total / size / 8:
            return " " * first + signs.moment
        length = max(1, min(size - first, round((hop.end - hop.start) / total * size)))
        begin, end = hop.work
        absent = hop.waited or (0.0, -1.0)
        cells = []
        for cell in range(length):
            # The middle of the cell, on the hop's own clock.
            at = hop.start + (cell + 0.5) / length * (hop.end - hop.start)
            if absent[0] <= at <= absent[1]:
                cells.append(signs.absent)
            elif not begin <= at <= end:
                cells.append(signs.way)
            elif any(child.start <= at <= child.end for child in hop.children):
                cells.append(signs.waiting)
            else:
                cells.append(signs.unseen if hop.is_unseen else signs.own)
        return " " * first + "".join(cells)

    def _legend(self, used: set[str]) -> Iterator[Text]:
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
            yield Text("  ".join(told), style="dim")

    def _details(self, line: Line) -> Iterator[Text]:
        """What else is to be said of one hop."""
        hop, signs = line.hop, self._signs
        indent = line.below + (signs.onwards if hop.children else "   ")
        error = hop.error
        repeats = hop not in self._drawn and any(
            _repeats(error, child.error) for child in hop.children if error is not None
        )
        if error is not None and not repeats:
            kind, message = error
            first = clean(message).split("\n")[0]
            said = ": ".join(part for part in (clean_line(kind), first) if part)
            yield self._detail(indent, f"{signs.bad} {said}", "red")
        if hop.waited_ms:
            waited = f"waited {_duration(hop.waited_ms)} for an instance of {hop.service}"
            yield self._detail(indent, clean_line(waited), "yellow")
        told = {key: value for row in hop.rows for key, value in row.attributes.items()}
        if told:
            yield self._detail(indent, _attributes(told), "cyan")
        events = hop.events
        for event in events if self._whole else events[:MOST_EVENTS]:
            name, told = _event(event)
            text = f"{signs.dot} {clean_line(name)} at {_figure(event.at_ms)}"
            yield self._detail(indent, f"{text}  {_attributes(told)}".rstrip(), "cyan")
        if len(events) > MOST_EVENTS and not self._whole:
            yield self._detail(indent, f"and {len(events) - MOST_EVENTS} more events", "dim")

    def _detail(self, indent: str, text: str, style: str) -> Text:
        if self._console.is_terminal:
            text = shorten(text, max(8, self._width - len(indent)))
        return Text.assemble((indent, "dim"), (text, style))

    # What is to be known about the drawing, and the sum.

    def _notes(self) -> Iterator[Text]:
        first = self._hops[0].first
        if self._lacks_entry:
            yield Text(
                f"! missing: the root: no span of {clean_line(self._entry.name)}; times are the "
                "gateway's",
                style="yellow",
            )
        elif first.parent_id and first.of_gateway:
            by = clean_line(self._summary.caller) or "its caller"
            yield Text(f"! missing: the root: the span of {by}, which called", style="yellow")
        orphans = sum(row.orphan for row in self._rows)
        if orphans:
            yield Text(
                f"? {_spans(orphans)} without the span above, which is not there: put at the root",
                style="yellow",
            )
        shifts = [abs(row.shifted_ms) for row in self._rows if row.shifted_ms]
        if shifts:
            by = _duration(max(shifts))
            yield Text(
                f"~ {_spans(len(shifts))} moved by up to {by}, as hosts' clocks disagree",
                style="yellow",
            )
        for said in self._summary.missing:
            yield Text(f"! missing: {clean_line(said)}", style="yellow")
        if self._summary.dropped:
            yield Text(
                f"! missing: {_spans(self._summary.dropped)} that a process, or the store, had no "
                "room for",
                style="yellow",
            )

    def _budget(self) -> Iterator[Text]:
        """Where the time went, and what the deadline allowed."""
        entry = self._entry
        total = entry.end - entry.start
        allowed = _left(entry)
        title = Text.assemble(("Where ", "bold"), (_duration(total), "bold"))
        if allowed is not None:
            used = f" of the {_duration(allowed)} allowed"
            title.append(used, style="bold red" if total >= allowed else "bold")
        title.append(
            " went" if len(self._hops) == 1 else f" of {clean_line(entry.name)} went", "bold"
        )
        yield title
        shares = spent(entry)
        shown = shares[:MOST_SHARES]
        rest = sum(share.ms for share in shares[MOST_SHARES:])
        rows = [(self._title(share), share.ms, _note(share)) for share in shown]
        if rest:
            rows.append((f"{len(shares) - MOST_SHARES} others", rest, ""))
        names = max(len(name) for name, _, _ in rows)
        names = min(names, max(SHORTEST_LABEL + 4, self._width - 60))
        notes = max(len(note) for _, _, note in rows)
        bar = min(40, max(SHORTEST_BAR, self._width - names - notes - 24))
        for name, ms, note in rows:
            part = ms / total if total else 0.0
            drawn = self._signs.own * round(part * bar) or self._signs.moment
            yield Text.assemble(
                f"  {shorten(name, names):<{names}}  {_duration(ms):>8}  {part:>4.0%}  ",
                (f"{drawn:<{bar}}", "green" if ms < shares[0].ms else "yellow"),
                (f"  {note}", "dim"),
            )

    def _title(self, share: Share) -> str:
        name = clean_line(share.name)
        if share.is_wait:
            return f"waiting for {name or 'an instance'}"
        if self._lacks_entry and share.name == self._entry.name:
            return f"{name} (spans missing)"
        return name or "on the way"


def draw(console: Console, told: dict[str, Any], *, whole: bool = False) -> None:
    """Print a kept trace.

    Args:
        console: Where to.
        told: What the method `mesh.trace` tells with the format ``waterfall``.
        whole: Whether every span has a line of its own, and not every call.
    """
    Drawing(console, told, whole=whole).show()


def _repeats(error: tuple[str, str], below: tuple[str, str] | None) -> bool:
    """Whether a failure says no more than the one below that it comes from."""
    return below is not None and (below[1] in error[1] if below[1] else below[0] == error[0])


def _event(event: RowEvent) -> tuple[str, dict[str, Any]]:
    """What to call an event, and what else it tells; of an exception its type and message."""
    told = dict(event.attributes)
    kind = told.get("exception.type")
    if event.name != "exception" or not kind:
        return event.name, told
    message = str(told.get("exception.message", ""))
    name = f"{kind}: {message}" if message else str(kind)
    return name, {key: value for key, value in told.items() if not key.startswith("exception.")}


def _left(hop: Hop) -> float | None:
    left = hop.left_ms
    return left if left is not None and left < ENDLESS_MS else None


def _figure(ms: float | None) -> str:
    if ms is None:
        return ""
    # As they are rounded: 999.96 is 1,000 and no 1000.0.
    if round(ms, 1) >= 1000:
        return f"{ms:,.0f}"
    return f"{ms:.1f}" if round(ms, 2) >= 10 else f"{ms:.2f}"


def _duration(ms: float) -> str:
    return duration(ms / 1e3)


def _spans(count: int) -> str:
    return "1 span" if count == 1 else f"{count:,} spans"


def _note(share: Share) -> str:
    if share.name:
        return f"{share.times} calls" if share.times > 1 else ""
    if share.most_ms > share.ms / 2:
        return f"most to {clean_line(share.most)}"
    return f"{share.times} hops" if share.times > 1 else ""


def _fit(label: Text, width: int) -> Text:
    """The label at exactly this width."""
    label = label.copy()
    label.truncate(width, overflow="ellipsis", pad=True)
    return label


def _attributes(attributes: dict[str, Any]) -> str:
    told = (
        f"{key}={shorten(value if isinstance(value, str) else str(value), LONGEST_VALUE)}"
        for key, value in attributes.items()
    )
    return clean("  ".join(told)).replace("\n", " ")
