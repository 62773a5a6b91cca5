# ruff: noqa: ARG001 - a test on trio's jumping clock asks for it by an argument
"""KEEP and SPANS: what peers are asked, what they may answer, and who is named as missing."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.lowlevel

import mesh
from mesh.gateway.checks import check
from mesh.gateway.losses import BELIEVED
from mesh.wire import Kind, codec
from mesh_telemetry import TraceSettings
from mesh_telemetry.spans import CLIENT, SERVER, CallFacts, Span, build
from tests.gateway.raw_peer import RawPeer, raw_peer, register_header, result_header
from tests.gateway.traces import EPOCH, Mesh, running, tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from mesh_telemetry import KeptTrace

SPANS = (codec.SPANS_FEATURE,)
RESOURCE = {"service.name": "raw"}
ALL = TraceSettings(baseline=100_000, max_spans_per_second=1e9)


def span(trace_id: bytes, span_id: bytes, parent_id: bytes, kind: int, **more: Any) -> Span:
    at = int((EPOCH + trio.current_time()) * 1e9)
    return build(
        CallFacts(
            trace_id=trace_id, span_id=span_id, parent_id=parent_id, kind=kind, method="raw.do",
            start=at, end=at, code=0, **more,
        )
    )  # fmt: skip


async def tell(peer: RawPeer, asked: list[bytes], *some: Span, payload: Any = None) -> None:
    """Send SPANS."""
    packed = msgspec.msgpack.encode(payload if payload is not None else (RESOURCE, some, 0))
    await peer.send(codec.Spans(asked, len(some)), payload=packed)


async def play(peer: RawPeer, trace_id: bytes, span_id: bytes = b"caller-1") -> codec.Call:
    """Call itself and answer; returns the CALL as it was served."""
    await peer.call("raw", "do", trace_id=trace_id, span_id=span_id)
    _, _, call, _ = await peer.receive(Kind.CALL)
    await peer.send(result_header(call.call_id))
    await peer.receive(Kind.RESULT)
    assert isinstance(call, codec.Call)
    return call


def both(call: codec.Call, trace_id: bytes) -> tuple[Span, Span]:
    """The spans of caller and callee."""
    return (
        span(trace_id, b"caller-1", b"", CLIENT),
        span(trace_id, b"callee-1", call.span_id, SERVER),
    )


def trace_id(number: int = 1) -> bytes:
    return number.to_bytes(16)


@asynccontextmanager
async def one_peer(
    traces: TraceSettings = ALL, features: tuple[str, ...] = SPANS
) -> AsyncIterator[tuple[Mesh, RawPeer]]:
    async with (
        running(traces) as it,
        raw_peer(it.gateway, process_id="raw-1", features=features) as peer,
    ):
        await peer.send(register_header("raw", "do"))
        yield it, peer


def kept(it: Mesh, number: int = 1) -> KeptTrace:
    found = it.tracing.store.get(trace_id(number))
    assert found is not None
    return found


async def test_a_peer_that_answers_completes_the_trace(autojump_clock: MockClock) -> None:
    async with one_peer() as (it, peer):
        call = await play(peer, trace_id())
        await trio.sleep(0.1)
        assert kept(it).missing == ["raw (raw-1): has not answered yet"]
        await tell(peer, [trace_id()], *both(call, trace_id()))
        await trio.sleep(0.1)
        assert kept(it).complete
        assert [node.span.span_id for node in tree(kept(it)).walk()][::3] == [
            b"caller-1",
            b"callee-1",
        ]
        await trio.sleep(1.5)
        it.check_nothing_left()


async def test_an_answer_that_lacks_a_span_leaves_the_trace_incomplete(
    autojump_clock: MockClock,
) -> None:
    """However often it says that it was all; and what comes later still completes the trace."""
    async with one_peer() as (it, peer):
        call = await play(peer, trace_id())
        client, server = both(call, trace_id())
        await tell(peer, [trace_id()], client)
        await tell(peer, [trace_id()], client)
        await trio.sleep(7)
        assert kept(it).missing == ["raw (raw-1): did not tell 1 span within 5 s"]
        assert not kept(it).complete
        it.check_nothing_left()
        await tell(peer, [], server)
        await trio.sleep(0.1)
        assert kept(it).complete


async def test_spans_that_come_too_late_are_not_lost(autojump_clock: MockClock) -> None:
    """A peer that was stopped for a while: what it owed is no finding once all of it is there."""
    async with one_peer() as (it, peer):
        call = await play(peer, trace_id())
        client, server = both(call, trace_id())
        await trio.sleep(7)
        (loss,) = it.tracing.collector.debts.losses.recent(trio.current_time())
        assert (loss.process, loss.spans) == ("raw-1", 2)
        await tell(peer, [trace_id()], client)
        await trio.sleep(0.1)
        assert loss.spans == 1
        await tell(peer, [trace_id()], server)
        await trio.sleep(0.1)
        assert kept(it).complete
        assert check(it.gateway.core, it.gateway.views) == []


async def test_a_peer_that_never_answers_is_named_within_5_s(autojump_clock: MockClock) -> None:
    """A caller that heard by its answer is asked by KEEP as well, as an answer may get lost."""
    async with one_peer() as (it, peer):
        await play(peer, trace_id())
        _, _, header, _ = await peer.receive(Kind.KEEP)
        assert header.trace_ids == [trace_id()]
        await trio.sleep(7)
        assert kept(it).missing == ["raw (raw-1): did not tell 2 spans within 5 s"]
        it.check_nothing_left()
        assert it.tracing.store.get(trace_id()) is kept(it)


async def test_a_peer_without_the_feature_is_not_asked_and_named(
    autojump_clock: MockClock,
) -> None:
    async with one_peer(features=()) as (it, peer):
        await play(peer, trace_id())
        await trio.sleep(7)
        assert kept(it).missing == ["raw (raw-1): does not tell what it records"]
        it.check_nothing_left()
        await peer.call("raw", "nothing", trace_id=trace_id(2))
        await peer.receive(Kind.ERROR)
        await trio.sleep(3)
        assert not [frame for frame in peer._frames if frame[0] == Kind.KEEP]


async def test_spans_that_come_before_the_gateway_has_collected_are_taken(
    autojump_clock: MockClock,
) -> None:
    """A caller that hears by its answer may be quicker."""
    async with one_peer() as (it, peer):
        call = await play(peer, trace_id())
        await tell(peer, [trace_id()], *both(call, trace_id()))
        await peer.call("mesh", "status")
        await peer.receive(Kind.RESULT)
        assert kept(it).complete
        assert it.tracing.collector.lost()["not_kept"] == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x93\x80\x90",
        msgspec.msgpack.encode(({}, [1], 0)),
        msgspec.msgpack.encode(({}, [], "many")),
        msgspec.msgpack.encode(({}, [], -(2**63))),  # a counter that goes back
        msgspec.msgpack.encode(({}, [], 2**64 - 1)),  # two of these cannot be told any more
        msgspec.msgpack.encode(({}, [(b"", b"")], 0)),
        msgspec.msgpack.encode(({}, [(b"", b"", b"", "x", 1, "now", 2)], 0)),
        msgspec.msgpack.encode(({"service.name": {"a": 1}}, [], 0)),
        b"\x91" * 5000,
    ],
)
async def test_malformed_spans_close_the_connection(
    autojump_clock: MockClock, payload: bytes
) -> None:
    async with one_peer() as (it, peer):
        await peer.send(codec.Spans([], 1), payload=payload)
        assert "payload of SPANS" in await peer.goodbye()
        assert it.gateway.core.counters.protocol_errors == 1


async def test_spans_with_odd_contents_harm_nobody(autojump_clock: MockClock) -> None:
    """Ids of other lengths are left out; numbers without sense are shown as they are."""
    async with one_peer() as (it, peer):
        call = await play(peer, trace_id())
        client, server = both(call, trace_id())
        odd = span(trace_id(), b"short", b"", CLIENT)
        odd_parent = span(trace_id(), b"12345678", b"1", CLIENT)
        wild = span(trace_id(), b"abcdefgh", b"nobody..", 77)
        wild.start, wild.end, wild.status = -5, 2**63, 99
        wild.attributes = {"": float("nan"), "\U0001f600": [1, "a", True]}
        await tell(peer, [trace_id()], odd, odd_parent, wild, client, server)
        await trio.sleep(0.1)
        assert len(kept(it)) == 5
        assert kept(it).complete
        assert it.tracing.store.span_count == 5


async def test_spans_that_nobody_asked_for_are_dropped_and_counted(
    autojump_clock: MockClock,
) -> None:
    """Of a trace that is not kept, and of one in which the process took no part."""
    async with (
        one_peer() as (it, peer),
        raw_peer(it.gateway, "other", process_id="other-1", features=SPANS) as other,
    ):
        call = await play(peer, trace_id())
        await trio.sleep(0.1)
        await tell(peer, [trace_id(2)], *both(call, trace_id(2)))
        await tell(other, [trace_id()], *both(call, trace_id()))
        await trio.sleep(0.1)
        assert it.tracing.collector.lost()["not_kept"] == 4
        assert kept(it).missing == ["raw (raw-1): has not answered yet"]
        assert len(kept(it)) == 2


async def test_the_same_spans_twice_are_there_once(autojump_clock: MockClock) -> None:
    async with one_peer() as (it, peer):
        call = await play(peer, trace_id())
        for _ in range(2):
            await tell(peer, [trace_id()], *both(call, trace_id()))
        await tell(peer, [trace_id()], *both(call, trace_id()), *both(call, trace_id()))
        await trio.sleep(0.1)
        assert len(kept(it)) == it.tracing.store.span_count == 4
        assert kept(it).complete


async def test_very_many_spans_of_one_trace_are_bounded(autojump_clock: MockClock) -> None:
    """It gets a tenth of the store, the rest is counted, and the others stay."""
    async with one_peer(TraceSettings(store_spans=200)) as (it, peer):
        await play(peer, trace_id(2))
        call = await play(peer, trace_id())
        many = [span(trace_id(), (n + 1).to_bytes(8), b"", CLIENT) for n in range(100)]
        await tell(peer, [trace_id()], *many, *both(call, trace_id()))
        await trio.sleep(0.1)
        assert len(kept(it)) == 20
        assert kept(it).dropped == 84
        assert not kept(it).complete
        assert it.tracing.collector.lost()["trace_too_long"] == 84
        assert len(kept(it, 2)) == 2


async def test_a_peer_that_claims_to_have_lost_the_most_is_not_believed(
    autojump_clock: MockClock,
) -> None:
    """Neither in the counts of all, nor in the trace, nor where something is not in order."""
    async with one_peer() as (it, peer):
        await play(peer, trace_id())
        for _ in range(3):
            await tell(peer, [trace_id()], payload=(RESOURCE, [], 2**32))
        await trio.sleep(0.1)
        assert it.tracing.collector.lost()["lost_by_peer"] == BELIEVED
        assert kept(it).dropped == BELIEVED
        (finding,) = check(it.gateway.core, it.gateway.views)
        assert finding.what.startswith("at least 100,000 of its spans of kept traces are lost")


async def test_spans_of_a_trace_that_made_way_are_dropped_and_counted(
    autojump_clock: MockClock,
) -> None:
    """And what is owed of it is owed no more."""
    async with one_peer(TraceSettings(baseline=1000, store_spans=100)) as (it, peer):
        call = await play(peer, trace_id())
        for number in range(2, 60):
            await play(peer, trace_id(number))
        await trio.sleep(0.1)
        assert it.tracing.store.get(trace_id()) is None
        await tell(peer, [trace_id()], *both(call, trace_id()))
        await trio.sleep(0.1)
        assert it.tracing.collector.lost()["not_kept"] == 2
        await trio.sleep(8)
        it.check_nothing_left()


async def test_a_peer_is_told_of_at_most_256_traces_at_once(autojump_clock: MockClock) -> None:
    """And of each once, within one pause."""
    async with (
        running(ALL) as it,
        raw_peer(it.gateway, "web", process_id="web-1") as web,
        raw_peer(it.gateway, process_id="raw-1", features=SPANS) as peer,
    ):
        await peer.send(register_header("raw", "do"))
        for number in range(600):
            await web.call("raw", "do", trace_id=trace_id(number + 1))
        calls = [(await peer.receive(Kind.CALL))[2] for _ in range(600)]
        await peer.send(*[result_header(call.call_id) for call in calls])
        asked: list[list[bytes]] = []
        while sum(map(len, asked)) < 600:
            asked.append((await peer.receive(Kind.KEEP))[2].trace_ids)
        assert max(map(len, asked)) <= 256
        everything = [one for some in asked for one in some]
        assert sorted(everything) == [trace_id(number + 1) for number in range(600)]
        assert len(asked) < 60
        await trio.sleep(4)
        assert not [frame for frame in peer._frames if frame[0] == Kind.KEEP]


async def test_a_peer_that_reconnects_is_asked_again(autojump_clock: MockClock) -> None:
    """For 30 s it is named as disconnected, and after that for good."""
    async with running(ALL) as it:
        async with raw_peer(it.gateway, process_id="raw-1", features=SPANS) as peer:
            await peer.send(register_header("raw", "do"))
            calls = [await play(peer, trace_id(number)) for number in (1, 2)]
        gone = "raw (raw-1): disconnected before it sent its spans"
        await trio.sleep(20)
        assert kept(it, 1).missing == kept(it, 2).missing == [gone]
        async with raw_peer(it.gateway, process_id="raw-1", features=SPANS) as peer:
            _, _, header, _ = await peer.receive(Kind.KEEP)
            assert header.trace_ids == [trace_id(1), trace_id(2)]
            assert kept(it, 1).missing == ["raw (raw-1): has not answered yet"]
            await trio.sleep(3)
            await tell(peer, [trace_id()], *both(calls[0], trace_id()))
            await trio.sleep(0.1)
        assert kept(it, 1).complete
        await trio.sleep(32)
        assert kept(it, 2).missing == [gone]
        it.check_nothing_left()


async def test_a_process_with_two_connections_is_asked_on_the_other(
    autojump_clock: MockClock,
) -> None:
    """When one of them goes, also where the one that stays is older."""
    async with (
        running(ALL) as it,
        raw_peer(it.gateway, process_id="raw-1", features=SPANS) as stays,
    ):
        async with (
            raw_peer(it.gateway, process_id="raw-1", features=()),
            raw_peer(it.gateway, process_id="raw-1", features=SPANS) as goes,
        ):
            await goes.send(register_header("raw", "do"))
            call = await play(goes, trace_id())
            await trio.sleep(0.1)
        _, _, header, _ = await stays.receive(Kind.KEEP)
        assert header.trace_ids == [trace_id()]
        await tell(stays, [trace_id()], *both(call, trace_id()))
        await trio.sleep(0.1)
        assert kept(it).complete


async def test_a_peer_that_leaves_right_after_a_call_is_asked_before_the_goodbye(
    autojump_clock: MockClock,
) -> None:
    """Its KEEP comes before the gateway's GOAWAY, and what it tells before its end counts."""
    async with (
        running(ALL) as it,
        raw_peer(it.gateway, "web", process_id="web-1") as web,
        raw_peer(it.gateway, process_id="raw-1", features=SPANS) as peer,
    ):
        await peer.send(register_header("raw", "do"))
        await web.call("raw", "do", trace_id=trace_id(), span_id=b"caller-1")
        _, _, call, _ = await peer.receive(Kind.CALL)
        await peer.send(result_header(call.call_id), codec.GoAway("closing", 0))
        kind, _, header, _ = await peer.receive()
        assert kind == Kind.KEEP
        assert header.trace_ids == [trace_id()]
        assert (await peer.receive())[0] == Kind.GOAWAY
        await tell(peer, [trace_id()], both(call, trace_id())[1])
        await peer.stream.aclose()
        await trio.sleep(0.1)
        assert kept(it).missing == ["web (web-1): does not tell what it records"]


