"""What belongs to a trace, and how long the gateway holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import mesh
from mesh.wire import Kind, codec
from mesh_telemetry import TraceSettings
from mesh_telemetry.spans import CLIENT, SERVER
from tests.gateway.raw_peer import (
    raw_peer,
    register_header,
    result_header,
    settled,
)
from tests.gateway.trace_shop import shop
from tests.gateway.traces import QUIET, Mesh, forest, hop, running, tree

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_detached_call_keeps_its_trace_open(autojump_clock: MockClock) -> None:
    """It belongs to the trace of the call inside which it was made, under that call's span."""
    async with shop(TraceSettings()) as (it, web):
        await web.call("orders", "later", 3)
        await it.settled()
        await trio.sleep(3)
        (trace,) = it.kept
        assert (trace.service, trace.method) == ("orders", "later")
        assert trace.complete
        assert tree(trace).outline == hop(
            "web", "orders", "orders.later", hop("orders", "users", "users.get")
        )
        it.check_nothing_left()


async def test_a_detached_call_that_ends_first_is_not_the_entry_call(
    autojump_clock: MockClock,
) -> None:
    """The trace is described by the call that began it."""
    async with shop() as (it, web):

        async def outer() -> None:
            with mesh.detached(), pytest.raises(mesh.NotFound):
                await web.call("users", "fail")
            await trio.sleep(0.5)

        web.register("outer", outer)
        await settled(web)
        await web.call("web", "outer")
        await it.settled()
        (trace,) = it.kept
        assert (trace.service, trace.method, trace.code) == ("web", "outer", 0)
        assert trace.duration == pytest.approx(0.5, abs=0.01)


async def test_several_entry_calls_of_one_trace_are_kept_together(
    autojump_clock: MockClock,
) -> None:
    """As where a W3C trace has come in: once one of them keeps it, all are in it."""
    async with running(QUIET) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "do"))
        for number in range(3):
            span_id = bytes([number + 1]) * 8
            await peer.call("raw", "do", span_id=span_id)
            _, _, call, _ = await peer.receive(Kind.CALL)
            if number == 1:
                await peer.send(codec.refusal(call.call_id, 13, "BROKEN", "no"))
                assert (await peer.receive(Kind.ERROR))[2].keep == "error"
            else:
                await peer.send(result_header(call.call_id))
                keep = (await peer.receive(Kind.RESULT))[2].keep
                assert keep == (None if number == 0 else "error")
            await trio.sleep(0.5)
        (trace,) = it.kept
        assert [node.span.parent_id[0] for node in forest(trace)] == [1, 2, 3]
        assert len(it.tracing.traces) == 1
        await trio.sleep(40)
        it.check_nothing_left()
        assert it.counts == {"kept_error": 1}
        await peer.call("raw", "do", span_id=b"\7" * 8)
        _, _, call, _ = await peer.receive(Kind.CALL)
        await peer.send(result_header(call.call_id))
        assert (await peer.receive(Kind.RESULT))[2].keep == "error", "it is in the store"
        await trio.sleep(0.5)
        assert len(trace) == 8
        assert it.counts == {"kept_error": 1}


async def test_a_nested_call_is_of_its_parents_trace_whatever_it_says(
    autojump_clock: MockClock,
) -> None:
    """Routed or refused."""
    async with running(TraceSettings()) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "outer", "inner"))
        await peer.call("raw", "outer")
        _, _, outer, _ = await peer.receive(Kind.CALL)
        other = b"\xee" * 16
        for method in ("inner", "nothing"):
            await peer.call("raw", method, parent_id=outer.call_id, trace_id=other)
        _, _, inner, _ = await peer.receive(Kind.CALL)
        assert inner.trace_id == outer.trace_id
        await peer.send(result_header(inner.call_id), result_header(outer.call_id))
        await it.settled()
        (trace,) = it.kept
        assert len(trace) == 5
        records = it.gateway.core.recorder.by_activity(outer.trace_id.hex())
        assert {record.trace_id for record in records} == {outer.trace_id}


