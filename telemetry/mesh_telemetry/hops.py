"""A waterfall hop by hop: the spans of one call folded into one.

A hop of the mesh has four spans: CLIENT (caller) > SERVER, CLIENT (gateway) > SERVER (callee). For
people these are one call: the time in the callee, and the time on the way to it and back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from mesh_telemetry.decision_forms import BY_CALLER
from mesh_telemetry.decisions import Told, from_event
from mesh_telemetry.waterfall import EXCEPTION, is_line, repeats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mesh_telemetry.waterfall import RowEvent, WaterfallRow

ENDLESS_MS = 1e9
"""Milliseconds from which on a deadline is none."""
_CALLING, _ARRIVED, _PASSED_ON, _SERVED = range(4)

_Found: TypeAlias = "tuple[tuple[str, str] | None, Hop | None]"
"""A failure, and the hop in which it arose."""


@dataclass(eq=False)
class Hop:
    """One call, or a span that is no call. Times are milliseconds since the trace's first start.

    Attributes:
        rows: Its spans, the outermost first.
        served: When the callee worked on it; None where no span of the callee is there.
        children: What was done inside, by start.
        whole: Whether it is one span that was to stay one of its own.
    """

    rows: list[WaterfallRow]
    served: WaterfallRow | None = None
    children: list[Hop] = field(default_factory=list)
    whole: bool = False
    _found: _Found | None = field(default=None, init=False, repr=False)
    """Its failure and where that arose, once they are settled."""

    @property
    def first(self) -> WaterfallRow:
        """Its outermost span."""
        return self.rows[0]

    @property
    def name(self) -> str:
        """The method with its service; what the span is called where it is no call, or whole."""
        first = self.first
        return first.method if first.method and not self.whole else first.name

    @property
    def service(self) -> str:
        """The service of its method."""
        return self.first.method.rpartition(".")[0]

    @property
    def is_call(self) -> bool:
        """Whether it is a call through the mesh."""
        return self.first.code != ""

    @property
    def is_detached(self) -> bool:
        """Whether it may outlive the call inside which it was made."""
        return any(row.detached for row in self.rows)

    @property
    def start(self) -> float:
        """When it began."""
        return self.first.start_ms

    @property
    def end(self) -> float:
        """When it ended."""
        return self.first.start_ms + self.first.duration_ms

    @property
    def work(self) -> tuple[float, float]:
        """From when to when the callee had it, within the hop."""
        if self.served is None:
            # Either nobody had it, as no instance was reached, or somebody who has not told.
            if self.whole or self.is_unseen or not self.is_call:
                return max([self.start, *(until for _, until in self._waits())]), self.end
            return self.end, self.end
        start = min(max(self.served.start_ms, self.start), self.end)
        return start, max(start, min(self.served.start_ms + self.served.duration_ms, self.end))

    def _waits(self) -> Iterator[tuple[float, float]]:
        for row in self.rows:
            if row.waited_ms > 0:
                begin = min(max(row.start_ms, self.start), self.end)
                yield begin, min(begin + row.waited_ms, self.end)

    @property
    def waited(self) -> tuple[float, float] | None:
        """From when to when it waited for an instance to come, before the callee had it."""
        began = self.work[0]
        return next(((a, min(b, began)) for a, b in self._waits() if a < began), None)

    @property
    def waited_ms(self) -> float:
        """How long that was."""
        begin, end = self.waited or (0.0, 0.0)
        return end - begin

    @property
    def is_unseen(self) -> bool:
        """Whether an instance got it, of which no span is there."""
        return (
            self.served is None
            and not (self.whole and self.children)
            and self.passed_on is not None
        )

    @property
    def passed_on(self) -> WaterfallRow | None:
        """The gateway's span in which an instance got it; None where none did."""
        return next((row for row in self.rows if _role(row) == _PASSED_ON), None)

    @property
    def is_passing(self) -> bool:
        """Whether it is one span of somebody who only waits for the next one: all is the way."""
        role = _role(self.first)
        return self.whole and role in {_CALLING, _PASSED_ON} and not self.is_unseen

    @property
    def way_ms(self) -> float | None:
        """Time on the way there and back: gateway, queues, network. None where that is unknown.

        Waiting for an instance to come is none of it.
        """
        if self.is_passing:
            return self._unused_ms
        if self.whole or not self.is_call or self.is_unseen or self.served is self.first:
            return None
        start, end = self.work
        return max(0.0, self.end - self.start - (end - start) - self.waited_ms)

    @property
    def own_ms(self) -> float:
        """Time in which neither the way nor a wait nor anything below it ran."""
        return 0.0 if self.is_passing else self._unused_ms

    @property
    def _unused_ms(self) -> float:
        """Time of its work in which nothing below it ran."""
        at, end = self.work
        unused = 0.0
        for child in sorted(self.children, key=lambda child: child.start):
            unused += max(0.0, min(child.start, end) - at)
            at = max(at, min(child.end, end))
        return unused + max(0.0, end - at)

    @property
    def left_ms(self) -> float | None:
        """What was left of the deadline at its start; None where there is none."""
        left = self.first.deadline_ms
        return left if left is not None and left < ENDLESS_MS else None

    @property
    def error(self) -> tuple[str, str] | None:
        """Type and message of its failure; None where it went well.

        Who was nearest knows best, but of the end of a call that somebody else ended only this.
        """
        return self._settled()[0]

    @property
    def origin(self) -> Hop | None:
        """The hop below it in which its failure arose; None where that is its own."""
        return self._settled()[1]

    def _settled(self) -> _Found:
        """Its failure, and where that arose: found once, after those of all below it.

        Without recursion, as spans may be nested deeper than calls of Python.
        """
        if self._found is not None:
            return self._found
        below = [self]
        for hop in below:
            below += [child for child in hop.children if child._found is None]
        for hop in reversed(below[1:]):
            hop._settle()
        return self._settle()

    def _settle(self) -> _Found:
        error = self._failed()
        self._found = error, self._arose(error) if error is not None else None
        return self._found

    def _failed(self) -> tuple[str, str] | None:
        """Its failure, where those of its children are settled."""
        failed = [row for row in self.rows if row.error]
        if not failed:
            return self._passed_on()
        if failed[-1].outcome not in {"cancelled", "deadline_exceeded"}:
            failed.reverse()
        kind = next((row.error_type for row in failed if row.error_type), "")
        message = next((row.error_message for row in failed if row.error_message), "")
        return kind or self.first.code or ("" if message else "error"), message

    def _passed_on(self) -> tuple[str, str] | None:
        """How a call ended that no span of it takes for a failure, as SERVER spans do not_found."""
        code = self.first.code
        if code in {"", "ok"} or (self.whole and self.first.depth):
            return None
        errors = [child.error for child in self._last_first() if child.first.code == code]
        return code, next((error[1] for error in errors if error is not None), "")

    def _arose(self, error: tuple[str, str]) -> Hop | None:
        """Where its failure arose, where those of its children are settled."""
        at: Hop | None = self
        while at is not None:
            below = at._last_first()
            for child in below:
                if _repeats(error, child.error):
                    return child.origin or child
            # A SERVER span takes a not_found that it passes on for no failure. No other search
            # comes by such a one: all of them together look at no hop more than twice.
            code = at.first.code
            same = (one for one in below if not one.error and one.first.code == code)
            at = next(same, None)
        return None

    def _last_first(self) -> list[Hop]:
        """Its children, those that ended last first."""
        return sorted(self.children, key=lambda child: -child.end)

    @property
    def lines(self) -> list[RowEvent]:
        """What it logged."""
        return [event for row in self.rows for event in row.events if is_line(event)]

    @property
    def lines_left_out(self) -> int:
        """Lines of it that there was no room for."""
        return sum(row.lines_left_out for row in self.rows)

    @property
    def events(self) -> list[RowEvent]:
        """What else happened in it; exceptions that only repeat its failure are left out.

        So is what was decided for it, which `explaining` tells.
        """
        return [
            event
            for row in self.rows
            for event in row.events
            if not is_line(event)
            and decision_in(row, event) is None
            and not (
                row.error
                and event.name == EXCEPTION
                and repeats(event.attributes, row.error_message)
            )
        ]

    def walk(self) -> Iterator[Hop]:
        """It and all below it, depth first."""
        stack = [self]
        while stack:
            hop = stack.pop()
            yield hop
            stack.extend(reversed(hop.children))