async def test_spans_that_take_too_many_bytes_are_dropped_and_counted(
    autojump_clock: MockClock,
) -> None:
    """A trace gets a tenth of them, the rest is told as dropped, and the others stay."""
    settings = TraceSettings(store_bytes=1 << 20, baseline=1000, max_spans_per_second=1e9)
    async with one_peer(settings) as (it, peer):
        await play(peer, trace_id(2))
        call = await play(peer, trace_id())
        for number in range(20):
            large = span(trace_id(), (number + 1).to_bytes(8), b"x" * 8, CLIENT)
            large.attributes["large"] = "x" * 16_000
            await tell(peer, [trace_id()], large)
        await tell(peer, [trace_id()], *both(call, trace_id()))
        await trio.sleep(0.1)
        store = it.tracing.store
        assert kept(it).size <= store.max_bytes // 10
        assert store.size == kept(it).size + kept(it, 2).size
        lost = it.tracing.collector.lost()
        assert lost["trace_too_large"] == kept(it).dropped > 10
        assert lost["trace_too_long"] == 0
        assert not kept(it).complete
        assert len(kept(it, 2)) == 2


async def test_much_of_one_trace_is_collected_in_slices(autojump_clock: MockClock) -> None:
    """Other tasks run in between; where the trace makes way meanwhile, it says so."""
    settings = TraceSettings(baseline=0, quota=1000, store_spans=20_000, max_spans_per_second=1e9)
    async with one_peer(settings) as (it, peer):
        await peer.send(register_header("raw", "outer", "inner"))
        await peer.call("raw", "outer", trace_id=trace_id())
        _, _, outer, _ = await peer.receive(Kind.CALL)
        for number in range(600):
            await peer.call("raw", "inner", parent_id=outer.call_id, span_id=number.to_bytes(8))
            _, _, inner, _ = await peer.receive(Kind.CALL)
            await peer.send(result_header(inner.call_id))
            await peer.receive(Kind.RESULT)
        await peer.send(codec.refusal(outer.call_id, 13, "BROKEN", "no"))
        await peer.receive(Kind.ERROR)
        collector, store = it.tracing.collector, it.tracing.store
        await trio.sleep(0.02)
        counts: list[int] = []
        while collector._fresh:
            await trio.lowlevel.checkpoint()
            counts.append(store.span_count)
        assert len(counts) >= 20
        assert (
            max(after - before for before, after in pairwise(counts)) <= 100
        )  # two slices at most
        assert len(kept(it)) == 2 * 601
        assert kept(it).missing == ["raw (raw-1): has not answered yet"]


