"""Why a trace is kept, as a decision with the setting behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_telemetry import Decision, DecisionKind, Reason

if TYPE_CHECKING:
    from mesh_telemetry import TraceSettings
    from mesh_telemetry.decision_forms import Facts


def why_kept(
    settings: TraceSettings,
    now: float,
    reason: Reason,
    name: str,
    took: float = 0.0,
    slow_after: float = 0.0,
    objective: float | None = None,
) -> Decision:
    """The decision to keep a trace.

    Args:
        settings: The gateway's.
        now: The time on trio's clock.
        reason: What speaks for it.
        name: The method of the call that gives the reason, or ``_OTHER``.
        took: The seconds of a slow call so far.
        slow_after: Those from which on it is slow; 0 for one that is still in flight.
        objective: Those within which its method should answer, if that was said.
    """
    facts: Facts = {"reason": str(reason), "method": name}
    if took:
        facts["took_ms"] = round(took * 1e3, 3)
    if reason is Reason.BASELINE:
        return Decision(DecisionKind.KEPT_BASELINE, now, settings.baseline, facts)
    if reason is not Reason.SLOW:
        return Decision(DecisionKind.KEPT, now, settings.quota, facts)
    if not slow_after:
        return Decision(DecisionKind.KEPT_LONG, now, settings.quota, facts)
    if objective is not None:
        if slow_after >= objective:
            return Decision(DecisionKind.KEPT_OBJECTIVE, now, objective, facts)
        facts["objective_ms"] = round(objective * 1e3, 3)
    elif slow_after >= settings.slow_after:
        return Decision(DecisionKind.KEPT_SLOW, now, settings.slow_after, facts)
    facts["usual_ms"] = round(slow_after * 1e3, 3)
    return Decision(DecisionKind.KEPT_UNUSUAL, now, settings.slow_after, facts)