async def test_what_is_refused_for_a_parent_of_others_is_not_in_that_parents_trace(
    autojump_clock: MockClock,
) -> None:
    """Neither where another peer serves the parent, nor where another gateway knows it."""
    async with (
        running(QUIET) as it,
        raw_peer(it.gateway, "one") as one,
        raw_peer(it.gateway, "two") as two,
    ):
        await one.send(register_header("one", "do"))
        await one.call("one", "do")
        _, _, call, _ = await one.receive(Kind.CALL)
        theirs = b"\xee" * 16
        await two.call("one", "do", parent_id=call.call_id, trace_id=theirs)
        _, _, refused, _ = await two.receive(Kind.ERROR)
        assert refused.reason == "PARENT_FOREIGN"
        assert refused.activity_id == theirs.hex()
        await two.call("one", "do", parent_id=call.call_id, gateway="another", trace_id=theirs)
        _, _, refused, _ = await two.receive(Kind.ERROR)
        assert refused.reason == "PARENT_ENDED"
        assert refused.activity_id == theirs.hex()
        await trio.sleep(0.1)
        assert [trace.trace_id for trace in it.kept] == [theirs]
        assert call.trace_id in it.tracing.alone


async def test_the_built_in_service_leaves_no_traces(autojump_clock: MockClock) -> None:
    async with shop(TraceSettings()) as (it, web):
        await web.call("mesh", "status")
        with pytest.raises(mesh.MeshError):
            await web.call("mesh", "nothing")
        with pytest.raises(mesh.NotFound):
            await web.call("mesh", "ping", "nobody")
        assert not it.tracing.traces
        await it.settled()
        assert it.kept == []
        assert it.counts == {}


async def test_without_telemetry_nothing_is_recorded(autojump_clock: MockClock) -> None:
    async with (
        mesh.Gateway(telemetry=False) as gateway,
        Mesh(gateway).peer("users") as users,
        Mesh(gateway).peer("web") as web,
    ):

        async def get() -> None:
            raise mesh.NotFound("no")

        users.register("get", get)
        await settled(users)
        with pytest.raises(mesh.NotFound):
            await web.call("users", "get")
        with pytest.raises(mesh.Unimplemented):
            await web.call("users", "nothing")
        assert gateway.core.tracing is None
        assert len(users._uplink.records) == len(web._uplink.records) == 0


async def test_a_trace_of_very_many_calls_is_bounded_and_says_so(
    autojump_clock: MockClock,
) -> None:
    """The newest records are held, the rest is counted, and the trace is not called complete."""
    async with running(QUIET) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "outer", "inner"))
        await peer.call("raw", "outer")
        _, _, outer, _ = await peer.receive(Kind.CALL)
        for number in range(2600):
            span_id = (number + 1).to_bytes(8)
            await peer.call("raw", "inner", parent_id=outer.call_id, span_id=span_id)
            _, _, inner, _ = await peer.receive(Kind.CALL)
            await peer.send(result_header(inner.call_id))
            await peer.receive(Kind.RESULT)
        (held,) = it.tracing.traces.values()
        assert len(held.rows) <= 1000
        await peer.send(codec.refusal(outer.call_id, 13, "BROKEN", "no"))
        await peer.receive(Kind.ERROR)
        await it.settled()
        (trace,) = it.kept
        assert (trace.method, trace.code) == ("outer", 13)
        assert trace.dropped == 2 * 2601 - len(trace)
        assert not trace.complete


async def test_a_wall_clock_that_is_set_does_not_tear_a_trace_apart(
    autojump_clock: MockClock,
) -> None:
    """The gateway's spans of one trace are all told by the same clock."""
    async with shop() as (it, web):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: web.call("orders", "patient", 20, timeout=60))
            await trio.sleep(12)
            assert len(it.kept) == 1
            it.gateway._process.wall = lambda: 0.0
        await it.settled()
        (trace,) = it.kept
        own = [span for resource, span in trace.spans() if "gateway" in str(resource)]
        assert max(span.end for span in own) - min(span.start for span in own) == pytest.approx(
            20e9, rel=0.01
        )