def _repeats(error: tuple[str, str], below: tuple[str, str] | None) -> bool:
    """Whether a failure says no more than the one below that it comes from."""
    return below is not None and (below[1] in error[1] if below[1] else below[0] == error[0])


def fold(rows: Sequence[WaterfallRow], *, whole: bool = False) -> list[Hop]:
    """The hops that are roots, with everything below them.

    Args:
        rows: Of :func:`~mesh_telemetry.waterfall.waterfall`, depth first.
        whole: Whether every span stays one of its own.
    """
    roots: list[Hop] = []
    above: list[Hop] = []
    """By depth, whose hop the last row of that depth is in."""
    for row in rows:
        del above[row.depth :]
        parent = above[-1] if above else None
        if parent is not None and not whole and _continues(parent, row):
            parent.rows.append(row)
            if _role(row) == _SERVED:
                parent.served = row
            above.append(parent)
            continue
        hop = Hop([row], whole=whole)
        if _role(row) == _SERVED:
            hop.served = row
        (roots if parent is None else parent.children).append(hop)
        above.append(hop)
    return roots


def decision_in(row: WaterfallRow, event: RowEvent) -> Told | None:
    """The decision that an event of a span tells of; None for none.

    Handlers may give the events of their spans any name, so only two are believed: the gateway, and
    the caller's own span of a call, which no code of users gets hold of, of what callers decide.

    Args:
        row: The span.
        event: One of its events. What is told to have been before its span is told with its start.
    """
    if not row.of_gateway and _role(row) != _CALLING:
        return None
    told = from_event(event.name, event.attributes, max(event.at_ms, row.start_ms) / 1e3)
    if told is None or row.of_gateway or told.decision.kind in BY_CALLER:
        return told
    return None


def _role(row: WaterfallRow) -> int | None:
    """Which of a hop's four spans this is; None for a span that is no call."""
    if not row.code:
        return None
    if row.kind == "client":
        return _PASSED_ON if row.of_gateway else _CALLING
    if row.kind == "server":
        return _ARRIVED if row.of_gateway else _SERVED
    return None


def _continues(hop: Hop, row: WaterfallRow) -> bool:
    """Whether a span below one of this hop is the next one of the same call."""
    last = hop.rows[-1]
    before, role = _role(last), _role(row)
    return (
        before is not None and role is not None and role > before and row.parent_id == last.span_id
    )
