"""What was decided for a call, why, and by which setting: one definition for all who tell of it.

A :class:`Decision` is made where something was decided. It is the message and the details of the
error that says so, an event on the call's span, and a sentence for people; how each kind is told
stands in `decision_forms`.
"""

from __future__ import annotations

from math import isfinite
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from mesh_telemetry.decision_forms import FORMS, SETTINGS, UNITS, DecisionKind, Facts
from mesh_telemetry.names import DECISION_EVENT
from mesh_telemetry.spans import SpanEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mesh_telemetry.spans import Span

Picked: TypeAlias = tuple[int, ...]
"""What an instance was chosen by: how many instances there are, how many of these had no room, the
calls in flight at the chosen one, then those at the others: at each of up to :data:`NAMED`, else
the fewest and the most. Empty where there was no choice; the first one alone where only the chosen
one serves the caller's version. Numbers only, as it is made for calls."""
NAMED = 3
"""Other instances whose calls in flight are told one by one."""
_PREFIX = f"{DECISION_EVENT}."
_ABOUT, _SETTING = "decision", "setting"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Something that was decided for a call. Made only where there was more than one way."""

    kind: DecisionKind
    at: float
    """When, in seconds on the clock of whoever decided."""
    value: float | None = None
    """Of the setting behind it; None where there is none."""
    facts: Facts = {}
    """What it was decided by; those of an error are told to the caller."""
    of: str = ""
    """The setting, where that is not the one that its kind has in :data:`.FORMS`."""

    @property
    def setting(self) -> str:
        """The name of the setting behind it, as in the gateway's file; empty for none."""
        return (self.of or FORMS[self.kind].setting) if self.value is not None else ""

    @property
    def text(self) -> str:
        """What it says: the message of the error, where it is one."""
        return FORMS[self.kind].text(self._all)

    @property
    def sentence(self) -> str:
        """What it was, for people."""
        return f"{FORMS[self.kind].about}{self.text}{FORMS[self.kind].more(self._all)}"

    @property
    def _all(self) -> Facts:
        return {**self.facts, "value": self.value}

    def details(self) -> Facts:
        """The details of the error that says so."""
        told: Facts = {_ABOUT: str(self.kind)}
        if self.value is not None:
            told |= {_SETTING: self.setting, "value": self.value}
        return told | self.facts

    @staticmethod
    def read(details: Mapping[str, Any], at: float) -> Decision:
        """The decision that such details tell of.

        Raises:
            ValueError: It is of no known kind.
        """
        facts = dict(details)
        kind = DecisionKind(facts.pop(_ABOUT))
        setting, value = facts.pop(_SETTING, ""), facts.pop("value", None)
        if setting == FORMS[kind].setting:
            setting = ""
        return Decision(kind, at, value, facts, setting)

    def event(self, time: int) -> SpanEvent:
        """The event on the call's span. Facts that no attribute can hold are left out.

        Args:
            time: Nanoseconds since 1970.
        """
        told = self.details()
        del told[_ABOUT]
        return SpanEvent(
            f"{_PREFIX}{self.kind}",
            time,
            {f"{_PREFIX}{name}": value for name, value in told.items() if _fits(value)},
        )


class Told(NamedTuple):
    """A decision as an event tells it."""

    decision: Decision
    sentence: str


def from_event(name: str, attributes: Mapping[str, Any], at: float) -> Told | None:
    """The decision that a span's event tells of, at a time on the reader's clock; None for none.

    A peer's event need not hold what ours does: None too where a sentence cannot be made of it, or
    its setting is none that there is.
    """
    if not name.startswith(_PREFIX):
        return None
    details = {key.removeprefix(_PREFIX): value for key, value in attributes.items()}
    try:
        decision = Decision.read({**details, _ABOUT: name.removeprefix(_PREFIX)}, at)
        if decision.of not in SETTINGS or not _is_number(decision.value):
            return None
        return Told(decision, decision.sentence)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return None


def _is_number(value: float | None) -> bool:
    """Whether it can be that of a setting, or there is none."""
    return value is None or (not isinstance(value, bool) and isfinite(value))


def picked(at: float, instance: str, compared: Picked, max_in_flight: int) -> Decision:
    """Why this instance was chosen among several.

    Args:
        at: When.
        instance: Its process id.
        compared: What it was chosen by; how many there are, where it alone fits the version.
        max_in_flight: The setting.
    """
    if len(compared) == 1:
        only = {"instance": instance, "instances": compared[0], "fitting": 1}
        return Decision(DecisionKind.PICKED, at, None, only)
    instances, full, here, *others = compared
    facts = {
        "instance": instance,
        "instances": instances,
        "without_room": full,
        "in_flight": here,
        "elsewhere": others,
    }
    # Where all have room, the setting decided nothing.
    return Decision(DecisionKind.PICKED, at, max_in_flight if full else None, facts)


def setting_text(name: str, value: float | None) -> str:
    """A setting with its value as people write them: ``limits.service_wait = 5s``."""
    if not name or value is None:
        return ""
    unit = UNITS.get(name, "")
    return f"{name} = {value:,.10g}{' ' if unit == 'B' else ''}{unit}"


def _fits(value: object) -> bool:
    """Whether an attribute of a span can hold it."""
    if isinstance(value, list):
        return all(isinstance(one, str | int | float) for one in value)
    return isinstance(value, str | int | float)


def tell_decisions(span: Span, decisions: Iterable[Decision], offset: float) -> None:
    """Put decisions onto the span of their call, as events in order of their time.

    Args:
        span: Is changed.
        decisions: Some.
        offset: What makes seconds since 1970 of their times.
    """
    told = [one.event(int((one.at + offset) * 1e9)) for one in decisions]
    span.events = tuple(sorted((*span.events, *told), key=attrgetter("time")))


class Noted(msgspec.Struct, gc=False):
    """Decisions of a peer for a call that it made, for the span that is built of the call."""

    started: float
    """When the call began, on the clock of :attr:`decisions`."""
    decisions: Sequence[Decision]

    @property
    def weight(self) -> int:
        """Bytes, roughly, that they take."""
        return 500 * len(self.decisions)

    def apply(self, span: Span) -> Span:
        """Put them onto the span of the call; returns the same."""
        tell_decisions(span, self.decisions, span.start / 1e9 - self.started)
        return span
