"""Why a trace is kept, with the setting behind it: what spoke for it, as a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_telemetry import Decision, DecisionKind, Reason
from mesh_telemetry.names import OTHER

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh_telemetry import Record, TraceSettings
    from mesh_telemetry.decision_forms import Facts


def why_kept(
    clock: Callable[[], float],
    settings: TraceSettings,
    reason: Reason,
    name: str,
    *,
    row: Record | None = None,
    took: float = 0.0,
    slow_after: float = 0.0,
    objective: float | None = None,
) -> Decision:
    """What was decided, to be told with the trace.

    Args:
        clock: Tells seconds.
        settings: What rules the keeping.
        reason: What speaks for it.
        name: The method whose quota it takes from, or ``_OTHER``.
        row: The call that gives the reason, where it has failed or was refused.
        took: The seconds of a slow call so far.
        slow_after: Those from which on it is slow; 0 for one that is still in flight.
        objective: Those within which its method should answer, if that was said.
    """
    now = clock()
    facts: Facts = {"reason": str(reason), "method": name}
    if row is not None:
        # The quota's key may stand for many methods; people look for the one that was called.
        facts["method"] = f"{row.service}.{row.method}"
        if name == OTHER:
            facts["shared"] = True
        if row.decisions and row.decisions[-1].kind is DecisionKind.CANCELLED:
            facts["cancelled"] = True  # at a deadline it has another code, and so another reason
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
