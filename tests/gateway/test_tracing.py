# ruff: noqa: ARG001 - a test on trio's jumping clock asks for it by an argument
"""Which traces a gateway keeps, and for what."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

import mesh
from mesh.wire import Kind
from mesh.wire.codec import FORCED
from mesh_telemetry import TraceSettings
from tests.gateway.raw_peer import (
    raw_peer,
    register_header,
    result_header,
    settled,
)
from tests.gateway.trace_shop import shop
from tests.gateway.traces import QUIET, forest, hop, running, tree

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_nothing_stays_of_a_trace_that_nothing_speaks_for(autojump_clock: MockClock) -> None:
    """It is held for a second after its entry call, for a late answer, and then it is gone."""
    async with shop() as (it, web):
        await web.call("orders", "place", "get")
        assert len(it.tracing.traces) == 1
        await trio.sleep(0.9)
        assert len(it.tracing.traces) == 1
        assert it.counts == {}
        await trio.sleep(0.5)
        it.check_nothing_left()
        assert it.kept == []
        assert it.counts == {"dropped": 1}


async def test_the_baseline_keeps_whole_traces(autojump_clock: MockClock) -> None:
    """Of each hop the four spans, with the right parents, and nothing missing."""
    async with shop(TraceSettings()) as (it, web):
        await web.call("orders", "place", "get")
        await it.settled()
        (trace,) = it.kept
        assert tree(trace).outline == hop(
            "web", "orders", "orders.place", hop("orders", "users", "users.get")
        )
        assert trace.complete
        assert (trace.caller, trace.service, trace.method) == ("web", "orders", "place")
        assert it.counts == {"kept_baseline": 1}
        it.check_nothing_left()


async def test_the_baseline_has_a_rate_for_each_method(autojump_clock: MockClock) -> None:
    """Two per second of each entry method; calls below an entry call are none."""
    async with shop(TraceSettings(baseline=2)) as (it, web):
        for _ in range(5):
            await web.call("users", "get")
            await web.call("orders", "place", "get")
        await it.settled()
        assert it.counts == {"kept_baseline": 4, "dropped": 6}
        for _ in range(5):
            await web.call("users", "get")
        await it.settled()
        assert it.counts == {"kept_baseline": 6, "dropped": 9}
        it.check_nothing_left()


async def test_an_error_below_keeps_the_trace_at_once(autojump_clock: MockClock) -> None:
    """The whole of it, also what ended before the error; a server's status says whose fault."""
    async with shop() as (it, web):
        with pytest.raises(mesh.NotFound):
            await web.call("orders", "place", "fail")
        await it.settled()
        (trace,) = it.kept
        assert trace.reason == "error"
        assert trace.complete
        root = tree(trace)
        assert root.outline == hop(
            "web", "orders", "orders.place", hop("orders", "users", "users.fail")
        )
        assert {node.span.attributes["rpc.status_code"] for node in root.walk()} == {"not_found"}
        reasons = [node.span.attributes.get("mesh.keep.reason") for node in root.walk()]
        assert reasons == ["error", "error", *[None] * 6]  # of the root, and of the gateway's
        it.check_nothing_left()


async def test_a_refused_call_keeps_the_trace(autojump_clock: MockClock) -> None:
    """With the span of who called, and the gateway's that says why."""
    async with shop() as (it, web):
        with pytest.raises(mesh.Unimplemented):
            await web.call("orders", "place", "nothing")
        with pytest.raises(mesh.Unimplemented):
            await web.call("users", "nothing")
        await it.settled()
        direct, nested = it.kept
        assert {direct.reason, nested.reason} == {"refused"}
        assert tree(nested).outline == hop(
            "web",
            "orders",
            "orders.place",
            ("client orders users.nothing", "server mesh-gateway _OTHER"),
        )
        assert tree(direct).outline == ("client web users.nothing", "server mesh-gateway _OTHER")
        refused = tree(direct).below[0].span.attributes
        assert refused["rpc.method_original"] == "users.nothing"
        assert refused["error.type"] == "METHOD_NOT_FOUND"
        assert refused["mesh.call.chain"] == ["users.nothing"]
        below = [node for node in tree(nested).walk() if node.span.name == "_OTHER"]
        assert below[0].span.attributes["mesh.call.chain"] == ["orders.place", "users.nothing"]
        assert direct.complete
        assert nested.complete
        it.check_nothing_left()


