"""The kinds of decisions, and how each is told: the table behind :class:`.Decision`.

A message of an error stands here and nowhere else. Kinds are in the order of a call's life; a
second try of a call would be one line more.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from mesh_telemetry.texts import duration, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Facts: TypeAlias = dict[str, Any]
"""Plain values that a decision was made by; ``value`` is that of its setting."""
SPENT_TOLD = 12
"""Hops that the message of a deadline tells of."""


class DecisionKind(StrEnum):
    """What can be decided for a call."""

    CONNECTION_AWAITED = "connection_awaited"
    ROOM_AWAITED = "room_awaited"
    UNREACHABLE = "unreachable"
    LEFT_NO_TIME = "left_no_time"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    LOOPING = "looping"
    PARENT_FOREIGN = "parent_foreign"
    PARENT_GONE = "parent_gone"
    NO_TIME = "no_time"
    DRAINING = "draining"
    SERVICE_MISSING = "service_missing"
    METHOD_MISSING = "method_missing"
    INSTANCE_MISSING = "instance_missing"
    INCOMPATIBLE = "incompatible"
    NO_VERSION = "no_version"
    OVERLOADED = "overloaded"
    OUTBOX_FULL = "outbox_full"
    WAITING_FULL = "waiting_full"
    AWAITED = "awaited"
    NOT_COME = "not_come"
    ONLY = "only_instance"
    PICKED = "picked"
    REROUTED = "rerouted"
    UNSENT = "unsent"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    PARENT_OVER = "parent_over"
    LOST = "lost"
    STOPPED = "stopped"
    ANSWER_DROPPED = "answer_dropped"
    FAILED = "failed"
    PASSED_ON = "passed_on"
    LATE = "late"
    KEPT = "kept"
    KEPT_SLOW = "kept_slow"
    KEPT_OBJECTIVE = "kept_objective"
    KEPT_UNUSUAL = "kept_unusual"
    KEPT_LONG = "kept_long"
    KEPT_BASELINE = "kept_baseline"


class Form(NamedTuple):
    """How one kind of decision is told."""

    about: str
    """What a sentence about it begins with."""
    text: Callable[[Facts], str]
    """What it says; the message of the error where it is one."""
    setting: str = ""
    """The setting behind it, as in the gateway's file; ``slo`` is its contract's, ``timeout`` the
    call's own, which is ``limits.call_timeout`` where its caller gave none: a call tells the
    number, and not whose."""
    more: Callable[[Facts], str] = lambda _: ""
    """What a sentence says besides, that no error does."""


def _spent(facts: Facts) -> str:
    """How the time of a call was spent, hop by hop."""
    said = f"{facts['of']} was allowed {facts['allowed_ms']:,.1f} ms"
    spent = facts.get("spent", ())
    if not spent:
        return said
    parts = [f"{one['call']} {one['ms']:,.1f} ms ({one['state']})" for one in spent[:SPENT_TOLD]]
    more = f", and {len(spent) - SPENT_TOLD} more" if len(spent) > SPENT_TOLD else ""
    return f"{said}; spent: {', '.join(parts)}{more}"


def _compared(facts: Facts) -> str:
    if facts.get("fitting") == 1:
        return (
            f"{facts['instance']}, the only one of {facts['instances']} instances that serves the "
            "caller's version"
        )
    load, others = facts["in_flight"], facts["elsewhere"]
    here = f"{load:,} {'call' if load == 1 else 'calls'} in flight there"
    instances, full = facts["instances"], facts["without_room"]
    said = f"{facts['instance']} of {instances} instances: "
    if not others:
        return f"{said}the only one with room, {here}"
    told = [f"{load:,}" for load in others]
    between = " and " if instances - full - 1 == len(others) else " to "
    elsewhere = f"{', '.join(told[:-1])}{between}{told[-1]}" if len(told) > 1 else told[0]
    said += f"{here}, {elsewhere} elsewhere"
    if load > others[0]:
        said += ", where health is worse"
    elif load == others[0]:
        said += "; of equals the one picked longest ago"
    return f"{said}; {full} had no room" if full else said


def _inherited(facts: Facts) -> str:
    """Whose deadline it was, where that of a call above; and whether the call may have run."""
    own = facts["by"].startswith(f"the deadline of {facts['of']} ")
    return ("" if own else f"; that was {facts['by']}") + _ran(facts)


def _ran(facts: Facts) -> str:
    """Whether a callee may have run a call that ended before its answer, where that is told."""
    told = "; it may have run" if facts.get("maybe_executed") else "; it did not run"
    return told if "maybe_executed" in facts else ""


def _by(facts: Facts) -> str:
    return f"{facts['by']}"


def _quota(facts: Facts) -> str:
    if facts["reason"] == "forced":
        return f"somebody asked for it; up to {facts['value']:g} such traces per second are"
    why = _KEPT_FOR["cancelled" if facts.get("cancelled") else facts["reason"]]
    quota = "all methods without a quota of their own" if facts.get("shared") else "one method"
    return f"{why} ({facts['method']}); up to {facts['value']:g} per second are, for {quota}"


def _bound(facts: Facts) -> str:
    """From when on every call of a method is slow, whatever is usual for it."""
    if "objective_ms" in facts:
        return f"its contract's objective is {milliseconds(facts['objective_ms'])}"
    return f"from {duration(facts['value'])} on every call is slow"


_KEPT_FOR = {
    "error": "a call in it failed",
    "refused": "a call in it was refused",
    "cancelled": "a call in it was cancelled",
    "slow": "a call in it was slow",
    "late": "an answer came late",
}

FORMS: Final[Mapping[DecisionKind, Form]] = {
    DecisionKind.CONNECTION_AWAITED: Form(
        "waited ",
        lambda of: f"{milliseconds(of['waited_ms'])} for a connection to the gateway",
        "limits.service_wait",
        lambda of: f" (calls wait for one for up to {of['value']:g} s)",
    ),
    DecisionKind.ROOM_AWAITED: Form(
        "waited ",
        lambda of: (
            f"{milliseconds(of['waited_ms'])} for the gateway to read what was queued for it"
        ),
        "limits.max_outbox",
    ),
    DecisionKind.UNREACHABLE: Form(
        "gave up: ",
        lambda of: (
            f"{of['call']}: no connection to a gateway within {of['value']:g} s: {of['told']}"
        ),
        "limits.service_wait",
    ),
    DecisionKind.LEFT_NO_TIME: Form(
        "out of time: ",
        lambda of: f"no time was left for {of['call']} when {of['caller']} called it",
        "timeout",
    ),
    DecisionKind.TOO_LARGE: Form(
        "refused: ",
        lambda of: (
            f"parameters of {of['call']}, {of['bytes']:,} bytes, exceed max_message of "
            f"{of['value']:,}"
        ),
        "limits.max_message",
    ),
    DecisionKind.TOO_DEEP: Form(
        "refused: ",
        lambda of: f"depth {of['depth']} exceeds max_depth {of['value']}",
        "limits.max_depth",
    ),
    DecisionKind.LOOPING: Form(
        "refused: ",
        lambda of: (
            f"visit {of['visit']} of {of['call']} exceeds max_visits {of['value']}; "
            f"the cycle is {' > '.join(of['cycle'])}"
        ),
        "limits.max_visits",
    ),
    DecisionKind.PARENT_FOREIGN: Form(
        "refused: ",
        lambda of: (
            f"call {of['parent']} is not served by {of['caller']}, so nothing can be called on "
            "its behalf"
        ),
    ),
    DecisionKind.PARENT_GONE: Form(
        "refused: ",
        lambda of: (
            f"the call inside which {of['call']} was called has ended; start work that outlives "
            "its call inside mesh.detached()"
        ),
    ),
    DecisionKind.NO_TIME: Form(
        "refused: ",
        lambda of: (
            f"no time was left when {of['call']} was called"
            f"{': ' + _spent(of) if 'allowed_ms' in of else ''}"
        ),
        "timeout",
    ),
    DecisionKind.DRAINING: Form(
        "refused: ",
        lambda _: "the gateway is shutting down and takes no new calls",
        "limits.drain",
        lambda of: f"; those in flight have {of['value']:g} s",
    ),
    DecisionKind.SERVICE_MISSING: Form(
        "refused: ",
        lambda of: f"{of['told']}",
        "limits.service_wait",
        lambda of: (
            f"; what was never there is waited for only in the gateway's first {of['value']:g} s"
        ),
    ),
    DecisionKind.METHOD_MISSING: Form("refused: ", lambda of: f"{of['told']}"),
    DecisionKind.INSTANCE_MISSING: Form(
        "refused: ",
        lambda of: f"{of['told']}",
        "limits.service_memory",
        lambda of: f"; one that is gone is expected back for {of['value']:g} s",
    ),
    DecisionKind.INCOMPATIBLE: Form(
        "refused: ",
        lambda of: (
            f"{of['caller']} calls {of['call']} by version {of['version']} of its contract, which "
            f"no instance serves: {of['told']}; {of['advice']}"
        ),
    ),
    DecisionKind.NO_VERSION: Form(
        "refused: ",
        lambda of: f"{of['caller']} calls {of['call']} by what is no version: {of['told']}",
    ),
    DecisionKind.OVERLOADED: Form(
        "refused: ",
        lambda of: (
            f"every instance of {of['call']} ({of['instances']}) has {of['value']:,} calls "
            "in flight, the limit max_in_flight; start more instances, or call less"
        ),
        "limits.max_in_flight",
    ),
    DecisionKind.OUTBOX_FULL: Form(
        "refused: ",
        lambda of: (
            f"{of['bytes']:,} bytes wait for {of['callee']}, which serves {of['call']}, at the "
            f"limit of {of['value']:,}: it does not read fast enough"
        ),
        "limits.max_outbox",
    ),
    DecisionKind.WAITING_FULL: Form(
        "refused: ",
        lambda of: (
            f"{of['waiting']:,} calls wait for services, {of['bytes']:,} bytes; the "
            f"limits are {of['value']:,} and {of['max_outbox']:,}"
        ),
        "limits.max_waiting",
    ),
    DecisionKind.AWAITED: Form(
        "waited ",
        lambda of: f"{milliseconds(of['waited_ms'])} for {of['service']}",
        "limits.service_wait",
        lambda of: f" ({of['because']}; services are waited for up to {of['value']:g} s)",
    ),
    DecisionKind.NOT_COME: Form(
        "gave up: ",
        lambda of: f"waited {of['value']:g} s for {of['call']}; {of['told']}",
        "limits.service_wait",
        lambda of: f" ({of['because']})",
    ),
    DecisionKind.ONLY: Form(
        "picked ", lambda of: f"{of['instance']}, the only instance of {of['service']}"
    ),
    DecisionKind.PICKED: Form("picked ", _compared, "limits.max_in_flight"),
    DecisionKind.REROUTED: Form(
        "sent again: ",
        lambda of: (
            f"the connection to {of['lost']} was lost before the call left, so it went to "
            f"{of['instance']}"
        ),
    ),
    DecisionKind.UNSENT: Form(
        "failed: ",
        lambda of: (
            f"the connection to the instance of {of['service']} was lost before the call left "
            "the gateway, and no other instance can take it"
        ),
    ),
    DecisionKind.EXPIRED: Form("out of time: ", _spent, "timeout", _inherited),
    DecisionKind.CANCELLED: Form("cancelled: ", _by, "timeout", _ran),
    DecisionKind.PARENT_OVER: Form(
        "ended: ",
        lambda of: f"{of['parent']}, inside which {of['call']} was called, has ended",
        more=lambda of: f": {of['by']}{_ran(of)}",
    ),
    DecisionKind.LOST: Form(
        "failed: ",
        lambda of: (
            f"the connection to {of['callee']} ({of['instance']}), which served "
            f"{of['call']}, was lost after {of['after_ms']:,.0f} ms"
        ),
        more=_ran,
    ),
    DecisionKind.STOPPED: Form(
        "ended: ",
        lambda of: f"the gateway shut down {of['after_ms']:,.0f} ms after {of['call']} was called",
        "limits.drain",
    ),
    DecisionKind.ANSWER_DROPPED: Form(
        "failed: ",
        lambda of: (
            f"the answer of {of['call']} was dropped: {of['bytes']:,} bytes wait for you to read "
            f"them, at the limit of {of['value']:,}"
        ),
        "limits.max_outbox",
    ),
    DecisionKind.FAILED: Form(
        "failed: ",
        lambda of: f"{of['error']}: {of['told']}" if of["told"] else f"{of['error']}",
        more=lambda of: f" (from {of['where']})",
    ),
    DecisionKind.PASSED_ON: Form("passed on: ", lambda of: f"{of['error']} of {of['of']}"),
    DecisionKind.LATE: Form(
        "late: ",
        lambda of: (
            f"{of['callee']} answered {milliseconds(of['after_ms'])} after the call had ended, and "
            "the answer was dropped"
        ),
    ),
    DecisionKind.KEPT: Form("trace kept: ", _quota, "traces.quota"),
    DecisionKind.KEPT_SLOW: Form(
        "trace kept: ",
        lambda of: (
            f"{of['method']} took {milliseconds(of['took_ms'])}; from {duration(of['value'])} on "
            "every call is slow"
        ),
        "traces.slow_after",
    ),
    DecisionKind.KEPT_OBJECTIVE: Form(
        "trace kept: ",
        lambda of: (
            f"{of['method']} took {milliseconds(of['took_ms'])}; its contract's objective is "
            f"{duration(of['value'])}"
        ),
        "slo",
    ),
    DecisionKind.KEPT_UNUSUAL: Form(
        "trace kept: ",
        lambda of: (
            f"{of['method']} took {milliseconds(of['took_ms'])}; {milliseconds(of['usual_ms'])} "
            f"or more is unusual for it lately ({_bound(of)})"
        ),
        "traces.slow_after",
    ),
    DecisionKind.KEPT_LONG: Form(
        "trace kept: ",
        lambda of: f"{of['method']} had been in flight for {milliseconds(of['took_ms'])}",
        "traces.quota",
    ),
    DecisionKind.KEPT_BASELINE: Form(
        "trace kept: ",
        lambda of: (
            f"nothing special, but the first {of['value']:g} per second of {of['method']} are kept"
        ),
        "traces.baseline",
    ),
}

GOES_ON: Final = frozenset(
    {
        DecisionKind.CONNECTION_AWAITED,
        DecisionKind.ROOM_AWAITED,
        DecisionKind.AWAITED,
        DecisionKind.ONLY,
        DecisionKind.PICKED,
        DecisionKind.REROUTED,
        DecisionKind.LATE,
        DecisionKind.KEPT,
        DecisionKind.KEPT_SLOW,
        DecisionKind.KEPT_OBJECTIVE,
        DecisionKind.KEPT_UNUSUAL,
        DecisionKind.KEPT_LONG,
        DecisionKind.KEPT_BASELINE,
    }
)
"""Those that end no call; all others do."""

BY_CALLER: Final = frozenset(
    {
        DecisionKind.CONNECTION_AWAITED,
        DecisionKind.ROOM_AWAITED,
        DecisionKind.UNREACHABLE,
        DecisionKind.LEFT_NO_TIME,
        DecisionKind.TOO_LARGE,
    }
)
"""Those that a caller makes before its call leaves; all others are the gateway's."""

SETTINGS: Final = frozenset(form.setting for form in FORMS.values())
"""All that may be behind a decision, and the empty one for none."""

UNITS: Final[Mapping[str, str]] = {
    "slo": "s",
    "timeout": "s",
    "limits.drain": "s",
    "limits.max_message": "B",
    "limits.max_outbox": "B",
    "limits.service_memory": "s",
    "limits.service_wait": "s",
    "traces.baseline": "/s",
    "traces.quota": "/s",
    "traces.slow_after": "s",
}
"""What the values of settings are, where they are no mere numbers."""
