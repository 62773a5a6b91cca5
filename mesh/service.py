"""Calls in: handlers, and the workers that run them.

A worker task is parked and used again, its context swapped for each call; it has one cancel scope
for its life, fired by a deadline or a CANCEL, and a worker whose scope has fired is thrown away.
Spawning a task and a scope for every call instead costs 12 us a call.
"""

from __future__ import annotations

import contextvars
import logging
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
import outcome
import trio

from mesh import context
from mesh.errors import CallError, Code, Reason
from mesh.groups import sole
from mesh.handlers import Handler
from mesh.payload import EncodingFault, decode, encode, encode_details
from mesh.timers import Timers
from mesh.wire import codec
from mesh.wire.codec import BY_DEADLINE, BY_DISCONNECT, MAYBE_EXECUTED, MSGPACK, UNVERIFIED
from mesh.wire.frames import Kind
from mesh_telemetry.current import CallContext, enter
from mesh_telemetry.peer_records import PeerRow
from mesh_telemetry.spans import SERVER

if TYPE_CHECKING:
    from mesh.uplink import Uplink

log = logging.getLogger("mesh.service")

REASON_KEPT, MESSAGE_KEPT = 128, 500
"""Characters of a failure's message that are recorded."""

IDLE_WORKERS = 256
"""Parked workers kept; a burst above this spawns and ends its own."""


class Worker:
    """A task that runs handlers, one after the other."""

    __slots__ = ("call", "reason", "scope", "task")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None
        self.reason = 0
        self.call: context.Call | None = None


Job = tuple["context.Call", CallContext, Handler, int, bytes, float]
"""The call, its OpenTelemetry context, its handler, the payload's encoding, the payload, when it
arrived."""


