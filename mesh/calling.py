"""Calls out: what a call inherits, how it travels, what becomes of it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

from mesh import context
from mesh.contracts.versions import check_version
from mesh.errors import CallError, Code, Reason, UsageError
from mesh.limits import LONGEST
from mesh.outgoing import GRACE
from mesh.payload import decode_result, encode_params, reader_of
from mesh.scopes import effective_deadline
from mesh.tracing import continued
from mesh.wire.codec import DETACHED, FORCED, IDEMPOTENT
from mesh.wire.codec import encode as encode_frame
from mesh.wire.frames import Kind
from mesh_telemetry.decision_forms import DecisionKind
from mesh_telemetry.decisions import Decision, Noted
from mesh_telemetry.peer_records import PeerRow
from mesh_telemetry.spans import CLIENT

if TYPE_CHECKING:
    from mesh.uplink import Uplink
    from mesh_telemetry.decision_forms import Facts

T = TypeVar("T")


class Caller:
    """The half of a peer that calls."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    @property
    def name(self) -> str:
        """What this peer is called, and the service that its methods belong to by default."""
        return self._uplink.name

    @overload
    async def call(
        self,
        service: str,
        method: str,
        params: object = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - travels with the call
        idempotent: bool = False,
        version: str | None = None,
    ) -> Any: ...

    @overload
    async def call(
        self,
        service: str,
        method: str,
        params: object = None,
        *,
        result: type[T],
        timeout: float | None = None,  # noqa: ASYNC109
        idempotent: bool = False,
        version: str | None = None,
    ) -> T: ...

    async def call(
        self,
        service: str,
        method: str,
        params: object = None,
        *,
        result: Any = Any,
        timeout: float | None = None,  # noqa: ASYNC109
        idempotent: bool = False,
        version: str | None = None,
    ) -> Any:
        """Call a method and return its result.

        Inside a handler, the call becomes a link of the handler's chain: it never outlives the call
        being served. Without a connection, or while a service is expected back, it waits; so does
        one that a gateway turns away since it shuts down.

        Args:
            service: The service's name.
            method: The method's name.
            params: Anything that `msgspec` encodes; where the peer's encoding is ``"raw"``, bytes.
            result: The type to decode the result into; plain data where none is named.
            timeout: Seconds until :class:`~mesh.DeadlineExceeded`; 30 by default, ``math.inf`` for
                none. An enclosing trio scope or the call being served may end it earlier.
            idempotent: Whether running it twice does no harm.
            version: Of the service's contract that this call is written for, such as ``"1.2.0"``:
                only an instance that serves such callers gets it. Any where None.

        Raises:
            CallError: It failed; the subclass tells how. Not raised where a trio cancel scope of
                the caller's set the limit: there that scope fires, as in all of trio.
            UsageError: The client is closed.
            ValueError: ``timeout`` is not a number of seconds, ``version`` not three numbers, or a
                name is too long.
            TypeError: A name or ``version`` is no text, or ``result`` no type that `msgspec` knows.
        """
        uplink = self._uplink
        parent = context.current.get()
        if uplink.leaving and (uplink.closed or parent is None):
            raise UsageError(f"client {self.name!r} is closed")
        try:
            target = name_of(service, method)
        except TypeError:  # what is not hashable is no text
            target = name_of.__wrapped__(service, method)
        if version is not None:
            check_version(version)
        try:
            encoding = uplink.encoding
            payload = encode_params(params, target, encoding)
        except CallError as failure:
            self._never_left(failure, parent, target, trio.current_time(), 0.0)
            raise
        read = None if result is Any else reader_of(result, encoding)
        now = began = uplink.clock()
        if timeout is None:
            timeout = uplink.call_timeout
        elif not timeout >= 0:
            raise ValueError(f"timeout must be seconds, 0 or more, not {timeout!r}")
        deadline = now + timeout
        detached = parent is not None and context.is_detached.get()
        if parent is not None and not detached and parent.deadline < deadline:
            deadline = parent.deadline
        task = trio.lowlevel.current_task()
        scope_deadline = effective_deadline(task)
        limit = deadline
        by_scope = scope_deadline <= deadline
        if by_scope:
            deadline = scope_deadline

        link, noted = uplink.link, None
        if link is None or not uplink.ready or link.queued >= link.limit:
            try:
                nested = parent is not None and not detached and parent.gateway == uplink.gateway
                awaited = await self._wait_ready(target, nested, deadline)
            except BaseException as failure:
                self._never_left(failure, parent, target, began, deadline, by_scope=by_scope)
                raise
            now = trio.current_time()
            if awaited is not None:
                noted = self._note(awaited, began, now)
        remaining = deadline - now
        if remaining <= 0:
            late = self._no_time_left(target, parent, max(0.0, deadline - began))
            self._never_left(late, parent, target, began, deadline)
            if by_scope:  # it fires now, unless it was extended meanwhile
                await trio.sleep(GRACE)
            raise late

        if len(payload) > uplink.max_message:
            too_large = _refused(
                Code.RESOURCE_EXHAUSTED,
                Reason.MESSAGE_TOO_LARGE,
                DecisionKind.TOO_LARGE,
                uplink.max_message,
                {"call": target, "bytes": len(payload)},
            )
            self._never_left(too_large, parent, target, began, deadline)
            raise too_large
        parent_id = entry_id = 0
        activity_id: str | None = None
        chain: tuple[str, ...] | None = None
        gateway: str | None = None
        options = IDEMPOTENT if idempotent else 0
        bits = uplink.process.random.getrandbits
        span = bits(64)
        trace_id, above, flags, metadata = continued(parent, bits)
        if parent is None:
            activity_id = context.current_activity.get()
            if context.is_traced.get():
                options |= FORCED
        else:
            parent_id = parent.call_id
            if detached:
                options |= DETACHED
            if detached or parent.gateway != uplink.gateway:
                # The gateway does not know the parent, or may not any more: tell all.
                activity_id, chain = parent.activity_id, parent.chain
                entry_id, gateway = parent.entry_id, parent.gateway
        outgoing = uplink.outgoing
        call_id = outgoing.last_id = outgoing.last_id + 1
        header: tuple[Any, ...] = (
            call_id,
            parent_id,
            entry_id,
            int((remaining if remaining < LONGEST else LONGEST) * 1e6),  # noqa: FURB136 - min() costs more
            trace_id,
            span.to_bytes(8, "big"),
            flags,
            1,
            service,
            method,
            encoding,
            options,
            metadata,
            activity_id,
            chain,
            gateway,
            None,
            None,
            version,
        )
        if len(payload) <= uplink.max_chunk:
            uplink.send(encode_frame(Kind.CALL, header, payload))
            frames = 0
        else:
            frames = uplink.send_long(call_id, Kind.CALL, header, payload)
        scope_at = deadline if by_scope else None
        pending = (task, target, remaining, frames, scope_at, trace_id)
        try:
            came, answer = await trio.lowlevel.wait_task_rescheduled(
                outgoing.park(call_id, limit, pending)
            )
        except BaseException as failure:
            if uplink.recording:
                parent_span = above.to_bytes(8, "big") if above else b""
                allowed = deadline - began
                made = (trace_id, uplink.source, CLIENT, span, parent_span, target, allowed, began)
                uplink.record_failure(made, activity_id, parent, failure, scope_at, noted)
            if not isinstance(failure, CallError):
                raise
            inside = parent is not None and not detached and parent.gateway == uplink.gateway
            if not inside and _is_turned_away(failure, uplink):
                return await self.call(
                    service,
                    method,
                    params,
                    result=result,
                    timeout=max(0.0, limit - uplink.clock()),
                    idempotent=idempotent,
                    version=version,
                )
            _locate(failure, parent, target)
            if uplink.listeners:
                uplink.feed.response_received(
                    service, method, now, str(failure.code), failure.reason
                )
            raise
        if uplink.recording:
            records = uplink.records
            here: tuple[str, ...] = ()
            if parent is not None:
                activity_id, here = parent.activity_id, records.share(parent.chain)
            records.add(
                PeerRow(
                    trace_id,
                    uplink.source,
                    CLIENT,
                    span,
                    above.to_bytes(8, "big") if above else b"",
                    target,
                    deadline - began,
                    began,
                    uplink.heard_at,
                    0,
                    "",
                    "",
                    "",
                    activity_id,
                    here,
                    uplink.name,
                    1,
                    noted,
                )
            )
        if uplink.listeners:
            uplink.feed.response_received(service, method, now, "ok", "")
        if came != encoding:  # what was prepared is for another
            read = None
        return decode_result(answer, came, result, target, read)

    def _never_left(
        self,
        failure: BaseException,
        parent: context.Call | None,
        target: str,
        began: float,
        deadline: float,
        *,
        by_scope: bool = False,
    ) -> None:
        """Say of a call that failed on this side where in the chain it did, and record it."""
        if isinstance(failure, CallError):
            _locate(failure, parent, target)
        uplink = self._uplink
        if not uplink.recording:
            return
        bits = uplink.process.random.getrandbits
        trace_id, above, _, _ = continued(parent, bits)
        allowed = max(0.0, deadline - began)
        parent_span = above.to_bytes(8, "big") if above else b""
        made = (trace_id, uplink.source, CLIENT, bits(64), parent_span, target, allowed, began)
        noted: Noted | None = None
        if isinstance(failure, CallError) and "decision" in failure.details:
            noted = Noted(began, (Decision.read(failure.details, trio.current_time()),))
        activity = context.current_activity.get() if parent is None else parent.activity_id
        scope_at = deadline if by_scope else None
        uplink.record_failure(made, activity, parent, failure, scope_at, noted)

    def _no_time_left(self, target: str, parent: context.Call | None, allowed: float) -> CallError:
        serves = f", which serves {parent.chain[-1]}," if parent is not None else ""
        return _refused(
            Code.DEADLINE_EXCEEDED,
            Reason.DEADLINE_EXCEEDED,
            DecisionKind.LEFT_NO_TIME,
            round(allowed, 4),
            {"call": target, "caller": f"{self.name}{serves}"},
        )

    def _note(self, awaited: DecisionKind, began: float, now: float) -> Noted:
        """What a call waited for before it left."""
        limits = {
            DecisionKind.CONNECTION_AWAITED: self._uplink.service_wait,
            DecisionKind.ROOM_AWAITED: self._uplink.limits.max_outbox,
        }
        facts = {"waited_ms": round((now - began) * 1e3, 3)}
        return Noted(began, (Decision(awaited, now, limits[awaited], facts),))

    async def _wait_ready(
        self,
        target: str,
        nested: bool,  # noqa: FBT001
        deadline: float,
    ) -> DecisionKind | None:
        """Wait for a connection, or for room in its outbox; at most until the call's deadline.

        Returns:
            What was waited for; None where it was there.
        """
        uplink = self._uplink
        if nested and uplink.is_connected and not _is_congested(uplink):
            return None  # a gateway that drains still takes what belongs to calls in flight
        until = min(deadline, trio.current_time() + uplink.service_wait)
        with trio.move_on_at(until):
            await uplink.wait_ready()
            until = deadline
        if uplink.ready and _is_congested(uplink):
            with trio.move_on_at(deadline):
                await uplink.wait_room()
            if uplink.link is None:  # lost meanwhile: the next one is waited for
                return await self._wait_ready(target, nested, deadline)
            return DecisionKind.ROOM_AWAITED
        if not uplink.ready and trio.current_time() < deadline:
            raise _refused(
                Code.UNAVAILABLE,
                Reason.GATEWAY_UNREACHABLE,
                DecisionKind.UNREACHABLE,
                uplink.service_wait,
                {"call": target, "told": uplink.explain_unreachable()},
            )
        return DecisionKind.CONNECTION_AWAITED


