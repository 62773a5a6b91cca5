"""Traces in the gateway: which are kept, and how their parts come together.

Every call in flight belongs to a trace, which gathers the records of its ended calls. A reason
(a failure, a slow call) keeps the trace at once; otherwise the end of its entry call decides. The
peers that took part in a kept trace are told by KEEP, also again after a reconnect, and answer with
SPANS. What is not kept is forgotten a second after its last entry call has ended.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from mesh.errors import Code
from mesh.gateway.collecting import Collector
from mesh.gateway.reasons import why_kept
from mesh_telemetry import Reason, Sampler, SlowMethods, TraceStore
from mesh_telemetry.bounds import GATEWAY_ROWS
from mesh_telemetry.names import DROPPED

if TYPE_CHECKING:
    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh_telemetry import Decision, MethodSeries, Record, TraceSettings
    from mesh_telemetry.export import Exporter
    from mesh_telemetry.spans import Attributes

log = logging.getLogger("mesh.gateway")

LINGER = 1.0
"""Seconds that a trace which is not kept stays, as a late answer may still be a reason."""
LONG = 10.0
"""Seconds in flight after which a call is slow before it has ended: its peers forget after a while
what they recorded of calls that were part of it."""
SWEEP = 0.25
"""Seconds between two looks at what can be forgotten."""
REST = 0.01
"""Seconds for which the baseline is not asked again for a method that has had enough of it: at many
calls per second, asking costs more than all else here."""
SLICE = 500
"""Traces that are forgotten, or judged again, in one go before other tasks may run."""
MAX_QUIET = 2_000
"""Traces that stay for :data:`LINGER`. At many calls per second they stay shorter: this many fit a
processor's cache, and what does not makes every call dearer by a microsecond."""
MAX_ROWS = 1000
"""Ended calls of one trace that are held: their spans are about what a store takes of it."""
_CANCELLED = Code.CANCELLED.number


class Trace(msgspec.Struct, eq=False, gc=False):
    """What the gateway has recorded of one trace, and whether it is kept."""

    trace_id: bytes
    rows: list[Record]
    """Its ended calls, in the order of their end; without those whose spans are in the store."""
    open: int = 0
    """Calls without a parent that are in flight."""
    kept: str = ""
    """Why it is kept."""
    why: Decision | None = None
    """The same with its numbers, until it is told with the call that led there."""
    late: tuple[tuple[int, Decision], ...] = ()
    """Answers that came late, with what the ids of their calls' spans are made of."""
    reasons: tuple[str, ...] = ()
    """All that has spoken for it, in the order in which it did."""
    over: str | None = None
    """Why it is not kept although there was a reason."""
    quiet_since: float = 0.0
    """When the last call without a parent ended, on trio's clock."""
    queued_at: float = -1.0
    """Since when it is in line to be forgotten; negative where it is not."""
    lost: int = 0
    """Rows that made way, as there were too many of this trace."""
    crowded_out: int = 0
    """Rows that made way, as there were too many of all traces."""
    parties: set[str] | None = None
    """Processes that were told that it is kept."""
    hinted: str = ""
    """The process that heard of it by a RESULT."""
    to_wall: float = 0.0
    """What has to be added to trio's clock for seconds since 1970; 0 before it is kept."""
    gone: bool = False
    """Forgotten."""


