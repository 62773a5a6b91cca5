"""How a peer tells what it recorded: in slices, within bounds, and again where it is asked."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

import mesh
from mesh.limits import Limits
from mesh.wire import Kind, codec
from mesh_telemetry import TraceSettings
from mesh_telemetry.bounds import UNTOLD
from mesh_telemetry.peer_records import PeerRecords
from mesh_telemetry.spans import Batch, Span
from tests.client.one_trace import pair
from tests.gateway.raw_peer import HandGateway, error_header, result_header, settled
from tests.gateway.traces import QUIET, process, running
from tests.telemetry.peer_rows import row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from mesh.uplink import Uplink


@asynccontextmanager
async def told_by_hand(
    *, lockstep: bool = False, limits: Limits | None = None
) -> AsyncIterator[tuple[HandGateway, Uplink]]:
    """A gateway written by hand, and the inside of a peer that is connected to it."""
    gateway = HandGateway(lockstep=lockstep, features=[codec.TRACES_FEATURE])
    clients: list[mesh.Client] = []
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            async with mesh.connect(
                "web", gateway=gateway, process=process("web"), limits=limits
            ) as web:
                clients.append(web)
                await trio.sleep_forever()

        nursery.start_soon(peer)
        await gateway.accept()
        await trio.sleep(0.1)
        yield gateway, clients[0]._uplink
        nursery.cancel_scope.cancel()


async def test_a_kept_trace_is_told_once_more_when_asked_again(autojump_clock: MockClock) -> None:
    """By KEEP, by the hint of an answer, and what ends later by itself."""
    gateway = HandGateway(features=[codec.TRACES_FEATURE])

    async def spans() -> tuple[list[bytes], list[Span]]:
        asked: list[bytes] = []
        found: list[Span] = []
        while not asked:
            _, _, header, payload = await gateway.receive(Kind.SPANS)
            asked += header.trace_ids
            found += msgspec.msgpack.decode(payload, type=Batch).spans
        return asked, found

    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            async with mesh.connect("web", gateway=gateway, process=process("web")) as web:
                for _ in range(2):
                    await web.call("users", "get")
                with pytest.raises(mesh.CallError):
                    await web.call("users", "get")
                await trio.sleep_forever()

        nursery.start_soon(peer)
        await gateway.accept()
        _, _, first, _ = await gateway.receive(Kind.CALL)
        await gateway.send(result_header(first.call_id), payload=b"\xc0")
        _, _, second, _ = await gateway.receive(Kind.CALL)
        hint = result_header(second.call_id)
        hint.keep = "baseline"
        await gateway.send(hint, payload=b"\xc0")
        _, _, third, _ = await gateway.receive(Kind.CALL)
        asked, told = await spans()
        assert asked == [second.trace_id]
        assert [span.span_id for span in told] == [second.span_id]
        for _ in range(2):
            await gateway.send(codec.Keep([first.trace_id, b"\7" * 16]))
            asked, told = await spans()
            assert asked == [first.trace_id, b"\7" * 16]
            assert [span.span_id for span in told] == [first.span_id]
        await gateway.send(codec.Keep([third.trace_id]))
        asked, told = await spans()
        assert (asked, told) == ([third.trace_id], [])
        failed = error_header(third.call_id, 5, "no", "GONE")
        failed.keep = "error"
        await gateway.send(failed)
        _, told = await spans()
        assert [span.span_id for span in told] == [third.span_id]
        nursery.cancel_scope.cancel()


async def test_a_span_that_cannot_be_told_costs_nothing_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one whose name somebody has replaced by what is no text."""
    async with pair() as (it, users, web):

        async def get() -> None:
            otel.get_current_span()._name = object()  # type: ignore[attr-defined]

        async def fine() -> None: ...

        users.register("get", get)
        users.register("fine", fine)
        await settled(users)
        await web.call("users", "get")
        await web.call("users", "fine")
        for seconds in (0.5, 8):
            await trio.sleep(seconds)
            fine_trace, odd = it.kept
            assert fine_trace.complete
            assert odd.missing == ["users (users-1): lost 1 span of it"]
            assert odd.dropped == 1
            assert it.tracing.collector.lost()["lost_by_peer"] == 1
        it.check_nothing_left()
    assert "a span cannot be told" in caplog.text