@lru_cache(maxsize=1024)
def name_of(service: object, method: object) -> str:
    """The fully qualified method, of names that a header can carry; cheap for those seen before."""
    if not (isinstance(service, str) and isinstance(method, str)):
        raise TypeError(f"service {service!r} and method {method!r} must be text")
    if len(service) > 128 or len(method) > 128:
        raise ValueError(f"{service[:40]!r}, {method[:40]!r}: names have at most 128 characters")
    # Members of enums that are text are equal to it, and remembered as it is: told alike, too.
    return service + "." + method


def _is_turned_away(failure: CallError, uplink: Uplink) -> bool:
    """Whether a call goes to the next gateway: this one said goodbye, and has not passed it on."""
    return (
        failure.reason == Reason.GATEWAY_DRAINING
        and not failure.maybe_executed
        and not uplink.ready
        and uplink.reconnects
        and not uplink.leaving
    )


def _is_congested(uplink: Uplink) -> bool:
    return uplink.link is not None and uplink.link.queued >= uplink.link.limit


def _locate(failure: CallError, parent: context.Call | None, target: str) -> None:
    """Say of an error of this side's own where in the chain it happened."""
    if not failure.chain:
        failure.chain = (*parent.chain, target) if parent is not None else (target,)
        activity = context.current_activity.get() or ""
        failure.activity_id = parent.activity_id if parent is not None else activity


def _refused(
    code: Code, reason: Reason, kind: DecisionKind, value: float | None, facts: Facts
) -> CallError:
    """The error of a call that does not leave this side, with what was decided."""
    why = Decision(kind, trio.current_time(), value, facts)
    return CallError.of(code, why.text, reason=reason, details=why.details(), maybe_executed=False)
