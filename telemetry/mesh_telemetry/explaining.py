"""Explains a kept trace: every decision that was made for its calls, in order, with its setting.

Beside what the spans tell as events, it knows what needs no telling: that the only instance was
taken, that a handler failed, and that it passed on what failed below it.
"""

from __future__ import annotations

import textwrap
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from mesh_telemetry.decision_forms import GOES_ON, DecisionKind
from mesh_telemetry.decisions import Decision, Told, setting_text
from mesh_telemetry.drawing import heading, ids, missing
from mesh_telemetry.hops import decision_in, fold
from mesh_telemetry.logs import clean_line
from mesh_telemetry.texts import Look, Part, cut, milliseconds, to_text
from mesh_telemetry.waterfall import TraceSummary  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mesh_telemetry.hops import Hop
    from mesh_telemetry.texts import Line
    from mesh_telemetry.waterfall import WaterfallRow

_ORDER = {kind: place for place, kind in enumerate(DecisionKind)}
"""Where a clock does not tell, the order of a call's life does."""
MARGIN = 12
"""Columns before a sentence: the time, and two spaces."""
BY_TIME = attrgetter("at_ms")
"""What steps are sorted by."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One decision."""

    at_ms: float
    """When, since the first start in the trace."""
    call: str
    """The method that was called."""
    span_id: str
    """The call's outermost span, which tells calls of one method apart."""
    depth: int
    """Calls above it."""
    decision: DecisionKind
    sentence: str
    """What was decided and why, for people."""
    setting: str
    """The setting behind it, as in the gateway's file, or ``timeout``; empty for none."""
    value: float | None
    """Its value: seconds, bytes, a rate per second, or a number."""
    left_ms: float | None
    """What was left of the deadline when the call began; None where there is none."""
    took_ms: float
    """What the call took of that."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why the calls of one kept trace went as they did."""

    summary: TraceSummary
    steps: list[Step]
    """By their time."""


def explain(rows: Sequence[WaterfallRow]) -> list[Step]:
    """What was decided for the calls of a trace, by time.

    Args:
        rows: Of :func:`~mesh_telemetry.waterfall.waterfall`, depth first.
    """
    return sorted((step for step in explain_steps(rows) if step is not None), key=BY_TIME)


def explain_steps(rows: Sequence[WaterfallRow]) -> Iterator[Step | None]:
    """The same call by call, for a loop that must not be held up: None where something was read.

    Each takes up to 20 us, and the first 2 us to 3 us more for each span of the trace.
    """
    stack = [(0, hop) for hop in reversed(fold(rows))]
    while stack:
        depth, hop = stack.pop()
        if hop.is_call:
            yield from _steps(depth, hop)
            depth += 1
        yield None
        stack.extend((depth, child) for child in reversed(hop.children))


def _steps(depth: int, hop: Hop) -> Iterator[Step | None]:
    found: list[Told] = []
    for row in hop.rows:
        for event in row.events:
            told = decision_in(row, event)
            if told is not None:
                found.append(told)
            yield None
    found += _untold(hop, {told.decision.kind for told in found})
    found.sort(key=lambda told: (told.decision.at, _ORDER[told.decision.kind]))
    for decision, sentence in found:
        yield Step(
            at_ms=round(decision.at * 1e3, 3),
            call=hop.name,
            span_id=hop.first.span_id,
            depth=depth,
            decision=decision.kind,
            sentence=sentence,
            setting=decision.setting,
            value=decision.value,
            left_ms=hop.left_ms,
            took_ms=round(hop.end - hop.start, 3),
        )


def _untold(hop: Hop, kinds: set[DecisionKind]) -> Iterator[Told]:
    """What needs no telling beside decisions of these kinds.

    Times are seconds since the first start in the trace.
    """
    passed = hop.passed_on
    if passed is not None and DecisionKind.PICKED not in kinds:
        facts = {"instance": passed.served_by, "service": hop.service}
        only = Decision(DecisionKind.ONLY, passed.start_ms / 1e3, None, facts)
        yield Told(only, only.sentence)
    if hop.error is not None and kinds <= GOES_ON:
        error, message = hop.error
        at = hop.work[1] if hop.served is not None else hop.end
        kind = DecisionKind.FAILED
        facts = {"error": error, "told": message, "where": _where(hop)}
        if hop.origin is not None:
            kind, facts = DecisionKind.PASSED_ON, {"error": error, "of": hop.origin.name}
        failed = Decision(kind, at / 1e3, None, facts)
        yield Told(failed, failed.sentence)


def _where(hop: Hop) -> str:
    """Who said that a call has failed."""
    if hop.served is not None:
        return f"{hop.served.service} ({hop.served.instance})"
    last = hop.rows[-1]
    return f"{last.service} ({last.instance})"


def explanation_lines(told: Explanation, width: int) -> Iterator[Line]:
    """An explanation as lines for people.

    Args:
        told: The explanation.
        width: Columns that no line exceeds but those of ids.
    """
    about = told.summary
    yield cut(heading(about, about.duration_ms or 0.0, " at gateway"), width)
    yield from ids(about, width)
    for line in missing(about):
        yield from ([Part(text, Look.ODD)] for text in textwrap.wrap(to_text(line), width))
    if not told.steps:
        yield []
        yield [Part("none of its spans tells of a decision", Look.ODD)]
    begun: set[str] = set()
    last = ""
    for step in told.steps:
        if step.span_id != last:
            yield []
            yield cut(_call(step, is_new=step.span_id not in begun), width)
            begun.add(step.span_id)
            last = step.span_id
        yield from _sentence(step, width)


def _call(step: Step, *, is_new: bool) -> Line:
    """The call that the next steps are about; once for each with its share of the deadline."""
    line = [Part(clean_line(step.call), Look.STRONG)]
    if is_new and step.left_ms is None:
        line.append(Part(f"  no deadline, took {milliseconds(step.took_ms)}", Look.FAINT))
    elif is_new and step.left_ms is not None:
        share = f", {step.took_ms / step.left_ms:.0%}" if step.left_ms else ""
        left, took = milliseconds(step.left_ms), milliseconds(step.took_ms)
        line.append(Part(f"  {left} left, took {took}{share}", Look.FAINT))
    return line


def _sentence(step: Step, width: int) -> Iterator[Line]:
    look = Look.PLAIN if step.decision in GOES_ON else Look.BAD
    setting = clean_line(setting_text(step.setting, step.value))
    wrapped = textwrap.wrap(clean_line(step.sentence), max(1, width - MARGIN)) or [""]
    margin = f"{milliseconds(step.at_ms):>{MARGIN - 2}}  "
    for text in wrapped:
        yield [Part(margin, Look.FAINT), Part(text, look)]
        margin = " " * MARGIN
    if setting:
        yield cut([Part(margin), Part(f"[{setting}]", Look.FAINT)], width)
