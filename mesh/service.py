"""Calls in: handlers, and the workers that run them.

A worker task is parked and used again, its context swapped for each call; it has one cancel scope
for its life, fired by a deadline or a CANCEL, and a worker whose scope has fired is thrown away.
Spawning a task and a scope for every call instead costs 12 us a call.
"""

from __future__ import annotations

import contextvars
import logging
from typing import TYPE_CHECKING, Any

import trio

from mesh import context
from mesh.errors import CallError, Code, Reason
from mesh.loglines import kept_from
from mesh.outcomes import Job, Outcomes, single, undecodable
from mesh.payload import EncodingFault, decode
from mesh.timers import Timers
from mesh.waking import given
from mesh.wire import codec
from mesh.wire.codec import BY_DEADLINE, BY_DISCONNECT, MSGPACK, RAW, UNVERIFIED
from mesh.wire.frames import Kind
from mesh_telemetry.current import CallContext, enter

if TYPE_CHECKING:
    from mesh.handlers import Handler
    from mesh.uplink import Uplink

log = logging.getLogger("mesh.service")

IDLE_WORKERS = 256
"""Parked workers kept; a burst above this spawns and ends its own."""


class Worker:
    """A task that runs handlers, one after the other."""

    __slots__ = ("call", "fired", "reason", "scope", "task")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.fired = False  # what the scope would say, which looks at the clock when it is asked
        self.task: trio.lowlevel.Task | None = None
        self.reason = 0
        self.call: context.Call | None = None


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
        self._base.run(kept_from.set, uplink.keeps_from)
        self._nursery: trio.Nursery | None = None
        self._no_work: trio.Event | None = None
        self._timers = Timers(self.serving, self._expire)
        self._draw = uplink.process.random.getrandbits
        self._clock = uplink.clock
        self.outcomes = Outcomes(uplink)

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
        now = self._uplink.heard_at  # without a look at the clock for each frame of one read
        if handler is None:
            name = f"{header.service}.{header.method}"
            refused = codec.refusal(
                header.call_id,
                Code.UNIMPLEMENTED.number,
                Reason.METHOD_NOT_FOUND,
                f"{self._uplink.name} no longer serves {name}",
            )
            self._uplink.send(codec.encode_header(refused))
            self.outcomes.refused(header, refused)
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
        if self._idle:
            worker = self._idle.pop()
            task = worker.task
            assert task is not None  # noqa: S101 - a parked worker has run
            self.serving[header.call_id] = worker
            task.context = fresh
            trio.lowlevel.reschedule(task, given(job))
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
        if worker is not None and not worker.fired:
            worker.fired, worker.reason = True, reason
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
                if worker.fired or len(self._idle) >= IDLE_WORKERS:
                    return
                self._idle.append(worker)
                job = await trio.lowlevel.wait_task_rescheduled(abort)

    async def _execute(self, worker: Worker, job: Job) -> None:
        call, surroundings, handler, encoding, payload, arrived = job
        call_id = call.call_id
        # In the worker's own context, fresh for this call: less than entering that from outside.
        context.current.set(call)
        enter(surroundings)
        failure: BaseException | None = None
        try:
            if handler.takes_params:
                try:
                    # Nearly always by what was prepared: no look-up of the type for each call.
                    params = (
                        handler.read(payload)
                        if encoding == MSGPACK
                        else decode(payload, encoding, handler.params_type)
                    )
                except Exception as fault:
                    raise undecodable(call, encoding, fault) from fault
                arguments: tuple[Any, ...] = (params,)
            else:
                arguments = ()
            if handler.in_thread:
                value = await trio.to_thread.run_sync(
                    handler.function, *arguments, limiter=self.limiter, abandon_on_cancel=True
                )
            else:
                value = await handler.function(*arguments)
            answer = handler.encode(value, encoding)
        except EncodingFault as fault:
            # It is the caller who has asked for bare bytes, of a method that returns values.
            code = Code.INVALID_ARGUMENT if encoding == RAW else Code.INTERNAL
            failure = CallError.of(
                code,
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
            self.outcomes.record(job, now, Code.CANCELLED.number, lost, why, "")
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
            told = single(failure)[0] if isinstance(failure, BaseExceptionGroup) else failure
            late = worker.reason == BY_DEADLINE
            uplink.feed.method_executed(uplink.name, call, told, elapsed / 1e6, late=late)
        if failure is None:
            self.outcomes.record(job, ended, 0, "", "", "")
            uplink.answer(call_id, Kind.RESULT, (call_id, encoding, elapsed, 1, None, None), answer)
        else:
            try:
                self.outcomes.report(job, failure, worker.reason, elapsed)
            except Exception as fault:
                # An error that cannot even be told, as its text raises or it was never initialised.
                log.exception("the failure of %s cannot be told", call.chain[-1])
                untold = f"{type(failure).__qualname__}, whose text raised {type(fault).__name__}"
                code = failure.code if isinstance(failure, CallError) else Code.UNKNOWN
                self.outcomes.fail(job, Code(code), Reason.HANDLER_FAILED, untold, elapsed=elapsed)
        link = uplink.link
        if link is not None and link.queued >= link.limit and not worker.fired:
            await uplink.wait_room()
