"""The books, once everything has come to rest: what must be empty, and what must add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mesh.errors import CODES
from mesh.gateway.debts import PATIENCE as PATIENCE_SPANS
from mesh.gateway.debts import PATIENCE_GONE
from mesh_telemetry import names

if TYPE_CHECKING:
    import mesh
    from mesh_telemetry import KeptTrace
    from tests.simulation.peers import Peer
    from tests.simulation.world import Hub, World

PATIENCE = 60.0
"""Virtual seconds after the last planned call by which every call and handler must have ended."""


async def quiesce(world: World) -> None:
    """Wait until every call and handler has ended, and what they left behind is settled."""
    chronicle, limits = world.chronicle, world.limits
    until = trio.current_time() + PATIENCE
    quiet = 0
    while quiet < 3:  # work that handlers left behind begins a moment later
        await trio.sleep(0.4)
        quiet = 0 if chronicle.open_calls or chronicle.open_executions else quiet + 1
        if trio.current_time() > until:
            _complain_of_open(world)
            return
    await trio.sleep(max(3.0, world.disturbed_until - trio.current_time()))
    if "silence" in world.plan.kinds:
        await trio.sleep((limits.silent_after + 2) * limits.heartbeat)


def _complain_of_open(world: World) -> None:
    chronicle = world.chronicle
    for placed in chronicle.placed.values():
        if placed.how == "open":
            who = f"call {placed.node.tag} of {placed.host.id} to {placed.node.name}"
            chronicle.complain(f"{who} never ended")
    for runs in chronicle.executions.values():
        for run in runs:
            if run.how == "running":
                chronicle.complain(f"the handler of {run.node.tag} never ended")


async def close_books(world: World) -> None:
    """Check what lives, take everything down in good order, and check the rest."""
    world.closing = True
    peers = [peer for peer in world.peers if peer.alive]
    for peer in peers:
        if not peer.client.is_connected:
            world.chronicle.complain(f"{peer.id} is not connected after everything healed")
        _check_peer(world, peer)
    _check_hub(world, world.hub, alive=True)
    await _check_traces(world, world.hub)
    for peer in peers:
        peer.leaving.set()
    with trio.move_on_after(5.0) as limit:
        for peer in peers:
            await peer.gone.wait()
    if limit.cancelled_caught:
        world.chronicle.complain("the peers did not leave within 5 s though nothing ran")
    world.hub.gateway.drain()
    with trio.move_on_after(world.limits.drain + 5.0) as limit:
        for hub in world.hubs:
            await hub.over.wait()
    if limit.cancelled_caught:
        world.chronicle.complain("a gateway did not end within its drain and 5 s")
    for hub in world.hubs:
        _check_hub(world, hub, alive=False)


def _check_peer(world: World, peer: Peer) -> None:
    uplink = peer.client._uplink
    link = uplink.link
    for what, count in {
        "pending calls": len(uplink.outgoing.pending),
        "calls being served": len(uplink.dispatcher.serving),
        "bytes of half-arrived messages": uplink.outgoing.assembler.held,
        "bytes in the outbox": link.queued if link is not None else 0,
    }.items():
        if count:
            world.chronicle.complain(f"{peer.id} is left with {count} {what}")


def _check_hub(world: World, hub: Hub, *, alive: bool) -> None:
    core, name = hub.gateway.core, hub.gateway.instance
    left = {
        "calls in flight": len(core.table),
        "calls that wait": len(core.held.entries),
        "bytes that wait": core.held.size,
        "in-flight on the gauges": sum(abs(series.in_flight) for series in core.metrics.methods()),
    }
    expected = {peer.id for peer in world.peers if peer.alive}
    for session in core.sessions.values():
        who = f" of {session.process_id}"
        left["calls made" + who] = len(session.calls)
        left["calls served" + who] = len(session.serving)
        left["abandoned calls" + who] = len(session.abandoned)
        left["bytes in the outbox" + who] = session.link.queued
        if alive and not session.internal and session.process_id not in expected:
            left["session" + who] = 1
    if not alive:
        left["sessions"] = len(core.sessions)
    for what, count in left.items():
        if count:
            world.chronicle.complain(f"{name} is left with {count} {what}")
    counters = core.counters
    if alive is False and counters.connections_opened != counters.connections_closed:
        world.chronicle.complain(
            f"{name} opened {counters.connections_opened} connections and closed "
            f"{counters.connections_closed}"
        )
    world.chronicle.seen["late result"] += sum(series.late for series in core.metrics.methods())
    world.chronicle.seen["abandoned call"] += sum(
        series.abandoned for series in core.metrics.methods()
    )


async def _check_traces(world: World, hub: Hub) -> None:
    """Nothing is held of traces that have ended, and those kept are whole or say what they miss."""
    core, chronicle = hub.gateway.core, world.chronicle
    tracing, name = core.tracing, hub.gateway.instance
    if tracing is None:
        return
    debts = tracing.collector.debts
    with trio.move_on_after(PATIENCE_SPANS + 3.0):
        while debts._owed.keys() & debts.sessions.keys():  # noqa: ASYNC110 - virtual time
            await trio.sleep(1.0)
    # Those that are gone have half a minute, in which nothing more would happen here.
    debts.expire(trio.current_time() + PATIENCE_GONE)
    for what, count in {
        "calls in flight in its traces": sum(trace.open for trace in tracing.traces.values()),
        "traces": tracing.pending,
        "traces in line": len(tracing._quiet),
        "traces to collect": len(tracing.collector._fresh),
        "processes that owe spans": len(debts),
    }.items():
        if count:
            chronicle.complain(f"{name} is left with {count} {what}")
    served: dict[bytes, list[bytes]] = {}
    for runs in chronicle.executions.values():
        for run in runs:
            if run.call.gateway == core.instance:
                served.setdefault(run.call.trace_id, []).append(run.call.own_span.to_bytes(8))
    calm = not world.plan.faults and world.limits.max_chunk >= 2048 and not hub.killed
    for trace in tracing.store.find(limit=100_000):
        _check_trace(world, trace, served.get(trace.trace_id, []), calm=calm)


def _check_trace(world: World, trace: KeptTrace, served: list[bytes], *, calm: bool) -> None:
    chronicle, who = world.chronicle, f"trace {trace.trace_id.hex()}"
    spans = [span for _, span in trace.spans()]
    ids = {span.span_id for span in spans}
    chronicle.seen["complete trace" if trace.complete else "incomplete trace"] += 1
    if trace.duration is None:
        chronicle.complain(f"{who} has no entry call")
    if not trace.complete:
        if not (trace.missing or trace.dropped):
            chronicle.complain(f"{who} is not complete, and does not say why")
        begun_here = not any("another gateway" in what for what in trace.missing)
        if calm and begun_here and world.limits.max_outbox >= 2**20:
            chronicle.complain(f"{who} lacks something though nothing went wrong: {trace.missing}")
        return
    if len(spans) != len(ids):
        chronicle.complain(f"{who} has a span twice")
    lost = [span_id for span_id in served if span_id not in ids]
    if lost:
        chronicle.complain(f"{who} lacks {len(lost)} served calls and is called complete")
    own = sum(names.SERVICE_NAME in resource and resource[names.SERVICE_NAME] == "mesh-gateway"
              for resource, _ in trace.spans())  # fmt: skip
    orphans = [span for span in spans if span.parent_id and span.parent_id not in ids]
    if orphans or not own:
        chronicle.complain(f"{who} has {len(orphans)} spans without their parents")


def check_records(world: World) -> None:
    """Every call that was served has one record at its gateway, which agrees with its caller."""
    chronicle = world.chronicle
    for hub in world.hubs:
        core = hub.gateway.core
        rows: dict[int, list[int]] = {}
        for record in core.recorder.recent(core.recorder.capacity):
            rows.setdefault(record.call_id, []).append(record.code)
            if record.reason:
                chronicle.seen[f"record {record.reason}"] += 1
        if len(core.recorder) != core.metrics.ended():
            chronicle.complain(
                f"{core.instance} recorded {len(core.recorder)} calls and counted "
                f"{core.metrics.ended()}"
            )
        if not hub.killed:
            _check_totals(world, hub)
        for tag, runs in chronicle.executions.items():
            run = runs[0]
            if run.call.gateway != core.instance:
                continue
            codes = rows.get(run.call.call_id, [])
            if len(codes) != 1:
                chronicle.complain(f"call {tag} has {len(codes)} records at {core.instance}")
                continue
            placed = chronicle.placed[tag]
            seen = CODES[codes[0]]
            if placed.how == "ok" and seen != "ok":
                chronicle.complain(f"call {tag} was ok for its caller and {seen} at the gateway")


def _check_totals(world: World, hub: Hub) -> None:
    """In an undisturbed mesh the gateway counted what the callers saw, code by code."""
    if world.plan.faults:
        return
    chronicle, core = world.chronicle, hub.gateway.core
    counted = dict.fromkeys(CODES, 0)
    for series in core.metrics.calls():
        if series.method.service != "mesh":
            for number, count in enumerate(series.codes):
                counted[CODES[number]] += count
    observed = dict.fromkeys(CODES, 0)
    unsure = local = 0
    for placed in chronicle.placed.values():
        if placed.how == "ok":
            observed[CODES[0]] += 1
        elif placed.error is not None and chronicle.was_local(placed):
            local += 1
        elif placed.error is not None and chronicle.was_undecodable(placed):
            observed[CODES[0]] += 1
        elif placed.error is not None and not _may_be_own(placed.error):
            observed[placed.error.code] += 1
        else:
            unsure += 1
    known = sum(observed.values())
    total = sum(counted.values())
    if not known <= total <= known + unsure:
        chronicle.complain(
            f"the gateway counted {total} calls; callers saw {known} for certain, {unsure} perhaps"
        )
    for code, count in observed.items():
        if not count <= counted[code] <= count + unsure:
            chronicle.complain(
                f"the gateway counted {counted[code]} {code}; callers saw {count}, "
                f"and {unsure} unsure"
            )


def _may_be_own(error: mesh.CallError) -> bool:
    """Whether the caller may have given up by itself, on what the gateway saw end otherwise."""
    return error.reason == "DEADLINE_EXCEEDED" or "half-arrived" in error.message