async def test_a_cancelled_call_keeps_the_trace_as_cancelled(autojump_clock: MockClock) -> None:
    """An outcome of its own in every span, the handler's too."""
    async with shop() as (it, web):
        with trio.move_on_after(0.1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(web.call, "users", "wait", 5)
                await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        await it.settled()
        (trace,) = it.kept
        assert trace.reason == "cancelled"
        assert tree(trace).outline == hop("web", "users", "users.wait")
        outcomes = {node.span.attributes["mesh.call.outcome"] for node in tree(trace).walk()}
        assert outcomes == {"cancelled"}
        assert trace.complete
        it.check_nothing_left()


async def test_a_deadline_keeps_the_trace_as_an_error(autojump_clock: MockClock) -> None:
    """Its outcome is deadline_exceeded on both sides."""
    async with shop() as (it, web):
        with pytest.raises(mesh.DeadlineExceeded):
            await web.call("users", "wait", 5, timeout=0.2)
        await it.settled()
        (trace,) = it.kept
        assert trace.reason == "error"
        outcomes = {node.span.attributes["mesh.call.outcome"] for node in tree(trace).walk()}
        assert outcomes == {"deadline_exceeded"}
        assert trace.complete


@pytest.mark.parametrize("by_scope", [True, False])
async def test_a_deadline_is_one_in_every_span(
    autojump_clock: MockClock,
    by_scope: bool,  # noqa: FBT001
) -> None:
    """Also that of a caller's scope, and in a nested call, which is cancelled with its handler."""
    async with (
        running(QUIET) as it,
        it.peer("users") as users,
        it.peer("orders") as orders,
        it.peer("web") as web,
    ):
        users.register("wait", trio.sleep_forever)
        orders.register("place", partial(orders.call, "users", "wait"))
        for peer in (users, orders):
            await settled(peer)
        if by_scope:
            with trio.move_on_after(0.1) as scope:
                await web.call("orders", "place")
            assert scope.cancelled_caught
        else:
            with pytest.raises(mesh.DeadlineExceeded):
                await web.call("orders", "place", timeout=0.1)
        await it.settled()
        (trace,) = it.kept
        assert trace.reason == "error"
        outcomes = [node.span.attributes["mesh.call.outcome"] for node in tree(trace).walk()]
        assert outcomes == ["deadline_exceeded"] * 8


async def test_a_slow_call_keeps_the_trace(autojump_clock: MockClock) -> None:
    """From the setting on, where nothing has been learnt yet."""
    async with shop() as (it, web):
        await trio.sleep(2)
        await web.call("users", "wait", 0.9)
        await web.call("users", "wait", 1.1)
        await it.settled()
        (trace,) = it.kept
        assert trace.reason == "slow"
        assert trace.duration == pytest.approx(1.1, abs=0.001)
        assert it.counts == {"kept_slow": 1, "dropped": 1}


async def test_what_is_slow_is_learnt(autojump_clock: MockClock) -> None:
    """A method that takes 10 ms a hundred times is slow at 100 ms."""
    async with shop() as (it, web):
        for _ in range(150):
            await web.call("users", "wait", 0.01)
        await trio.sleep(1.5)
        await web.call("users", "wait", 0.1)
        await it.settled()
        (trace,) = it.kept
        assert trace.reason == "slow"
        assert trace.duration == pytest.approx(0.1, abs=0.001)


async def test_a_late_answer_keeps_the_trace(autojump_clock: MockClock) -> None:
    """What its callee did is in it; a quota that was used up for the error is no hindrance."""
    async with shop(TraceSettings(baseline=0, quota=1)) as (it, web):
        for _ in range(2):
            with pytest.raises(mesh.DeadlineExceeded):
                await web.call("users", "shielded", 0.5, timeout=0.1)
        await it.settled()
        newer, older = it.kept
        assert (older.reason, newer.reason) == ("error", "late")
        assert {(len(forest(trace)), len(trace), trace.complete) for trace in it.kept} == {
            (1, 4, True)
        }
        it.check_nothing_left()


async def test_a_forced_trace_is_kept(autojump_clock: MockClock) -> None:
    """Before anything in it has ended, and whatever the cap."""
    async with running(TraceSettings(baseline=0, max_spans_per_second=1)) as it:
        it.tracing.sampler.spent(100)
        async with raw_peer(it.gateway) as peer:
            await peer.send(register_header("raw", "do"))
            await peer.call("raw", "do", options=FORCED)
            _, _, call, _ = await peer.receive(Kind.CALL)
            await trio.sleep(0.1)
            (trace,) = it.kept
            assert (trace.reason, trace.duration, trace.complete) == ("forced", None, False)
            await peer.send(result_header(call.call_id))
            _, _, result, _ = await peer.receive(Kind.RESULT)
            assert result.keep == "forced"
            await trio.sleep(0.1)
            assert (trace.service, trace.method, len(trace)) == ("raw", "do", 2)
            assert it.counts == {"kept_forced": 1}


async def test_each_reason_and_method_has_a_quota(autojump_clock: MockClock) -> None:
    """What is over it is counted as that when it is dropped."""
    async with shop(TraceSettings(baseline=0, quota=2)) as (it, web):
        for _ in range(5):
            with pytest.raises(mesh.NotFound):
                await web.call("users", "fail")
        with pytest.raises(mesh.Unimplemented):
            await web.call("users", "nothing")
        await it.settled()
        assert it.counts == {"kept_error": 2, "kept_refused": 1, "over_quota": 3}
        it.check_nothing_left()


async def test_all_have_a_cap(autojump_clock: MockClock) -> None:
    """Spans of all processes count; over the cap nothing is kept for a while."""
    async with shop(TraceSettings(max_spans_per_second=4)) as (it, web):
        for _ in range(3):
            await web.call("users", "get")
        await trio.sleep(1.5)  # of 12 spans, 6 are still too many
        for _ in range(3):
            with pytest.raises(mesh.NotFound):
                await web.call("users", "fail")
        await it.settled()
        assert it.counts == {"kept_baseline": 3, "over_cap": 3}
        await trio.sleep(5)
        with pytest.raises(mesh.NotFound):
            await web.call("users", "fail")
        assert it.counts["kept_error"] == 1


async def test_a_call_in_flight_for_long_is_kept_before_it_ends(autojump_clock: MockClock) -> None:
    """So that what its peers recorded of its beginning is asked for while they have it."""
    async with shop() as (it, web):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: web.call("orders", "patient", 120, timeout=200))
            await trio.sleep(12)
            (trace,) = it.kept
            assert (trace.reason, trace.duration, trace.complete) == ("slow", None, False)
            assert {node.span.name for node in forest(trace)} == {"users.get"}
            assert len(trace) == 4
            assert trace.missing == []
        await it.settled()
        assert trace.complete
        assert tree(trace).outline == hop(
            "web",
            "orders",
            "orders.patient",
            hop("orders", "users", "users.get"),
            hop("orders", "users", "users.get"),
        )
        assert it.counts == {"kept_slow": 1}
        it.check_nothing_left()