class Tracing:
    """The traces of one gateway.

    Args:
        core: The gateway's state.
        settings: What rules the keeping.
        resource: Who the gateway is, in its spans.
        exporter: Where new spans of kept traces go besides the store.

    Attributes:
        traces: Those that go on, or ended a moment ago, by id; without those of a single call
            that ended well and was not kept.
        alone: Entry calls in flight that are all of their trace so far, by its id.
        store: The kept ones.
        sampler: Decides, and counts.
    """

    def __init__(
        self,
        core: Core,
        settings: TraceSettings,
        resource: Attributes,
        exporter: Exporter | None = None,
    ) -> None:
        self._core = core
        self.traces: dict[bytes, Trace] = {}
        self.alone: dict[bytes, InFlight] = {}
        self._passed: dict[bytes, Record] = {}
        """Calls that were alone to their end, and for whose keeping nothing spoke."""
        self._passed_before: dict[bytes, Record] = {}
        self._turned_at = core.clock()
        self.store = TraceStore(settings.store_spans, settings.store_bytes)
        self.sampler = Sampler(settings, core.clock)
        self._stored = self.store.traces
        self._counts = self.sampler.counts
        self._slow = SlowMethods(settings.slow_after)
        self._why = partial(why_kept, core.clock, settings)
        core.metrics.slow_after = settings.slow_after
        self._quiet: deque[Trace] = deque()
        """Traces of which nothing is in flight, and since when."""
        self._judged_up_to = 0
        """The newest call that was judged for being in flight for long."""
        self.collector = Collector(core, self.store, self.sampler, resource, exporter)

    @property
    def pending(self) -> int:
        """Traces that go on, or ended a moment ago and are not kept."""
        return len(self.traces) + len(self.alone) + len(self._passed) + len(self._passed_before)

    # From the path of every call: synchronous and short.

    def begin(self, entry: InFlight) -> None:
        """An entry call begins.

        On a busy mesh most are all of their trace, end well and are not kept. Those never have a
        :class:`Trace`, which takes a microsecond off each.
        """
        trace_id = entry.trace_id
        if (
            trace_id in self.traces
            or trace_id in self.alone
            or trace_id in self._passed
            or trace_id in self._passed_before
            or trace_id in self._stored
        ):
            entry.trace = self.open(trace_id)
        else:
            self.alone[trace_id] = entry

    def passed(self, entry: InFlight, row: Record) -> None:
        """A call has ended for whose keeping nothing speaks; it may have been alone to its end."""
        trace_id = entry.trace_id
        if self.alone.get(trace_id) is not entry:
            return  # one that asked the gateway itself
        del self.alone[trace_id]
        self._passed[trace_id] = row
        if len(self._passed) >= MAX_QUIET // 2:
            self._pass_on()

    def open(self, trace_id: bytes) -> Trace:
        """A call without a parent begins that has to have a trace."""
        trace = self._join(trace_id)
        trace.open += 1
        return trace

    def of(self, entry: InFlight) -> Trace | None:
        """The trace of a call in flight; None for one that asks the gateway itself."""
        if entry.trace is None and self.alone.get(entry.trace_id) is entry:
            self._join(entry.trace_id)
        return entry.trace

    def _join(self, trace_id: bytes) -> Trace:
        """The trace of this id, with those calls of it that have been alone so far."""
        trace = self.traces.get(trace_id)
        if trace is not None:
            return trace
        trace = self.traces[trace_id] = Trace(trace_id, [])
        if trace_id in self._stored:  # by an earlier entry call
            trace.kept = self._stored[trace_id].reason
            trace.reasons = self._stored[trace_id].reasons
        first = self.alone.pop(trace_id, None)
        if first is not None:
            first.trace, trace.open = trace, 1
        for passed in (self._passed_before, self._passed):
            if trace_id in passed:
                trace.rows.append(passed.pop(trace_id))
        return trace

    def ended(
        self,
        trace: Trace,
        row: Record,
        code: int,
        slow: float,
        name: str,
        objective: float | None = None,
    ) -> None:
        """A call of this trace has ended.

        Args:
            trace: The trace.
            row: The call's.
            code: Number of its status code; 0 also for one that was turned away.
            slow: The seconds from which on it is slow, where it took longer; else 0.
            name: Its method, or ``_OTHER``.
            objective: Seconds within which that should answer, if that was said.
        """
        rows = trace.rows
        rows.append(row)
        if len(rows) > MAX_ROWS:
            # The newest are worth most: what speaks for a trace comes last, and callers end after
            # those whom they called.
            del rows[: MAX_ROWS // 2]
            trace.lost += MAX_ROWS // 2
        if trace.kept:
            self.collector.gather(trace)
        if code:
            reason = Reason.CANCELLED if code == _CANCELLED else Reason.ERROR
            self.judge(trace, reason, name, row=row)
        elif slow:
            took = row.duration
            self.judge(trace, Reason.SLOW, name, took=took, slow_after=slow, objective=objective)

    def close(self, trace: Trace, series: MethodSeries, process: str, now: float) -> str | None:
        """A call without a parent has ended; returns why its trace is kept, if it is.

        Args:
            trace: The call's.
            series: The method's.
            process: The caller's process, if it is about to be told what this returns.
            now: The time on trio's clock.
        """
        trace.open -= 1
        if not trace.open:
            trace.quiet_since = now
            if trace.queued_at < 0.0:
                trace.queued_at = now
                self._quiet.append(trace)
                if len(self._quiet) > MAX_QUIET:
                    self._drop(self._quiet.popleft())
            if not trace.kept and now >= series.baseline_from:
                if self.sampler.baseline(series.name):
                    why = self._why(Reason.BASELINE, series.name)
                    self._keep(trace, Reason.BASELINE, why)
                else:
                    series.baseline_from = now + REST
        if not trace.kept:
            return None
        trace.hinted = process
        return trace.kept

    def judge(
        self,
        trace: Trace,
        reason: Reason,
        name: str,
        *,
        again: bool = False,
        row: Record | None = None,
        took: float = 0.0,
        slow_after: float = 0.0,
        objective: float | None = None,
    ) -> None:
        """Something speaks for keeping this trace.

        Args:
            trace: The trace.
            reason: What speaks for it.
            name: The method of the call that gives the reason, or ``_OTHER``.
            again: Whether it was judged for that before, and the reason lasts.
            row: That call, where it has failed or was refused.
            took: The seconds of a slow call so far.
            slow_after: Those from which on it is slow; 0 for one that is still in flight.
            objective: Those within which its method should answer, if that was said.
        """
        if reason not in trace.reasons:
            trace.reasons = (*trace.reasons, str(reason))
            if trace.kept:  # it is found by every reason, also by one that comes later
                stored = self._stored.get(trace.trace_id)
                if stored is not None:
                    stored.reasons = trace.reasons
        if trace.kept or trace.gone:
            return
        if self.sampler.wants(reason, name, again=again):
            why = self._why(
                reason, name, row=row, took=took, slow_after=slow_after, objective=objective
            )
            self._keep(trace, reason, why)
        elif trace.over is None:
            trace.over = self.sampler.refusal

    def _keep(self, trace: Trace, reason: Reason, why: Decision) -> None:
        trace.kept, trace.why = str(reason), why
        if reason not in trace.reasons:
            trace.reasons = (*trace.reasons, str(reason))
        self.collector.gather(trace)

    # Life.

    async def run(self) -> None:
        """Gather what is kept and forget what is not, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.collector.run)
            nursery.start_soon(self._sweep)

    async def _sweep(self) -> None:
        core, turn = self._core, 0
        while True:
            await trio.sleep(SWEEP)
            await self._forget(core.clock() - LINGER)
            if self._turned_at <= core.clock() - LINGER:
                self._pass_on()
            await self._make_room()
            turn += 1
            if turn % 4 == 0:
                self._slow.update(core.metrics.methods(), core.clock())
                await self._judge_long(core.clock() - LONG)
                self.collector.debts.expire(core.clock())

    def _pass_on(self) -> None:
        """Forget the older half of the calls that were alone: in one go, without a look at each."""
        self._counts[DROPPED] += len(self._passed_before)
        self._passed_before, self._passed = self._passed, {}
        self._turned_at = self._core.clock()

    async def _forget(self, before: float) -> None:
        quiet, steps, now = self._quiet, 0, before + LINGER
        while quiet and quiet[0].queued_at <= before:
            trace = quiet.popleft()
            if not trace.open and trace.quiet_since > before:  # it went on: to the end of the line
                trace.queued_at = now
                quiet.append(trace)
                continue
            self._drop(trace)
            steps += 1
            if steps % SLICE == 0:
                await trio.lowlevel.checkpoint()

    async def _make_room(self) -> None:
        """Let rows of the oldest traces go where all have too many.

        Counting them on the path of every call would cost it more than this: between two looks
        there come no more than a gateway can route.
        """
        held = [*self.collector.leftover(), *self.traces.values()]
        if len(held) <= GATEWAY_ROWS // MAX_ROWS:
            return
        rows = 0
        for number, trace in enumerate(held, 1):
            rows += len(trace.rows)
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
        for trace in held:
            if rows <= GATEWAY_ROWS:
                return
            rows -= len(trace.rows)
            trace.crowded_out += len(trace.rows)
            trace.rows.clear()
            await trio.lowlevel.checkpoint()

    def _drop(self, trace: Trace) -> None:
        """Forget a trace that has ended; one that goes on will be in line again."""
        trace.queued_at = -1.0
        if trace.open:
            return
        trace.gone = True
        del self.traces[trace.trace_id]
        if not trace.kept:
            self._counts[trace.over or DROPPED] += 1
            trace.rows.clear()  # an abandoned call may know it for long

    async def _judge_long(self, before: float) -> None:
        """Judge what has been in flight for long: once as what it is, then each time again.

        Else one that was over the quota at that moment, and is kept later for an error, would lack
        what its peers have forgotten by then.
        """
        by_id = self._core.table.by_id
        for number, entry in enumerate(list(by_id.values()), 1):  # the oldest first
            if entry.started > before:
                return
            again = entry.id <= self._judged_up_to
            self._judged_up_to = max(self._judged_up_to, entry.id)
            trace = self.of(entry) if entry.id in by_id else None
            if trace is not None and not trace.kept:
                took = self._core.clock() - entry.started
                self.judge(trace, Reason.SLOW, entry.series.method.name, again=again, took=took)
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