class Dispatcher:
    """Runs the handlers of one peer.

    Args:
        uplink: Where answers go.
        max_threads: Threads for plain functions.
    """

    def __init__(self, uplink: Uplink, max_threads: int) -> None:
        self._uplink = uplink
        self.handlers: dict[tuple[str, str], Handler] = {}
        self.serving: dict[int, Worker] = {}
        self._idle: list[Worker] = []
        self.limiter = trio.CapacityLimiter(max_threads)
        self._base = contextvars.copy_context()
        # What the program does around `connect` is no part of the calls that it serves.
        self._base.run(context.clear)
        self._nursery: trio.Nursery | None = None
        self._no_work: trio.Event | None = None
        self._timers = Timers(self.serving, self._expire)
        self._draw = uplink.process.random.getrandbits
        self._clock = uplink.clock

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep the workers' nursery open until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._timers.run)
            task_status.started()

    # From the reader: synchronous.

    def dispatch(self, header: codec.Call, payload: bytes) -> bool:
        """Hand a whole call to a worker; false if it was answered at once instead."""
        handler = self.handlers.get((header.service, header.method))
        now = self._clock()
        if handler is None:
            name = f"{header.service}.{header.method}"
            refused = codec.refusal(
                header.call_id,
                Code.UNIMPLEMENTED.number,
                Reason.METHOD_NOT_FOUND,
                f"{self._uplink.name} no longer serves {name}",
            )
            self._uplink.send(codec.encode_header(refused))
            self.record_refusal(header, refused)
            return False
        chain = tuple(header.chain or (f"{header.service}.{header.method}",))
        call = context.Call(
            header.service,
            header.method,
            header.activity_id or header.trace_id.hex(),
            chain,
            now + header.timeout_us * 1e-6,
            header.caller or "",
            header.metadata or {},
            header.attempt,
            header.call_id,
            header.entry_id,
            header.gateway or "",
            header.trace_id,
            header.span_id,
            header.trace_flags,
            not header.options & UNVERIFIED,
            header.principal,
            self._draw(64),
        )
        surroundings = CallContext(call.trace_id, call.own_span, call.trace_flags, call.metadata)
        job: Job = (call, surroundings, handler, header.encoding, payload, now)
        fresh = self._base.copy()
        fresh.run(_enter, call, surroundings)
        if self._idle:
            worker = self._idle.pop()
            task = worker.task
            assert task is not None  # noqa: S101 - a parked worker has run
            self.serving[header.call_id] = worker
            task.context = fresh
            trio.lowlevel.reschedule(task, outcome.Value(job))
        else:
            worker = Worker()
            self.serving[header.call_id] = worker
            assert self._nursery is not None  # noqa: S101 - frames arrive while it is open
            fresh.run(self._nursery.start_soon, self._work, worker, job)
        self._timers.add(call.deadline, header.call_id)
        return True

    def cancel(self, call_id: int, reason: int) -> None:
        """Stop a call's handler. Unknown ids have ended already."""
        worker = self.serving.get(call_id)
        if worker is not None and not worker.scope.cancel_called:
            worker.reason = reason
            worker.scope.cancel()

    def orphan(self) -> None:
        """The connection is lost: stop every handler, as nobody can hear their answers.

        What they still answer is dropped: on the next connection, the same ids mean other calls.
        """
        for call_id in list(self.serving):
            self.cancel(call_id, BY_DISCONNECT)
        self.serving.clear()
        self._timers.clear()
        if self._no_work is not None:
            self._no_work.set()

    async def wait_idle(self) -> None:
        """Return once no handler runs."""
        if self.serving:
            self._no_work = trio.Event()
            await self._no_work.wait()

    def _expire(self, call_id: int) -> None:
        self.cancel(call_id, BY_DEADLINE)

    # Workers.

    async def _work(self, worker: Worker, job: Job) -> None:
        task = worker.task = trio.lowlevel.current_task()
        try:
            await self._work_on(worker, task, job)
        except RuntimeError as fault:
            if "Cancel scope stack corrupted" not in str(fault):
                raise
            # Told already, with the handler's name. This worker ends, and no other suffers.

    async def _work_on(self, worker: Worker, task: trio.lowlevel.Task, job: Job) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            # At once, and not when the task runs: the reader may dispatch before that.
            self._idle.remove(worker)
            return trio.lowlevel.Abort.SUCCEEDED

        with worker.scope:
            clean = task._cancel_status
            while True:
                await self._execute(worker, job)
                if task._cancel_status is not clean:
                    log.error(
                        "handler of %s has left a cancel scope or nursery open, perhaps in an "
                        "async generator that it did not close; its worker is thrown away",
                        job[0].chain[-1],
                    )
                    return
                if worker.scope.cancel_called or len(self._idle) >= IDLE_WORKERS:
                    return
                self._idle.append(worker)
                job = await trio.lowlevel.wait_task_rescheduled(abort)

    async def _execute(self, worker: Worker, job: Job) -> None:
        call, _, handler, encoding, payload, arrived = job
        call_id = call.call_id
        failure: BaseException | None = None
        try:
            if handler.takes_params:
                params = decode(payload, encoding, handler.params_type)
                arguments: tuple[Any, ...] = (params,)
            else:
                arguments = ()
            if handler.in_thread:
                value = await trio.to_thread.run_sync(
                    handler.function, *arguments, limiter=self.limiter, abandon_on_cancel=True
                )
            else:
                value = await handler.function(*arguments)
            answer = encode(value, encoding)
        except (msgspec.MsgspecError, RecursionError) as fault:
            failure = self._undecodable(call, payload, encoding, handler, fault)
        except EncodingFault as fault:
            failure = CallError.of(
                Code.INTERNAL,
                f"result of {call.chain[-1]} cannot be encoded: {fault}",
                reason=Reason.UNENCODABLE,
            )
        except BaseException as fault:  # noqa: BLE001 - reported, and raised where it must be
            failure = fault
        uplink = self._uplink
        if self.serving.get(call_id) is worker:
            del self.serving[call_id]
        else:  # orphaned: its connection is lost, and nobody is told but the trace
            lost = Reason.CONNECTION_LOST
            why = f"the connection was lost while {call.chain[-1]} was served"
            now = trio.current_time()
            self._record(job, now, Code.CANCELLED.number, lost, why, "")
            if isinstance(failure, trio.Cancelled):
                raise failure
            return
        if self._no_work is not None and not self.serving:
            self._no_work.set()
        if failure is None and len(answer) > uplink.max_message:
            failure = CallError.of(
                Code.RESOURCE_EXHAUSTED,
                f"result of {call.chain[-1]}, {len(answer):,} bytes, exceeds max_message of "
                f"{uplink.max_message:,}",
                reason=Reason.MESSAGE_TOO_LARGE,
            )
        ended = self._clock()
        elapsed = int((ended - arrived) * 1e6)
        if uplink.listeners:
            told = _single(failure)[0] if isinstance(failure, BaseExceptionGroup) else failure
            late = worker.reason == BY_DEADLINE
            uplink.feed.method_executed(uplink.name, call, told, elapsed / 1e6, late=late)
        if failure is None:
            self._record(job, ended, 0, "", "", "")
            uplink.answer(call_id, Kind.RESULT, (call_id, encoding, elapsed, 1, None, None), answer)
        else:
            try:
                self._report(worker, job, failure, elapsed)
            except Exception as fault:
                # An error that cannot even be told, as its text raises or it was never initialised.
                log.exception("the failure of %s cannot be told", call.chain[-1])
                untold = f"{type(failure).__qualname__}, whose text raised {type(fault).__name__}"
                code = failure.code if isinstance(failure, CallError) else Code.UNKNOWN
                self._fail(job, Code(code), Reason.HANDLER_FAILED, untold, elapsed=elapsed)
        link = uplink.link
        if link is not None and link.queued >= link.limit and not worker.scope.cancel_called:
            await uplink.wait_room()

    def _undecodable(
        self, call: context.Call, payload: bytes, encoding: int, handler: Handler, fault: Exception
    ) -> BaseException:
        """A decoding error of the parameters is the caller's fault; any other, the handler's."""
        try:
            decode(payload, encoding, handler.params_type)
        except (msgspec.MsgspecError, RecursionError) as own:
            return CallError.of(
                Code.INVALID_ARGUMENT,
                f"parameters of {call.chain[-1]}: {own}",
                reason=Reason.UNDECODABLE,
                maybe_executed=False,
            )
        return fault

    def _report(self, worker: Worker, job: Job, failure: BaseException, elapsed: int) -> None:
        """Answer a call whose handler did not return, then let on what is not the handler's."""
        call = job[0]
        name = call.chain[-1]
        fatal: BaseException | None = None
        if isinstance(failure, BaseExceptionGroup):
            failure, fatal = _single(failure)
        if isinstance(failure, trio.Cancelled):
            deadline = worker.reason == BY_DEADLINE
            self._fail(
                job,
                Code.DEADLINE_EXCEEDED if deadline else Code.CANCELLED,
                Reason.DEADLINE_EXCEEDED if deadline else Reason.HANDLER_CANCELLED,
                f"the handler of {name} was cancelled",
                elapsed=elapsed,
            )
            raise failure
        if isinstance(failure, CallError):
            self._fail(
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
            self._fail(
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

    def _fail(
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
        call_id = job[0].call_id
        told = message.removeprefix(f"{exception}: ") if exception else message
        now = trio.current_time()
        self._record(job, now, code.number, str(reason)[:REASON_KEPT], told, exception or "")
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
            exception and _clip(exception, 256),
            trace and _clip(trace, max_header // 4),
            [_clip(link, 300) for link in chain[-32:]] or None,
            None,
            elapsed,
            1,
            None,
        )
        self._uplink.answer(call_id, Kind.ERROR, header, details)

    def record_refusal(self, header: codec.Call, refused: codec.Error) -> None:
        """Record a call that no handler has seen."""
        if not self._uplink.recording:
            return
        now = trio.current_time()
        name = f"{header.service}.{header.method}"
        self._uplink.records.add(
            PeerRow(
                header.trace_id,
                self._uplink.name,
                SERVER,
                self._draw(64),
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

    def _record(
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
            self._uplink.name,
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


def _clip(text: str, size: int) -> str:
    """The text, or its two ends: headers are bounded, and the last lines of a traceback matter."""
    data = text.encode(errors="replace")
    if len(data) <= size:
        return data.decode()
    half = size // 2 - 8
    return f"{data[:half].decode(errors='ignore')} [...] {data[-half:].decode(errors='ignore')}"


def _enter(call: context.Call, surroundings: CallContext) -> None:
    """Make a call the current one, for the mesh and for OpenTelemetry."""
    context.current.set(call)
    enter(surroundings)


def _single(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException, BaseException | None]:
    """What to report of a group: its only failure if it has one; and what must be raised on."""
    failure = sole(group)
    cancelled, rest = group.split(trio.Cancelled)
    must_raise = sole(cancelled) if cancelled is not None and rest is not None else None
    return failure if failure is not None else rest or group, must_raise