async def test_a_trace_that_makes_way_between_two_slices_says_so(
    autojump_clock: MockClock,
) -> None:
    settings = TraceSettings(baseline=0, quota=1000, store_spans=2_000, max_spans_per_second=1e9)
    async with one_peer(settings) as (it, peer):
        await peer.send(register_header("raw", "outer", "inner"))
        await peer.call("raw", "outer", trace_id=trace_id())
        _, _, outer, _ = await peer.receive(Kind.CALL)
        for number in range(80):
            await peer.call("raw", "inner", parent_id=outer.call_id, span_id=number.to_bytes(8))
            _, _, inner, _ = await peer.receive(Kind.CALL)
            await peer.send(result_header(inner.call_id))
            await peer.receive(Kind.RESULT)
        await peer.send(codec.refusal(outer.call_id, 13, "BROKEN", "no"))
        await peer.receive(Kind.ERROR)
        store = it.tracing.store
        await trio.sleep(0.02)
        while it.tracing.store.get(trace_id()) is None:
            await trio.lowlevel.checkpoint()
        for number in range(1_000, 1_501):
            store.open(trace_id(number), "error", 0)
        assert store.get(trace_id()) is None
        await trio.sleep(0.1)
        assert 0 < len(kept(it)) < 2 * 81
        assert "newer traces needed the room" in "".join(kept(it).missing)


