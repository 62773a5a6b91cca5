"""Explains a kept trace: every decision that was made for its calls, in order, with its setting.

Beside what the spans tell as events, it knows what needs no telling: that the only instance was
taken, that a handler failed, and that it passed on what failed below it.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import msgspec

from mesh_telemetry.decision_forms import GOES_ON, DecisionKind
from mesh_telemetry.decisions import Decision, from_event, setting_text
from mesh_telemetry.drawing import heading, ids, missing
from mesh_telemetry.hops import fold
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
    found: list[Step] = []
    stack = [(0, hop) for hop in reversed(fold(rows))]
    while stack:
        depth, hop = stack.pop()
        if hop.is_call:
            found += _steps(depth, hop)
            depth += 1
        stack.extend((depth, child) for child in reversed(hop.children))
    return sorted(found, key=lambda step: step.at_ms)


def _steps(depth: int, hop: Hop) -> Iterator[Step]:
    for decision in _decisions(hop):
        yield Step(
            at_ms=round(decision.at * 1e3, 3),
            call=hop.name,
            span_id=hop.first.span_id,
            depth=depth,
            decision=decision.kind,
            sentence=decision.sentence,
            setting=decision.setting,
            value=decision.value,
            left_ms=hop.left_ms,
            took_ms=round(hop.end - hop.start, 3),
        )


def _decisions(hop: Hop) -> list[Decision]:
    """What was decided for one call; times are seconds since the first start in the trace."""
    told = [
        decision
        for row in hop.rows
        for event in row.events
        if (decision := from_event(event.name, event.attributes, event.at_ms / 1e3)) is not None
    ]
    kinds = {decision.kind for decision in told}
    passed = hop.passed_on
    if passed is not None and DecisionKind.PICKED not in kinds:
        facts = {"instance": passed.served_by, "service": hop.service}
        told.append(Decision(DecisionKind.ONLY, passed.start_ms / 1e3, None, facts))
    if hop.error is not None and kinds <= GOES_ON:
        error, message = hop.error
        at = hop.work[1] if hop.served is not None else hop.end
        if hop.origin is None:
            facts = {"error": error, "told": message, "where": _where(hop)}
            told.append(Decision(DecisionKind.FAILED, at / 1e3, None, facts))
        else:
            facts = {"error": error, "of": hop.origin.name}
            told.append(Decision(DecisionKind.PASSED_ON, at / 1e3, None, facts))
    return sorted(told, key=lambda decision: (decision.at, _ORDER[decision.kind]))


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
    setting = setting_text(step.setting, step.value)
    wrapped = textwrap.wrap(clean_line(step.sentence), max(1, width - MARGIN)) or [""]
    margin = f"{milliseconds(step.at_ms):>{MARGIN - 2}}  "
    for text in wrapped:
        yield [Part(margin, Look.FAINT), Part(text, look)]
        margin = " " * MARGIN
    if setting:
        yield [Part(margin), Part(f"[{setting}]", Look.FAINT)]
