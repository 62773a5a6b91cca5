"""What becomes of the calls that a peer serves: answers to failures, and records."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import trio

from mesh.errors import CallError, Code, Reason
from mesh.groups import sole
from mesh.handlers import Handler
from mesh.payload import encode, encode_details, tell_misfit
from mesh.wire.codec import BY_DEADLINE, MAYBE_EXECUTED, MSGPACK, RAW
from mesh.wire.frames import Kind
from mesh_telemetry.current import CallContext
from mesh_telemetry.peer_records import PeerRow
from mesh_telemetry.spans import SERVER

if TYPE_CHECKING:
    from mesh import context
    from mesh.uplink import Uplink
    from mesh.wire import codec

log = logging.getLogger("mesh.service")

REASON_KEPT, MESSAGE_KEPT, EXCEPTION_KEPT = 128, 500, 256
"""Characters of a failure's reason, message and type of exception that are recorded."""

Job = tuple["context.Call", CallContext, Handler, int, bytes, float]
"""The call, its OpenTelemetry context, its handler, the payload's encoding, the payload, when it
arrived."""


class Outcomes:
    """Tells the caller of a failed call, and the records of every one, what became of it."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    def report(self, job: Job, failure: BaseException, cancelled: int, elapsed: int) -> None:
        """Answer a call whose handler did not return, then let on what is not the handler's.

        Args:
            job: The call.
            failure: What its handler raised.
            cancelled: Why its scope was fired, by its number on the wire, if so.
            elapsed: Microseconds that it took.
        """
        call = job[0]
        name = call.chain[-1]
        fatal: BaseException | None = None
        if isinstance(failure, BaseExceptionGroup):
            failure, fatal = single(failure)
        if isinstance(failure, trio.Cancelled):
            deadline = cancelled == BY_DEADLINE
            self.fail(
                job,
                Code.DEADLINE_EXCEEDED if deadline else Code.CANCELLED,
                Reason.DEADLINE_EXCEEDED if deadline else Reason.HANDLER_CANCELLED,
                f"the handler of {name} was cancelled",
                elapsed=elapsed,
            )
            raise failure
        if isinstance(failure, CallError):
            job[2].raised(failure)
            self.fail(
                job,
                failure.code,
                failure.reason,
                failure.message,
                details=encode_details(failure),
                chain=failure.chain,
                maybe_executed=failure.maybe_executed or len(failure.chain) > len(call.chain),
                elapsed=elapsed,
            )
        else:
            kind = f"{type(failure).__module__}.{type(failure).__qualname__}".removeprefix(
                "builtins."
            )
            trace = "".join(traceback.format_exception(failure))
            log.error(
                "handler of %s raised %s [%s; activity %s; called by %s]",
                name,
                kind,
                " > ".join(call.chain),
                call.activity_id,
                call.caller,
                exc_info=failure,
            )
            self.fail(
                job,
                Code.UNKNOWN,
                Reason.HANDLER_FAILED,
                f"{kind}: {failure}",
                exception=kind,
                trace=trace if self._uplink.sends_tracebacks else None,
                elapsed=elapsed,
            )
            if not isinstance(failure, Exception):
                raise failure
        if fatal is not None:
            raise fatal

    def fail(
        self,
        job: Job,
        code: Code,
        reason: str,
        message: str,
        *,
        details: bytes = b"",
        chain: tuple[str, ...] = (),
        exception: str | None = None,
        trace: str | None = None,
        maybe_executed: bool = True,
        elapsed: int = 0,
    ) -> None:
        """Answer a call with an error, and record it."""
        call_id = job[0].call_id
        told = message.removeprefix(f"{exception}: ") if exception else message
        now = trio.current_time()
        kind = (exception or "")[:EXCEPTION_KEPT]
        self.record(job, now, code.number, str(reason)[:REASON_KEPT], told, kind)
        if len(details) > self._uplink.max_message:
            details = encode({"details": f"lost: {len(details):,} bytes exceed max_message"})
        max_header = self._uplink.max_header
        header = (
            call_id,
            code.number,
            _clip(str(reason), 128),
            _clip(message, max_header // 8),
            MAYBE_EXECUTED if maybe_executed else 0,
            MSGPACK,
            exception and _clip(exception, EXCEPTION_KEPT),
            trace and _clip(trace, max_header // 4),
            [_clip(link, 300) for link in chain[-32:]] or None,
            None,
            elapsed,
            1,
            None,
        )
        self._uplink.answer(call_id, Kind.ERROR, header, details)

    def refused(self, header: codec.Call, refused: codec.Error) -> None:
        """Record a call that no handler has seen."""
        if not self._uplink.recording:
            return
        now = trio.current_time()
        name = f"{header.service}.{header.method}"
        self._uplink.records.add(
            PeerRow(
                header.trace_id,
                self._uplink.source,
                SERVER,
                self._uplink.process.random.getrandbits(64),
                header.span_id,
                name,
                header.timeout_us * 1e-6,
                now,
                now,
                refused.code,
                refused.reason,
                refused.message,
                "",
                header.activity_id,
                tuple(header.chain or (name,)),
                header.caller or "",
                header.attempt,
                None,
            )
        )

    def record(
        self, job: Job, ended: float, code: int, reason: str, message: str, exception: str
    ) -> None:
        """Record a call that is about to be answered."""
        call, surroundings, _, _, _, arrived = job
        touched = surroundings.finish()
        if not self._uplink.recording:
            return
        records = self._uplink.records
        chain = records.share(call.chain)
        row = PeerRow(
            call.trace_id,
            self._uplink.source,
            SERVER,
            call.own_span,
            call.span_id,
            chain[-1],
            call.deadline - arrived,
            arrived,
            ended,
            code,
            reason,
            message[:MESSAGE_KEPT],
            exception,
            call.activity_id,
            chain,
            call.caller,
            call.attempt,
            touched,
        )
        if touched is None:
            records.add(row)
        else:
            records.add_touched(row, touched)


def undecodable(call: context.Call, encoding: int, fault: Exception) -> CallError:
    """What a caller is told whose parameters are none of the method."""
    why = tell_misfit(fault)
    if encoding == RAW:
        why = f"they came as bare bytes (encoding='raw'); call it with 'msgpack' or 'json': {why}"
    return CallError.of(
        Code.INVALID_ARGUMENT,
        f"parameters of {call.chain[-1]}: {why}",
        reason=Reason.UNDECODABLE,
        maybe_executed=False,
    )


def _clip(text: str, size: int) -> str:
    """The text, or its two ends: headers are bounded, and the last lines of a traceback matter."""
    data = text.encode(errors="replace")
    if len(data) <= size:
        return data.decode()
    half = size // 2 - 8
    return f"{data[:half].decode(errors='ignore')} [...] {data[-half:].decode(errors='ignore')}"


def single(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException, BaseException | None]:
    """What to report of a group: its only failure if it has one; and what must be raised on."""
    failure = sole(group)
    cancelled, rest = group.split(trio.Cancelled)
    must_raise = sole(cancelled) if cancelled is not None and rest is not None else None
    return failure if failure is not None else rest or group, must_raise
