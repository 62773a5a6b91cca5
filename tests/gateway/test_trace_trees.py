"""For any tree of calls: a kept trace is complete, and a dropped one leaves nothing behind."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace as otel

import mesh
from mesh_telemetry import TraceSettings
from mesh_telemetry.spans import CLIENT, SERVER
from tests.gateway.raw_peer import settled
from tests.gateway.traces import Mesh, running

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mesh_telemetry import KeptTrace
    from mesh_telemetry.spans import Span

SERVICES = ("a", "b", "c")
FOREIGN = otel.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=otel.TraceFlags(1))
"""The span, in some other program, in which some entry calls are made."""


@dataclass
class Plan:
    """One call: where it goes, how its handler ends, and what the handler calls before."""

    service: str
    finish: str
    pause: float
    timeout: float | None
    gives_up_after: float | None
    detached: bool
    together: bool
    below: list[Plan] = field(default_factory=list)


def plans(below: st.SearchStrategy[list[Plan]]) -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        service=st.sampled_from((*SERVICES, *SERVICES, "nobody")),
        finish=st.sampled_from(("value", "value", "value", "error", "raise", "hang", "stubborn")),
        pause=st.sampled_from((0.0, 0.0, 0.01, 0.3, 2.0)),
        timeout=st.sampled_from((None, None, 0.0, 0.1, 1.0)),
        gives_up_after=st.sampled_from((None, None, None, 0.05, 0.5)),
        detached=st.sampled_from((False, False, False, True)),
        together=st.booleans(),
        below=below,
    )


leaves = plans(st.just([]))
trees = st.recursive(leaves, lambda inner: plans(st.lists(inner, max_size=3)), max_leaves=8)
entries = st.lists(st.tuples(trees, st.booleans()), min_size=1, max_size=4)
keeping = st.sampled_from((
    TraceSettings(baseline=0, quota=1000),
    TraceSettings(baseline=0, quota=0),
    TraceSettings(baseline=1, quota=1),
    TraceSettings(baseline=1000, quota=1000),
))  # fmt: skip


class Play:
    """Plays plans, and notes which handlers ran."""

    def __init__(self, it: Mesh, peers: dict[str, mesh.Client], nursery: trio.Nursery) -> None:
        self.it = it
        self.peers = peers
        self.nursery = nursery
        self.served: list[mesh.Call] = []
        self.parents: dict[int, int] = {}
        """Of each call that was served, the span in which it was made."""
        self.plans: list[Plan] = []

    def serve(self, service: str) -> None:
        async def do(index: int) -> None:
            call = mesh.current_call()
            assert call is not None
            self.served.append(call)
            plan = self.plans[index]
            if plan.together:
                async with trio.open_nursery() as nursery:
                    for below in plan.below:
                        nursery.start_soon(self.place, service, below)
            else:
                for below in plan.below:
                    await self.place(service, below)
            await self.finish(plan)

        self.peers[service].register("do", do)

    async def finish(self, plan: Plan) -> None:
        await trio.sleep(plan.pause)
        match plan.finish:
            case "error":
                raise mesh.NotFound("planned")
            case "raise":
                raise ValueError("planned")
            case "hang":
                await trio.sleep(60)
            case "stubborn":
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
            case _:
                pass

    async def place(self, caller: str, plan: Plan) -> None:
        """Make a call; a detached one goes on by itself."""
        if plan.detached and mesh.current_call() is not None:

            async def later() -> None:
                with mesh.detached():
                    await trio.sleep(0.2)
                    await self.call(caller, plan)

            self.nursery.start_soon(later)
        else:
            await self.call(caller, plan)

    async def call(self, caller: str, plan: Plan) -> None:
        index = len(self.plans)
        self.plans.append(plan)
        more: dict[str, Any] = {} if plan.timeout is None else {"timeout": plan.timeout}
        patience: AbstractContextManager[Any] = nullcontext()
        if plan.gives_up_after is not None:
            patience = trio.move_on_after(plan.gives_up_after)
        with patience:
            try:
                await self.peers[caller].call(plan.service, "do", index, **more)
            except mesh.CallError:
                return


def judge(trace: KeptTrace, served: list[mesh.Call]) -> None:
    """It has what was served, exactly, hop by hop."""
    assert trace.missing == []
    assert trace.dropped == 0
    assert trace.complete
    by_id: dict[bytes, tuple[str, Span]] = {}
    for resource, span in trace.spans():
        assert span.span_id not in by_id
        assert span.start <= span.end
        by_id[span.span_id] = str(resource["service.name"]), span
    below = Counter(span.parent_id for _, span in by_id.values() if span.kind == SERVER)
    assert max(below.values(), default=0) <= 1, "each CLIENT span has one SERVER span at most"
    handlers = {call.own_span.to_bytes(8): call for call in served}
    hops = 0
    for span_id, call in handlers.items():
        name, serving = by_id[span_id]
        assert (name, serving.kind, serving.parent_id) == (call.service, SERVER, call.span_id)
        name, passing = by_id[serving.parent_id]
        assert (name, passing.kind) == ("mesh-gateway", CLIENT)
        name, routing = by_id[passing.parent_id]
        assert (name, routing.kind) == ("mesh-gateway", SERVER)
        name, calling = by_id[routing.parent_id]
        assert (name, calling.kind) == (call.caller, CLIENT)
        if len(call.chain) == 1:
            assert calling.parent_id in {b"", FOREIGN.span_id.to_bytes(8)}
        else:
            assert handlers[calling.parent_id].chain == call.chain[:-1]
        assert routing.start <= passing.end
        assert calling.start - 1000 <= routing.start, "nanoseconds that rounding may cost"
        hops += 1
    own = [span for name, span in by_id.values() if name == "mesh-gateway"]
    assert sum(span.kind == CLIENT for span in own) == hops
    refused = sum(span.kind == SERVER for span in own) - hops
    peers = [span for name, span in by_id.values() if name != "mesh-gateway"]
    assert sum(span.kind == SERVER for span in peers) == hops
    never_left = sum(span.kind == CLIENT for span in peers) - hops - refused
    assert never_left >= 0
    for name, span in by_id.values():
        if name != "mesh-gateway" and span.kind == CLIENT and not below[span.span_id]:
            assert span.attributes["error.type"] in {
                "DEADLINE_EXCEEDED",
                "CALLER_CANCELLED",
                "PARENT_ENDED",
            }


async def play(entries: list[tuple[Plan, bool]], keep: TraceSettings) -> None:
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(running(keep))
        peers = {
            name: await stack.enter_async_context(it.peer(name)) for name in (*SERVICES, "web")
        }
        async with trio.open_nursery() as nursery:
            game = Play(it, peers, nursery)
            for service in SERVICES:
                game.serve(service)
            for peer in peers.values():
                await settled(peer)

            async def enter(plan: Plan, *, foreign: bool) -> None:
                with otel.use_span(otel.NonRecordingSpan(FOREIGN)) if foreign else nullcontext():
                    await game.place("web", plan)

            for plan, foreign in entries:
                nursery.start_soon(
                    lambda plan, foreign: enter(plan, foreign=foreign), plan, foreign
                )
                await trio.sleep(0.1)
        await trio.sleep(10)
        it.check_nothing_left()
        traces = {call.trace_id for call in game.served}
        kept = {trace.trace_id: trace for trace in it.kept}
        for trace_id in traces & kept.keys():
            judge(kept[trace_id], [call for call in game.served if call.trace_id == trace_id])
        counts = it.counts
        assert sum(n for what, n in counts.items() if what.startswith("kept")) == len(kept)
        if keep.quota == keep.baseline == 0:
            assert not kept
        if keep.baseline == 1000:
            assert traces <= kept.keys()
            assert set(counts) <= {what for what in counts if what.startswith("kept")}
        assert it.tracing.store.span_count == sum(map(len, kept.values()))
        assert it.tracing.collector.lost()["not_kept"] == 0
        for peer in peers.values():
            known = peer._uplink.records.kept.keys()
            assert known <= kept.keys()
            reporter = peer._uplink.reporter
            assert not (reporter._asked)
            assert not (reporter._late)


@settings(max_examples=80, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(entries, keeping)
def test_any_tree_is_kept_whole_or_not_at_all(
    entries: list[tuple[Plan, bool]], keep: TraceSettings
) -> None:
    """Whatever fails, hangs, times out, is cancelled or detached in it."""
    logger = logging.getLogger("mesh")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        trio.run(play, entries, keep, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logger.setLevel(level)