async def test_spans_that_cannot_be_told_are_logged_once_a_minute_with_their_number(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway does not ask a second time for what it knows to be lost."""
    async with pair() as (_, users, web):

        async def get() -> None:
            otel.get_current_span()._name = object()  # type: ignore[attr-defined]

        users.register("get", get)
        await settled(users)
        for pause in (1, 1, 60, 1):
            with mesh.traced():
                await web.call("users", "get")
            await trio.sleep(pause)
    said = [one for one in caplog.records if "a span cannot be told" in one.message]
    assert [one.message.split("(")[1] for one in said] == [
        "0 more times since this was said last)",
        "2 more times since this was said last)",
    ]
    assert all(one.exc_info for one in said)


async def test_a_gateway_that_does_not_read_is_not_told_without_end(
    autojump_clock: MockClock,
) -> None:
    """Where the outbox is full, calls go first; what waits is bounded, what is lost is told."""
    async with told_by_hand(lockstep=True, limits=Limits(max_outbox=1024 * 1024)) as (
        gateway,
        uplink,
    ):
        uplink.reporter.keep([b"t" * 16])
        for number in range(40):
            for index in range(500):
                uplink.records.add(row(uplink.source, number * 500 + index, trio.current_time()))
            await trio.sleep(0.1)
        link = uplink.link
        assert link is not None
        assert link.queued <= 1.2 * link.limit
        late = uplink.reporter._late
        assert len(late) == UNTOLD
        assert late.dropped["too_many"] > 0
        told = lost = 0
        asked: list[bytes] = []
        while told + lost < 20_000:
            _, _, header, payload = await gateway.receive(Kind.SPANS)
            batch = msgspec.msgpack.decode(payload, type=Batch)
            told, lost = told + len(batch.spans), lost + batch.dropped
            asked += header.trace_ids
        assert (told + lost, lost) == (20_000, late.dropped["too_many"])
        assert asked == [b"t" * 16]


async def test_what_was_asked_for_stays_so_while_the_gateway_does_not_read(
    autojump_clock: MockClock,
) -> None:
    """It is told once there is room: each trace, with all that there is of it."""
    ids = [number.to_bytes(16) for number in range(1, 201)]
    async with told_by_hand(lockstep=True, limits=Limits(max_outbox=64 * 1024)) as (
        gateway,
        uplink,
    ):
        for number, trace_id in enumerate(ids):
            for index in range(5):
                uplink.records.add(
                    row(uplink.source, 5 * number + index, trio.current_time(), trace_id)
                )
        assert uplink.link is not None
        while not uplink.link.full:
            uplink.link.put_bulk(0, codec.encode_header(codec.GoAway("full", 0), bytes(1000)))
        uplink.reporter.keep(ids[:100])
        await trio.sleep(1)
        uplink.reporter.keep(ids[100:])
        await trio.sleep(1)
        told: list[int] = []
        asked: list[bytes] = []
        while len(asked) < 200:
            _, _, header, payload = await gateway.receive(Kind.SPANS)
            asked += header.trace_ids
            batch = msgspec.msgpack.decode(payload, type=Batch)
            told += [int.from_bytes(span.span_id) for span in batch.spans]
        assert sorted(told) == list(range(1000))
        assert asked == ids
        assert not uplink.reporter._asked


async def test_much_of_one_trace_is_told_in_slices(autojump_clock: MockClock) -> None:
    """Other tasks run every hundred spans; what ends or goes meanwhile does no harm."""
    async with told_by_hand() as (gateway, uplink):
        for number in range(16_000):
            uplink.records.add(row(uplink.source, number, trio.current_time()))
        uplink.reporter.keep([b"t" * 16])
        turns = 0
        await trio.sleep(0.02)
        while uplink.reporter._asked:
            await trio.lowlevel.checkpoint()
            turns += 1
            if turns == 20:  # half of what is being told makes way
                for number in range(16_000, 26_000):
                    uplink.records.add(row(uplink.source, number, trio.current_time(), b"u" * 16))
                for number in range(26_000, 26_100):
                    uplink.records.add(row(uplink.source, number, trio.current_time()))
        assert turns >= 100
        told: set[int] = set()
        while len(told) < 16_100:
            _, _, _, payload = await gateway.receive(Kind.SPANS)
            batch = msgspec.msgpack.decode(payload, type=Batch)
            told |= {int.from_bytes(span.span_id) for span in batch.spans}
        assert told == {*range(16_000), *range(26_000, 26_100)}


async def test_a_connection_that_is_lost_between_two_slices(autojump_clock: MockClock) -> None:
    """What was not told is asked for again over the next one."""
    async with told_by_hand() as (gateway, uplink):
        for number in range(5_000):
            uplink.records.add(row(uplink.source, number, trio.current_time()))
        uplink.reporter.keep([b"t" * 16])
        await trio.sleep(0.02)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert uplink.reporter._telling is not None
        await gateway.stream.aclose()
        await gateway.accept()
        await trio.sleep(0.1)
        assert not uplink.reporter._asked
        await gateway.send(codec.Keep([b"t" * 16]))
        told: list[int] = []
        asked: list[bytes] = []
        while not asked:
            _, _, header, payload = await gateway.receive(Kind.SPANS)
            asked += header.trace_ids
            batch = msgspec.msgpack.decode(payload, type=Batch)
            told += [int.from_bytes(span.span_id) for span in batch.spans]
        assert sorted(told) == list(range(5_000))


async def test_what_handlers_put_into_spans_is_bounded_by_bytes(autojump_clock: MockClock) -> None:
    """The oldest rows make way, which is counted with that reason; plain ones have no weight."""
    users_process, megabyte = process("users"), 1 << 20
    users_process.records = PeerRecords(max_bytes=2 * megabyte)
    async with (
        running(TraceSettings(baseline=0, quota=0)) as it,
        it.peer("users", process=users_process) as users,
        it.peer("web") as web,
    ):

        async def get() -> None:
            for number in range(6):
                otel.get_current_span().set_attribute(f"large.{number}", "x" * 16_000)

        async def plain() -> None: ...

        users.register("get", get)
        users.register("plain", plain)
        await settled(users)
        records = users_process.records
        for _ in range(100):
            await web.call("users", "plain")
        assert records.size == 0
        before = len(records)
        for _ in range(100):
            await web.call("users", "get")
            assert records.size <= 2 * megabyte
        assert len(records) >= 15
        assert records.dropped["too_large"] + len(records) == before + 100
        assert records.dropped["too_many"] == 0


async def test_spans_that_come_while_others_are_told_are_told_or_counted(
    autojump_clock: MockClock,
) -> None:
    """A new span may get the place in memory of one that has been told."""
    trace_id = (1).to_bytes(16)
    provider = TracerProvider()
    above = otel.set_span_in_context(
        otel.NonRecordingSpan(
            otel.SpanContext(1, 1, is_remote=True, trace_flags=otel.TraceFlags(1))
        )
    )
    async with running(QUIET) as it, it.peer("users") as users:
        reporter, records = users._uplink.reporter, users._uplink.records
        records.keep(trace_id, reporter)
        made, told = set(), set()

        def burst(count: int) -> None:
            for _ in range(count):
                span = provider.get_tracer("t").start_span("s", above)
                span.end()
                assert isinstance(span, ReadableSpan)
                made.add(span.get_span_context().span_id)
                records.users.ended(span)

        burst(UNTOLD)
        reporter._late_spans.empty()  # what is found is told of by that
        for number, span in enumerate(reporter._users(frozenset([trace_id])), 1):
            told.add(span.context.span_id)
            if number == UNTOLD:
                burst(1)
            elif UNTOLD < number < UNTOLD + 200:
                burst(50)
        lost = sum(reporter._late_spans.dropped.values())
        assert len(made) == len(told) + lost - UNTOLD * (lost >= UNTOLD)
