"""The oracle: whether what callers were told is true, in time, and once.

It knows every call from both ends and every fault, and nothing of how the mesh works inside. Each
rule is a method that complains; rules that ask for promptness are kept to undisturbed times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mesh
from mesh.errors import Reason
from mesh.groups import sole
from mesh.outgoing import GRACE
from tests.simulation.ledger import check_records
from tests.simulation.plan import FICKLE

if TYPE_CHECKING:
    from tests.simulation.record import Execution, Placed
    from tests.simulation.world import World

ROUNDING = 1e-4
"""Seconds: deadlines travel in whole microseconds, and lose part of one at every hop."""

PROMPT = 0.3
"""Seconds within which news passes through an undisturbed mesh; 0.1 is the most seen."""

FAR = 1e6
"""A deadline beyond this is none."""


class Case(NamedTuple):
    """A failed call, seen from both ends."""

    placed: Placed
    error: mesh.CallError
    run: Execution | None


class Oracle:
    """Judges one world after its run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chronicle = world.chronicle

    def judge(self) -> None:
        """Apply every rule to everything that happened."""
        for tag, runs in self._chronicle.executions.items():
            if len(runs) > 1:
                self._complain(tag, f"ran {len(runs)} times")
            for each in runs:
                self._judge_handler(each)
        for placed in self._chronicle.placed.values():
            run = self._chronicle.execution(placed.node.tag)
            self._judge_time(placed)
            if placed.how == "ok":
                self._judge_success(placed, run)
            elif placed.error is not None:
                self._judge_error(placed, placed.error, run)
            if run is not None:
                self._judge_promptness(placed, run)
        check_records(self._world)

    def _complain(self, tag: int, what: str) -> None:
        node = self._world.nodes[tag]
        self._chronicle.complain(f"call {tag} to {node.name} ({node.mode}, {node.finish}): {what}")

    # What handlers saw.

    def _judge_handler(self, run: Execution) -> None:
        tag, call, limits = run.node.tag, run.call, self._world.limits
        placed = self._chronicle.placed[tag]
        true_chain = self._chain(placed)
        if call.chain != true_chain:
            self._complain(tag, f"its handler saw the chain {call.chain}, not {true_chain}")
        if call.depth > limits.max_depth:
            self._complain(tag, f"ran at depth {call.depth} of {limits.max_depth}")
        if call.chain.count(run.node.name) > limits.max_visits and len(call.chain) > 1:
            self._complain(tag, f"ran as visit {call.chain.count(run.node.name)}")
        if call.caller != placed.host.name:
            self._complain(tag, f"its handler saw the caller {call.caller}")
        expected = run.node.activity
        if placed.parent is not None:
            above = placed.parent.call
            expected = above.activity_id
            if call.trace_id != above.trace_id:
                self._complain(tag, "left the trace of its parent")
            if call.gateway == above.gateway and call.entry_id != above.entry_id:
                self._complain(tag, f"has entry {call.entry_id}, its parent {above.entry_id}")
        elif expected is None:
            expected = call.trace_id.hex()
        if call.activity_id != expected:
            self._complain(tag, f"its handler saw activity {call.activity_id}, not {expected}")
        if run.how != "running" and call.deadline < FAR:
            latest = max(call.deadline, run.shielded_until) + ROUNDING
            if run.ended > latest:
                self._complain(
                    tag, f"its handler ended {run.ended - call.deadline:.3f} s after its deadline"
                )

    def _chain(self, placed: Placed) -> tuple[str, ...]:
        above: tuple[str, ...] = ()
        if placed.parent is not None:
            above = self._chain(self._chronicle.placed[placed.parent.node.tag])
        return (*above, placed.node.name)

    # What callers saw.

    def _judge_time(self, placed: Placed) -> None:
        tag = placed.node.tag
        late = placed.ended - placed.due
        if placed.how == "open":
            return
        if late > GRACE + ROUNDING:
            self._complain(tag, f"ended {late:.3f} s after it was due ({placed.how})")
        if placed.by_scope and placed.how == "ok" and late > ROUNDING:
            self._complain(tag, "succeeded after the scope of its caller should have fired")

    def _judge_success(self, placed: Placed, run: Execution | None) -> None:
        tag = placed.node.tag
        if run is None:
            self._complain(tag, "succeeded, and no handler ran")
        elif run.how != "returned" or run.value != placed.value:
            self._complain(
                tag, f"returned {_short(placed.value)}; its handler {run.how} {_short(run.value)}"
            )
        elif run.ended > placed.ended:
            self._complain(tag, "succeeded before its handler had ended")

    def _judge_error(self, placed: Placed, error: mesh.CallError, run: Execution | None) -> None:
        tag = placed.node.tag
        own = run is not None and self._is_own(error, run)
        if not error.maybe_executed and run is not None:
            self._complain(tag, f"claims not to have run, and did: {error!r}")
        if own:
            return
        rule = getattr(self, f"_is_{error.reason.lower()}", None)
        if rule is None:
            self._complain(tag, f"failed for no known reason: {error!r}")
        elif not rule(Case(placed, error, run)):
            state = "did not run" if run is None else run.how
            self._complain(tag, f"failed untruly (its handler {state}): {error!r}")

    def _is_own(self, error: mesh.CallError, run: Execution) -> bool:
        """Whether it is what the handler itself raised."""
        raised = run.error
        if isinstance(raised, BaseExceptionGroup):
            raised = sole(raised)
        if run.how != "raised":
            return False
        if isinstance(raised, mesh.CallError):
            chain = raised.chain or run.call.chain
            return (error.code, error.reason, error.message, error.chain) == (
                raised.code, raised.reason, raised.message, chain)  # fmt: skip
        return error.reason == Reason.HANDLER_FAILED and error.code == "unknown"

    # The rules, one per reason. Each says whether it can be true.

    def _is_deadline_exceeded(self, case: Case) -> bool:
        if case.placed.by_scope and case.placed.ended < case.placed.due - GRACE - ROUNDING:
            return False
        return (
            case.error.code == "deadline_exceeded"
            and case.placed.ended >= case.placed.earliest - ROUNDING
        )

    def _is_service_not_found(self, case: Case) -> bool:
        return case.run is None and (
            case.placed.node.target == "no_service" or self._may_be_missing(case.placed)
        )

    def _is_method_not_found(self, case: Case) -> bool:
        return case.run is None and (
            case.placed.node.target == "no_method" or self._may_be_missing(case.placed)
        )

    def _is_no_instance(self, case: Case) -> bool:
        return case.run is None and self._may_be_missing(case.placed)

    def _may_be_missing(self, placed: Placed) -> bool:
        """Whether the service or method may not have been there at some time during the call."""
        if placed.node.method == FICKLE:
            return True
        return placed.disturbed_until > placed.started

    def _is_depth_exceeded(self, case: Case) -> bool:
        return case.run is None and len(self._chain(case.placed)) > self._world.limits.max_depth

    def _is_loop_detected(self, case: Case) -> bool:
        visits = self._chain(case.placed).count(case.placed.node.name)
        return case.run is None and visits > self._world.limits.max_visits

    def _is_parent_ended(self, case: Case) -> bool:
        if case.placed.parent is None or case.placed.detached:
            return False
        above = self._chronicle.placed[case.placed.parent.node.tag]
        ended = min(above.ended or FAR, case.placed.parent.ended or FAR, above.due)
        return ended <= case.placed.ended or self._disturbed(case.placed)

    def _disturbed(self, placed: Placed) -> bool:
        return placed.disturbed_until > placed.started

    def _is_overloaded(self, case: Case) -> bool:
        return case.run is None and self._world.limits.max_in_flight < 100

    def _is_outbox_full(self, _: Case) -> bool:
        return self._world.limits.max_outbox < 2**20

    def _is_waiting_full(self, case: Case) -> bool:
        limits = self._world.limits
        return case.run is None and (limits.max_outbox < 2**20 or limits.max_waiting < 100)

    def _is_message_too_large(self, case: Case) -> bool:
        limits, node = self._world.limits, case.placed.node
        if max(node.pad, node.reply_pad) + 100 > limits.max_message:
            return True
        large = max(node.pad, node.reply_pad) + 100 > limits.max_chunk
        return large and limits.max_assembly < 2**20

    def _is_connection_lost(self, case: Case) -> bool:
        """Only by violence, or where the goodbye of one end took longer than its drain."""
        placed, drain = case.placed, self._world.limits.drain
        ends = [placed.host] if case.run is None else [placed.host, case.run.host]
        overdue = any(end.left_at + drain <= placed.ended + ROUNDING for end in ends)
        return placed.lossy_until > placed.started or overdue

    def _is_gateway_unreachable(self, case: Case) -> bool:
        return self._disturbed(case.placed)

    _is_gateway_draining = _is_gateway_unreachable

    def _is_handler_cancelled(self, case: Case) -> bool:
        return case.run is not None and case.run.how == "cancelled" and self._disturbed(case.placed)

    def _is_unencodable(self, case: Case) -> bool:
        if case.error.code == "invalid_argument":
            return case.placed.node.target == "bad_params" and case.run is None
        return (
            case.placed.node.finish == "unencodable"
            and case.run is not None
            and case.run.how == "returned"
        )

    def _is_undecodable(self, case: Case) -> bool:
        if case.error.code == "invalid_argument":
            return case.placed.node.target == "typed" and case.run is None
        return case.placed.node.wants_int and case.run is not None and case.run.how == "returned"

    # News travels.

    def _judge_promptness(self, placed: Placed, run: Execution) -> None:
        tag = placed.node.tag
        disturbed = bool(self._world.plan.faults) and placed.disturbed_until > placed.started
        if disturbed or placed.how == "open" or run.how == "running":
            return
        if run.how != "cancelled" and placed.ended - run.ended > PROMPT:
            self._complain(
                tag,
                f"ended {placed.ended - run.ended:.3f} s after its handler {run.how}: {placed.how}",
            )
        late = run.ended - max(placed.ended, run.shielded_until, run.started)
        if late > PROMPT and not self._world.plan.faults:
            self._complain(tag, f"its handler ran on for {late:.3f} s after its caller had gone")
        if run.how == "cancelled" and placed.how == "ok":
            self._complain(tag, "was cancelled and succeeded")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:80]}..."
