"""Why a call is turned away before any service sees it, with the numbers and the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import Code, Reason
from mesh.gateway.calls import budget
from mesh.gateway.endings import spent_facts
from mesh.gateway.missing import explain_call
from mesh_telemetry import Decision, DecisionKind

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.observing import Refusal
    from mesh.gateway.session import Session
    from mesh.wire import codec
    from mesh_telemetry.decision_forms import Facts


class Refusals:
    """The refusals of one gateway's router."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def _decide(
        self, kind: DecisionKind, value: float | None = None, facts: Facts | None = None
    ) -> Decision:
        return Decision(kind, self._core.clock(), value, facts or {})

    def foreign(self, header: codec.Call, caller: Session) -> Refusal:
        """It names a parent that its caller does not serve."""
        facts = {"parent": header.parent_id, "caller": caller.name}
        why = self._decide(DecisionKind.PARENT_FOREIGN, facts=facts)
        return Code.PERMISSION_DENIED, Reason.PARENT_FOREIGN, why

    def parent_gone(self, link: str) -> Refusal:
        """The call inside which it was made has ended."""
        why = self._decide(DecisionKind.PARENT_GONE, facts={"call": link})
        return Code.FAILED_PRECONDITION, Reason.PARENT_ENDED, why

    def too_deep(self, chain: tuple[str, ...]) -> Refusal:
        """Its chain is too long."""
        limit = self._core.limits.max_depth
        why = self._decide(DecisionKind.TOO_DEEP, limit, {"depth": len(chain)})
        return Code.FAILED_PRECONDITION, Reason.DEPTH_EXCEEDED, why

    def looping(self, chain: tuple[str, ...]) -> Refusal:
        """Its chain visits one method too often."""
        link, limit = chain[-1], self._core.limits.max_visits
        facts = {"call": link, "visit": chain.count(link), "cycle": list(_cycle(chain))}
        why = self._decide(DecisionKind.LOOPING, limit, facts)
        return Code.FAILED_PRECONDITION, Reason.LOOP_DETECTED, why

    def no_time(self, link: str, parent: InFlight | None, now: float) -> Refusal:
        """Its deadline has passed already."""
        facts: Facts = {"call": link}
        value = None
        if parent is not None:
            facts |= spent_facts(parent, budget(parent, now))
            value = round(parent.deadline - parent.started, 4)
        why = self._decide(DecisionKind.NO_TIME, value, facts)
        return Code.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED, why

    def draining(self) -> Refusal:
        """The gateway ends soon."""
        why = self._decide(DecisionKind.DRAINING, self._core.limits.drain)
        return Code.UNAVAILABLE, Reason.GATEWAY_DRAINING, why

    def missing(self, header: codec.Call) -> Refusal:
        """Nobody serves it, and nobody is expected to."""
        limits = self._core.limits
        code, reason, told = explain_call(self._core, header.service, header.method)
        kinds: dict[Reason, tuple[DecisionKind, float]] = {
            Reason.SERVICE_NOT_FOUND: (DecisionKind.SERVICE_MISSING, limits.service_wait),
            Reason.NO_INSTANCE: (DecisionKind.INSTANCE_MISSING, limits.service_memory),
        }
        kind, limit = kinds.get(reason, (DecisionKind.METHOD_MISSING, None))
        return code, reason, self._decide(kind, limit, {"told": told})


def _cycle(chain: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest piece at the chain's end that leads from a method back to itself."""
    last = len(chain) - 1
    before = max(index for index in range(last) if chain[index] == chain[last])
    return chain[before:]