async def test_rows_of_all_traces_together_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest trace loses them; if it is kept later it says so, and it is counted."""
    monkeypatch.setattr("mesh.gateway.tracing.GATEWAY_ROWS", 1_200)
    settings = TraceSettings(baseline=0, max_spans_per_second=1e9)
    async with running(settings) as it, raw_peer(it.gateway, process_id="raw-1") as peer:
        await peer.send(register_header("raw", "outer", "inner"))
        outers: list[codec.Call] = []
        for number in range(1, 4):
            await peer.call("raw", "outer", trace_id=trace_id(number), timeout_us=10**8)
            _, _, outer, _ = await peer.receive(Kind.CALL)
            outers.append(outer)
            for _ in range(500):
                await peer.call("raw", "inner", parent_id=outer.call_id)
                _, _, inner, _ = await peer.receive(Kind.CALL)
                await peer.send(result_header(inner.call_id))
                await peer.receive(Kind.RESULT)
        await trio.sleep(0.5)
        assert [len(trace.rows) for trace in it.tracing.traces.values()] == [0, 500, 500]
        for outer in outers:
            await peer.send(codec.refusal(outer.call_id, 13, "BROKEN", "no"))
            await peer.receive(Kind.ERROR)
        await trio.sleep(0.1)
        assert "as more calls went on than it holds" in "".join(kept(it, 1).missing)
        assert "as more calls went on" not in "".join(kept(it, 2).missing)
        assert it.tracing.collector.lost()["crowded_out"] == 2 * 500


async def test_a_kept_trace_that_made_way_before_its_end_is_not_complete(
    autojump_clock: MockClock,
) -> None:
    """What was early kept and let go is not there any more, and the trace says so."""
    settings = TraceSettings(store_spans=100, quota=1000, baseline=1000, max_spans_per_second=1e6)
    async with running(settings) as it, it.peer("svc") as peer, it.peer("caller") as caller:
        svc: mesh.Client = peer

        async def bad(_: object) -> None:
            raise mesh.NotFound("x")

        async def long(_: object) -> None:
            with suppress(mesh.NotFound):
                await svc.call("svc", "bad")
            await trio.sleep(2)

        for name, handler in (("bad", bad), ("long", long)):
            svc.register(name, handler)
        async with trio.open_nursery() as nursery:

            async def entry() -> None:
                with mesh.activity("long"):
                    await caller.call("svc", "long")

            nursery.start_soon(entry)
            await trio.sleep(0.5)
            (early,) = await it.gateway.traces.find(activity_id="long")
            assert early.spans
            for _ in range(60):
                with suppress(mesh.NotFound):
                    await caller.call("svc", "bad")
            await trio.sleep(0.5)
            assert not await it.gateway.traces.find(activity_id="long")
        await it.settled()
        (late,) = await it.gateway.traces.find(activity_id="long")
        assert late.spans < 8
        assert not late.complete
        assert "newer traces needed the room" in "".join(late.missing)