async def test_an_abandoned_call_holds_no_other(autojump_clock: MockClock) -> None:
    """A handler that does not stop keeps neither its callers' entries nor their records alive."""
    async with running(QUIET) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "outer", "inner"))
        await peer.call("raw", "outer")
        _, _, outer, _ = await peer.receive(Kind.CALL)
        await peer.call("raw", "inner", parent_id=outer.call_id)
        await peer.receive(Kind.CALL)
        await peer.send(result_header(outer.call_id))
        await it.settled()
        (session,) = [one for one in it.gateway.core.sessions.values() if one.name == "raw"]
        (abandoned,) = session.abandoned.values()
        assert abandoned.name == "raw.inner"
        assert abandoned.trace is not None
        assert abandoned.trace.rows == []


async def test_a_trace_that_goes_on_for_ever_does_not_keep_the_others(
    autojump_clock: MockClock,
) -> None:
    """It is forgotten when it ends; what began after it, a second after its own end."""
    async with running(QUIET) as it, raw_peer(it.gateway) as peer:
        await peer.send(register_header("raw", "do"))
        for number in range(20):
            for trace_id in (b"\xaa" * 16, (number + 1).to_bytes(16)):
                await peer.call("raw", "do", trace_id=trace_id)
                _, _, call, _ = await peer.receive(Kind.CALL)
                await peer.send(result_header(call.call_id))
                await peer.receive(Kind.RESULT)
            await trio.sleep(0.5)
        assert len(it.tracing.traces) <= 5
        assert len(it.tracing._quiet) <= 5
        await trio.sleep(3)
        it.check_nothing_left()


async def test_names_that_nobody_registered_share_one_quota(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("svc") as peer, it.peer("caller") as caller:
        svc: mesh.Client = peer

        @svc.method("ok")
        async def ok(_: object) -> None: ...

        for number in range(200):
            with pytest.raises(mesh.CallError):
                await caller.call("svc", f"m{number}")
        await it.settled()
        assert it.counts["kept_refused"] <= 21
        assert it.counts["kept_baseline"] <= 21


async def test_a_wait_for_an_instance_is_told(autojump_clock: MockClock) -> None:
    """The gateway's span says how long, and it passes the call on only then."""
    settings = TraceSettings(baseline=1000)
    async with running(settings) as it, it.peer("web") as web, trio.open_nursery() as nursery:

        async def get() -> str:
            return "got"

        async def call() -> None:
            assert await web.call("late", "get") == "got"

        nursery.start_soon(call)
        await trio.sleep(0.7)
        async with it.peer("late") as late:
            late.register("get", get)
            await trio.sleep(3)
            (trace,) = it.kept
            found = {
                (span.kind, str(resource["service.name"])): span for resource, span in trace.spans()
            }
            served, passed = found[SERVER, "mesh-gateway"], found[CLIENT, "mesh-gateway"]
            waited = served.attributes["mesh.call.waited_ms"]
            assert isinstance(waited, float)
            assert 600 < waited < 800
            assert passed.start - served.start == pytest.approx(waited * 1e6, abs=2e3)
            assert "mesh.call.waited_ms" not in passed.attributes


async def test_a_trace_that_is_too_long_keeps_what_tells_of_the_whole(
    autojump_clock: MockClock,
) -> None:
    """The root, and the entry call, end last: room is left for them."""
    settings = TraceSettings(store_spans=400, baseline=1000, max_spans_per_second=1e6)
    async with running(settings) as it, it.peer("svc") as svc, it.peer("web") as web:

        async def one() -> None: ...

        async def many() -> None:
            for _ in range(30):
                await svc.call("svc", "one")

        svc.register("one", one)
        svc.register("many", many)
        await web.call("svc", "many")
        await trio.sleep(8)
        (trace,) = [trace for trace in it.kept if trace.method == "many"]
        spans = [span for _, span in trace.spans()]
        assert len(spans) <= 40
        (root,) = [span for span in spans if not span.parent_id]
        (entry,) = [span for span in spans if span.parent_id == root.span_id]
        assert (root.name, entry.name) == ("svc.many", "svc.many")
        assert root.attributes["mesh.keep.reason"] == entry.attributes["mesh.keep.reason"]
        assert trace.dropped > 0