async def test_calls_in_flight_for_long_take_from_the_quota_once(
    autojump_clock: MockClock,
) -> None:
    """Those that were over it are judged again each second, by a quota of their own.

    What comes new has the whole of its quota meanwhile.
    """
    async with (
        shop(TraceSettings(baseline=0, quota=1)) as (it, web),
        trio.open_nursery() as nursery,
    ):
        for _ in range(30):
            nursery.start_soon(web.call, "users", "wait", 25)
        await trio.sleep(12)
        for _ in range(5):
            await web.call("users", "wait", 1.2)
        await trio.sleep(0.1)
        new = [trace for trace in it.kept if trace.duration is not None]
        assert len(new) == 5, "each of those that came new"
        assert 6 <= len(it.kept) - len(new) <= 10, "one of the others each second"
        nursery.cancel_scope.cancel()


async def test_a_long_call_that_was_over_the_quota_keeps_what_came_first(
    autojump_clock: MockClock,
) -> None:
    """It fails after its peers have forgotten its beginning, and nothing of it is missing."""
    async with (
        shop(TraceSettings(baseline=0, quota=1)) as (it, web),
        trio.open_nursery() as nursery,
    ):

        async def broken() -> None:
            with pytest.raises(mesh.DeadlineExceeded):
                await web.call("orders", "patient", 120, timeout=100)

        for _ in range(3):
            nursery.start_soon(broken)
        await trio.sleep(105)
        assert [(trace.reason, trace.complete) for trace in it.kept] == [("slow", True)] * 3


async def test_a_trace_is_found_by_every_reason(autojump_clock: MockClock) -> None:
    """The first is the one that it was kept for; those that come later, and late, count, too."""
    async with shop() as (it, web):

        async def slow_and_bad() -> None:
            await web.call("users", "wait", 1.5)
            with pytest.raises(mesh.DeadlineExceeded):
                await web.call("users", "shielded", 0.3, timeout=0.1)
            raise mesh.NotFound("no")

        web.register("slow_and_bad", slow_and_bad)
        await settled(web)
        with pytest.raises(mesh.NotFound):
            await web.call("web", "slow_and_bad")
        await it.settled()
        (trace,) = it.kept
        assert (trace.reason, trace.reasons) == ("slow", ("slow", "error", "late"))
        for reason in trace.reasons:
            (found,) = await it.gateway.traces.find(reason=reason)
            assert (found.reason, found.reasons) == ("slow", ["slow", "error", "late"])
        assert await it.gateway.traces.find(reason="refused") == []
        assert it.counts == {"kept_slow": 1}


async def test_a_reason_that_was_over_its_quota_finds_what_was_kept_for_another(
    autojump_clock: MockClock,
) -> None:
    async with shop(TraceSettings(baseline=10, quota=0)) as (it, web):
        with pytest.raises(mesh.NotFound):
            await web.call("users", "fail")
        await it.settled()
        (found,) = await it.gateway.traces.find(reason="error")
        assert (found.reason, found.reasons) == ("baseline", ["error", "baseline"])


async def test_names_of_calls_that_wait_are_no_keys(autojump_clock: MockClock) -> None:
    """A gateway that is young waits for whatever is called; its quotas do not grow by that."""
    async with running() as it, it.peer("web") as web:

        async def call(number: int) -> None:
            with pytest.raises(mesh.NotFound):
                await web.call(f"unknown-{number}", "get", timeout=20)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(call, number)
        await it.settled()
        buckets = it.tracing.sampler._buckets.values()
        assert {key for one in buckets for key in one._full_at} <= {"_OTHER"}
        assert it.counts["kept_error"] == 10
        assert it.counts["kept_baseline"] == 10
