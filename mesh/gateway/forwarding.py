"""Passing a call on to the chosen instance: the payload untouched, the header rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import Code, Reason
from mesh.limits import LONGEST
from mesh.wire import codec
from mesh.wire.codec import UNVERIFIED
from mesh.wire.frames import MORE, Kind
from mesh_telemetry import Decision, DecisionKind

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.observing import Refusal
    from mesh.gateway.registry import Method
    from mesh.gateway.session import Session


def narrowed(entry: InFlight, method: Method, instances: list[Session]) -> None:
    """Note where of several instances of a method only one fits a call's version."""
    if len(instances) == 1 < len(method.instances):
        entry.picked = (len(method.instances),)


def hand_over(core: Core, entry: InFlight, callee: Session) -> None:
    """The callee serves this call from now on."""
    call_id = entry.id
    entry.callee = callee
    if callee.compared:  # only where there was a choice
        entry.picked, callee.compared = callee.compared, ()
    callee.serving[call_id] = entry
    if call_id > callee.last_issued:  # noqa: PLR1730 - max() costs as much as all of the above
        callee.last_issued = call_id
    if core.listeners:
        core.events.call_routed(entry, callee)


def forward(
    core: Core,
    entry: InFlight,
    callee: Session,
    header: codec.Call,
    flags: int,
    payload: bytes,
    now: float,
) -> None:
    """Queue the first, mostly only, frame of a call for its callee."""
    call_id = entry.id
    hand_over(core, entry, callee)
    parent = entry.parent
    left = entry.deadline - now
    if left > LONGEST:  # noqa: PLR1730 - min() costs more
        left = LONGEST
    timeout_us = int(left * 1e6) if left > 0.0 else 0
    fields = (
        call_id,
        parent.id if parent is not None else 0,
        entry.entry_id,
        timeout_us,
        entry.trace_id,
        entry.own_span.to_bytes(8, "big"),
        header.trace_flags,
        header.attempt,
        header.service,
        header.method,
        header.encoding,
        header.options if entry.verified else header.options | UNVERIFIED,
        header.metadata,
        entry.activity_id,
        entry.chain,
        core.instance,
        entry.caller.name,
        None,
    )
    if flags:
        entry.forwarded, entry.partial = 1, bool(flags & MORE)
        head = codec.head(Kind.CALL, fields, len(payload), flags)
        core.send_bulk(callee.link, call_id, head, payload)
    else:
        core.send(callee.link, codec.encode(Kind.CALL, fields, payload))


def forward_more(core: Core, entry: InFlight, callee: Session, flags: int, payload: bytes) -> None:
    """Queue a further frame of a long call."""
    entry.forwarded += 1
    entry.partial = bool(flags & MORE)
    head = codec.head(Kind.CALL, (entry.id,), len(payload), flags)
    core.send_bulk(callee.link, entry.id, head, payload)


def overloaded(core: Core, name: str, instances: list[Session]) -> Refusal:
    """Why none of the instances that serve a caller can take one more call."""
    limit = core.limits.max_in_flight
    for session in instances:
        if session.load < limit:
            return outbox_full(core, name, session)
    facts = {"call": name, "instances": len(instances)}
    decision = Decision(DecisionKind.OVERLOADED, core.clock(), limit, facts)
    return Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED, decision


def outbox_full(core: Core, name: str, callee: Session) -> Refusal:
    """Why the chosen instance cannot take one more frame."""
    link = callee.link
    facts = {"call": name, "callee": callee.name, "bytes": link.weight}
    decision = Decision(DecisionKind.OUTBOX_FULL, core.clock(), link.limit, facts)
    return Code.RESOURCE_EXHAUSTED, Reason.OUTBOX_FULL, decision
