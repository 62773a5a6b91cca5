# ruff: noqa: ARG001 - a test on trio's jumping clock asks for it by an argument
"""A peer's part in traces: what it records, whose child that is, and how it tells of it."""

from __future__ import annotations

import logging
import math
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

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
from mesh_telemetry.spans import CLIENT, ERROR, SERVER, UNSET, Batch, Span
from tests.gateway.raw_peer import HandGateway, MemoryDialer, error_header, result_header, settled
from tests.gateway.traces import EPOCH, QUIET, Mesh, Node, forest, hop, process, running, tree
from tests.telemetry.peer_rows import row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

ALL = TraceSettings(baseline=10_000, max_spans_per_second=1e9)


@asynccontextmanager
async def pair(
    traces: TraceSettings = ALL, **more: Any
) -> AsyncIterator[tuple[Mesh, mesh.Client, mesh.Client]]:
    """A service named users, and a caller named web."""
    async with (
        running(traces, **more) as it,
        it.peer("users") as users,
        it.peer("web") as web,
    ):
        yield it, users, web


async def only(it: Mesh) -> Node:
    """The tree of the only kept trace, which must be complete."""
    await it.settled()
    (trace,) = it.kept
    assert trace.missing == []
    assert trace.complete
    return tree(trace)


def attributes(node: Node) -> dict[str, Any]:
    return dict(node.span.attributes)


async def test_the_four_spans_of_a_hop(autojump_clock: MockClock) -> None:
    """Names, kinds, parents, statuses and attributes are those of the conventions."""
    async with pair() as (it, users, web):

        async def get() -> None:
            await trio.sleep(0.25)

        users.register("get", get)
        await settled(users)
        began = EPOCH + trio.current_time()
        with mesh.activity("order-42"):
            await web.call("users", "get", timeout=2)
        root = await only(it)
    client, server, passing, serving = root.walk()
    assert [node.span.kind for node in root.walk()] == [CLIENT, SERVER, CLIENT, SERVER]
    assert {node.span.name for node in root.walk()} == {"users.get"}
    assert {(node.span.status, node.span.status_message) for node in root.walk()} == {(UNSET, "")}
    assert [[event.name for event in node.span.events] for node in root.walk()] == [
        [],
        ["mesh.decision.kept_baseline"],
        [],
        [],
    ]
    for node in root.walk():
        assert node.span.start / 1e9 == pytest.approx(began, abs=0.001)
        assert node.span.end / 1e9 == pytest.approx(began + 0.25, abs=0.001)
    common = {
        "rpc.system.name": "mesh",
        "rpc.method": "users.get",
        "rpc.status_code": "ok",
        "mesh.call.outcome": "ok",
        "mesh.activity.id": "order-42",
        "mesh.call.chain": ["users.get"],
        "mesh.call.depth": 1,
        "mesh.call.attempt": 1,
        "mesh.call.deadline_ms": pytest.approx(2000, abs=1),
        "mesh.caller": "web",
    }
    assert attributes(client) == {
        **common,
        "server.address": "in process",
        "mesh.keep.reason": "baseline",  # as it is the root
    }
    for node in (server, passing):
        told = attributes(node)
        told.pop("network.peer.address", None)
        told.pop("server.address", None)
        told.pop("mesh.keep.reason", None)
        assert told == {**common, "mesh.instance.id": "users-1"}
    assert attributes(server)["mesh.keep.reason"] == "baseline"
    assert attributes(serving) == {**common, "mesh.instance.id": "users-1"}


@pytest.mark.parametrize(
    ("error", "on_server"),
    [
        (mesh.NotFound("gone"), UNSET),
        (mesh.InvalidArgument("bad"), UNSET),
        (mesh.PermissionDenied("no"), UNSET),
        (mesh.Unavailable("down"), ERROR),
        (mesh.Internal("broken"), ERROR),
        (ValueError("odd"), ERROR),
    ],
)
async def test_whose_fault_an_error_is(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, error: Exception, on_server: int
) -> None:
    """Every failure is an error for who called; on the server only what it has done itself."""
    caplog.set_level(logging.CRITICAL, "mesh.service")
    async with pair() as (it, users, web):

        async def get() -> None:
            raise error

        users.register("get", get)
        await settled(users)
        with pytest.raises(mesh.CallError):
            await web.call("users", "get")
        nodes = (await only(it)).walk()
    assert [node.span.status for node in nodes] == [ERROR, on_server, ERROR, on_server]
    for node in nodes:
        failed = node.span.status == ERROR
        assert ("error.type" in node.span.attributes) == failed
        assert (error.args[0] in node.span.status_message) == failed
    events = [event.name for node in nodes for event in node.span.events]
    assert events.pop(0) == "mesh.decision.kept"
    if isinstance(error, ValueError):
        assert events == ["exception"]
        (event,) = nodes[3].span.events
        assert event.attributes == {"exception.type": "ValueError", "exception.message": "odd"}
        assert attributes(nodes[3])["error.type"] == "ValueError"
    else:
        assert events == []


async def test_a_message_that_cannot_be_encoded_harms_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the name of a file that is no text."""
    caplog.set_level(logging.CRITICAL, "mesh.service")
    async with pair() as (it, users, web):

        async def get() -> None:
            raise ValueError("no file caf\udce9")

        users.register("get", get)
        await settled(users)
        for _ in range(2):
            with pytest.raises(mesh.Unknown):
                await web.call("users", "get")
            await it.settled()
        assert [trace.complete for trace in it.kept] == [True, True]
        assert "no file caf?" in tree(it.kept[0]).walk()[3].span.status_message


async def test_whose_child_a_nested_call_is(autojump_clock: MockClock) -> None:
    """The handler's own span's, from child tasks and from workers that are used again."""
    async with pair() as (it, users, web):

        async def leaf(number: int) -> int:
            return number

        async def fan(number: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(users.call, "users", "leaf", number)

        users.register("leaf", leaf)
        users.register("fan", fan)
        await settled(users)
        for number in range(3):
            await web.call("users", "fan", number)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(web.call, "users", "fan", number)
        await it.settled()
        below = hop("users", "users", "users.leaf")
        outlines = [tree(trace).outline for trace in it.kept]
        assert outlines == [hop("web", "users", "users.fan", below, below)] * 6
        assert all(trace.complete for trace in it.kept)


async def test_whose_child_a_call_from_a_thread_is() -> None:
    """The span's of the handler that the thread works for, whether that is plain or sends work."""
    async with pair() as (it, users, web):

        async def leaf() -> None: ...

        def plain() -> None:
            trio.from_thread.run(users.call, "users", "leaf")

        async def sends() -> None:
            await trio.to_thread.run_sync(plain)

        users.register("leaf", leaf)
        users.register("plain", plain)
        users.register("sends", sends)
        await settled(users)
        for method in ("plain", "sends"):
            await web.call("users", method)
        with trio.fail_after(10):
            while not (len(it.kept) == 2 and all(trace.complete for trace in it.kept)):
                await trio.lowlevel.checkpoint()
        below = hop("users", "users", "users.leaf")
        assert [tree(trace).outline for trace in it.kept] == [
            hop("web", "users", f"users.{method}", below) for method in ("sends", "plain")
        ]


async def test_whose_child_a_call_inside_a_span_of_the_users_is(
    autojump_clock: MockClock,
) -> None:
    """That span's, on both sides; its trace is the call's where there was none."""
    tracer = TracerProvider().get_tracer("test")
    async with pair() as (it, users, web):
        inside: list[otel.SpanContext] = []

        async def leaf() -> None: ...

        async def get() -> None:
            with tracer.start_as_current_span("work") as span:
                inside.append(span.get_span_context())
                await users.call("users", "leaf")

        users.register("leaf", leaf)
        users.register("get", get)
        await settled(users)
        with tracer.start_as_current_span("request") as outer:
            await web.call("users", "get")
        await it.settled()
        (trace,) = it.kept
        assert int.from_bytes(trace.trace_id) == outer.get_span_context().trace_id
        spans = {(span.kind, span.name, str(resource["service.name"])): span
                 for resource, span in trace.spans()}  # fmt: skip
        entry = spans[CLIENT, "users.get", "web"]
        assert int.from_bytes(entry.parent_id) == outer.get_span_context().span_id
        nested = spans[CLIENT, "users.leaf", "users"]
        assert int.from_bytes(nested.parent_id) == inside[0].span_id
        served = spans[SERVER, "users.get", "users"].span_id
        assert {span.parent_id for span in spans.values()} >= {served} or inside
        assert trace.complete


async def test_what_a_handler_does_to_its_span_is_told(autojump_clock: MockClock) -> None:
    async with pair() as (it, users, web):

        async def get() -> None:
            span = otel.get_current_span()
            span.set_attribute("user.id", "123")
            span.add_event("found")
            span.update_name("find a user")

        users.register("get", get)
        await settled(users)
        await web.call("users", "get")
        *_, serving = (await only(it)).walk()
    assert serving.span.name == "find a user"
    assert attributes(serving)["user.id"] == "123"
    assert [event.name for event in serving.span.events] == ["found"]


async def test_a_span_larger_than_a_frame_is_clipped(autojump_clock: MockClock) -> None:
    """And says so; what the mesh knows of the call stays."""
    async with pair() as (it, users, web):

        async def get(size: int) -> None:
            span = otel.get_current_span()
            for number in range(16):
                span.set_attribute(f"large.{number}", "x" * size)
            span.add_event("large", {"text": "x" * size})

        users.register("get", get)
        await settled(users)
        await web.call("users", "get", 14_000)
        *_, serving = (await only(it)).walk()
    told = attributes(serving)
    assert told["mesh.clipped"] is True
    assert told["rpc.method"] == "users.get"
    assert 64 <= len(told["large.0"]) < 14_000
    assert len(msgspec.msgpack.encode(serving.span)) < 64 * 1024


@pytest.mark.parametrize("max_chunk", [16, 256, 600, 2048])
async def test_small_frames_break_no_connection(autojump_clock: MockClock, max_chunk: int) -> None:
    """Where not even a clipped span fits, the trace says what is missing."""
    async with pair(limits=Limits(max_chunk=max_chunk)) as (it, users, web):

        async def get() -> None: ...

        users.register("get", get)
        await settled(users)
        await web.call("users", "get")
        await trio.sleep(8)
        (trace,) = it.kept
        assert trace.complete or len(trace.missing) == 2
        assert it.gateway.core.counters.protocol_errors == 0
        assert trace.complete or max_chunk < 2048


async def test_cancelled_and_late_calls_have_outcomes_of_their_own(
    autojump_clock: MockClock,
) -> None:
    """A task that is cancelled, a scope that times out, a timeout, and one that was too short."""
    async with pair() as (it, users, web):
        users.register("wait", trio.sleep_forever)
        await settled(users)
        with trio.move_on_after(0.1):
            await web.call("users", "wait")
        with pytest.raises(mesh.DeadlineExceeded):
            await web.call("users", "wait", timeout=0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(web.call, "users", "wait")
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        await it.settled()
        by_task, by_timeout, by_scope = it.kept
        for trace, code in (
            (by_task, "cancelled"),
            (by_timeout, "deadline_exceeded"),
            (by_scope, "deadline_exceeded"),
        ):
            assert trace.complete
            nodes = tree(trace).walk()
            assert attributes(nodes[0])["mesh.call.outcome"] == code
            assert attributes(nodes[1])["mesh.call.outcome"] == code
            assert len(nodes) == 4


async def test_a_call_that_never_left_is_in_the_trace_of_its_parent(
    autojump_clock: MockClock,
) -> None:
    """Parameters that cannot be encoded, or are too many, and no time left."""
    async with pair(limits=Limits(max_message=100_000)) as (it, users, web):

        async def get() -> None:
            for params, timeout in ((object(), 1.0), (bytes(200_000), 1.0), (None, 0.0)):
                with pytest.raises(mesh.CallError):
                    await users.call("users", "get", params, timeout=timeout)

        users.register("get", get)
        await settled(users)
        await web.call("users", "get")
        *_, serving = (await only(it)).walk()[:4]
    assert sorted(attributes(node)["error.type"] for node in serving.below) == [
        "DEADLINE_EXCEEDED",
        "MESSAGE_TOO_LARGE",
        "UNENCODABLE",
    ]
    assert {tuple(attributes(node)["mesh.call.chain"]) for node in serving.below} == {
        ("users.get", "users.get")
    }


async def test_the_wait_for_a_connection_is_part_of_the_callers_span(
    autojump_clock: MockClock,
) -> None:
    async with running(ALL) as it:
        dialer = MemoryDialer(None)
        async with (
            it.peer("users") as users,
            it.peer("web", gateway=dialer, connect_timeout=0) as web,
        ):

            async def get() -> None: ...

            users.register("get", get)
            await settled(users)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(web.call, "users", "get")
                await trio.sleep(1)
                dialer.gateway = it.gateway
            # Nobody had asked for records when it began; the next one is told.
            await web.call("users", "get")
            await it.settled()
            newer, older = it.kept
            assert newer.complete
            client, server, *_ = tree(older).walk()
            assert server.span.start - client.span.start >= 1e9


async def test_calls_and_answers_of_many_frames(autojump_clock: MockClock) -> None:
    """Also one that is cancelled before its last frame has left: it has reached nobody."""
    async with pair() as (it, users, web):

        async def echo(data: bytes) -> bytes:
            return data

        users.register("echo", echo)
        await settled(users)
        assert len(await web.call("users", "echo", bytes(2**20))) == 2**20
        assert (await only(it)).outline == hop("web", "users", "users.echo")


async def test_an_infinite_timeout_is_no_attribute(autojump_clock: MockClock) -> None:
    async with pair() as (it, users, web):

        async def get() -> None: ...

        users.register("get", get)
        await settled(users)
        await web.call("users", "get", timeout=math.inf)
        assert "mesh.call.deadline_ms" not in attributes(await only(it))


async def test_a_caller_that_leaves_right_after_its_answer_has_told_all(
    autojump_clock: MockClock,
) -> None:
    """Whether that was a result or an error, and of one that was kept for a reason or not."""
    async with running(ALL) as it, it.peer("users") as users:

        async def get(fails: bool) -> None:  # noqa: FBT001
            if fails:
                raise mesh.NotFound("no")

        users.register("get", get)
        await settled(users)
        for number, fails in enumerate((False, True)):
            async with it.peer("web", process=process(f"web{number}")) as web:
                try:
                    await web.call("users", "get", fails)
                except mesh.NotFound:
                    assert fails
        told = [
            [str(resource["service.name"]) for resource, _ in trace.spans()] for trace in it.kept
        ]
        assert [names.count("web") for names in told] == [1, 1]
        await it.settled()
        assert [trace.complete for trace in it.kept] == [True, True]
        it.check_nothing_left()


async def test_a_service_that_leaves_right_after_its_answer_has_told_all(
    autojump_clock: MockClock,
) -> None:
    async with running(ALL) as it, it.peer("web") as web:
        async with it.peer("users") as users:

            async def get() -> None: ...

            users.register("get", get)
            await settled(users)
            await web.call("users", "get")
        await it.settled()
        assert it.kept[0].complete


async def test_a_handler_that_outlives_its_connection_is_told_after_the_next(
    autojump_clock: MockClock,
) -> None:
    """As cancelled; the trace is complete once it has been."""
    async with running(QUIET) as it, it.peer("web") as web:
        dialer = MemoryDialer(it.gateway)
        async with it.peer("users", gateway=dialer) as users:
            users.register("wait", trio.sleep_forever)
            await settled(users)

            async def lost() -> None:
                with pytest.raises(mesh.Unavailable):
                    await web.call("users", "wait")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lost)
                await trio.sleep(0.1)
                await dialer.cut()
            await trio.sleep(5)
            *_, serving = (await only(it)).walk()
            assert attributes(serving)["mesh.call.outcome"] == "cancelled"
            assert attributes(serving)["mesh.call.chain"] == ["users.wait"]
            it.check_nothing_left()


async def test_a_process_goes_on_telling_when_one_of_its_peers_has_left(
    autojump_clock: MockClock,
) -> None:
    """A call in flight, of which the peer that was asked cannot tell any more."""
    async with running(TraceSettings(baseline=0)) as it, it.peer("users") as users:
        shared = process("web")

        async def wait(seconds: float) -> None:
            await trio.sleep(seconds)

        users.register("wait", wait)
        await settled(users)
        async with it.peer("web", process=shared) as web, trio.open_nursery() as nursery:

            async def outer() -> None:
                await web.call("users", "wait", 1)
                await web.call("users", "wait", 20)

            web.register("outer", outer)
            async with it.peer("other", process=shared) as other:
                await settled(web)
                nursery.start_soon(lambda: web.call("web", "outer", timeout=60))
                await trio.sleep(12)
                await settled(other)
            await trio.sleep(14)
            (trace,) = it.kept
            assert trace.missing == []
            assert trace.complete
            assert len(trace) == 12
        it.check_nothing_left()


async def test_what_has_made_way_is_named_in_the_trace(autojump_clock: MockClock) -> None:
    """A peer whose buffer was too small for all of a trace has lost the oldest of it."""
    small = process("users")
    small.records = PeerRecords(1)
    async with (
        running(QUIET) as it,
        it.peer("web") as web,
        it.peer("users", process=small) as users,
    ):

        async def leaf() -> None: ...

        async def get() -> None:
            for _ in range(3000):
                await users.call("users", "leaf")
            raise mesh.NotFound("no")

        users.register("leaf", leaf)
        users.register("get", get)
        await settled(users)
        with pytest.raises(mesh.NotFound):
            await web.call("users", "get")
        await trio.sleep(8)
        (trace,) = it.kept
        assert not trace.complete
        assert trace.dropped > 0 or trace.missing
        assert small.records.dropped["too_many"] > 0


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


async def test_peers_in_several_threads_share_their_records_without_harm() -> None:
    """Rows of a trace that a peer in another loop of trio's was asked for wake that one safely."""
    shared = process("shared")
    seen: list[BaseException] = []
    async with running(ALL, listen=["tcp:127.0.0.1:0"]) as it, it.peer("users") as users:

        async def get() -> None: ...

        users.register("get", get)
        await settled(users)
        (address,) = it.gateway.addresses
        tracer = TracerProvider().get_tracer("test")
        with tracer.start_as_current_span("request") as span:
            context = otel.set_span_in_context(span)

        def elsewhere() -> None:
            from opentelemetry.context import attach, detach

            async def main() -> None:
                async with mesh.connect("there", gateway=address, process=shared) as there:
                    token = attach(context)
                    for _ in range(20):
                        await there.call("users", "get")
                        await trio.sleep(0.005)
                    detach(token)

            try:
                trio.run(main)
            except BaseException as fault:  # noqa: BLE001 - told to the test
                seen.append(fault)

        async with it.peer("here", process=shared) as here:
            thread = threading.Thread(target=elsewhere)
            with otel.use_span(span):
                await here.call("users", "get")
                thread.start()
                for _ in range(20):
                    await here.call("users", "get")
                    await trio.sleep(0.005)
            await trio.to_thread.run_sync(thread.join)
        assert seen == []
        assert forest(it.kept[0])


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
        await trio.sleep(8)
        fine_trace, odd = it.kept
        assert fine_trace.complete
        assert odd.missing == ["users (users-1): did not tell 1 span within 5 s"]
        assert it.tracing.collector.lost()["lost_by_peer"] >= 1
    assert "a span cannot be told" in caplog.text


async def test_spans_that_cannot_be_told_are_logged_once_a_minute_with_their_number(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Tries, that is: the gateway asks a second time for what does not come."""
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
        "5 more times since this was said last)",
    ]
    assert all(one.exc_info for one in said)


async def test_a_gateway_that_does_not_read_is_not_told_without_end(
    autojump_clock: MockClock,
) -> None:
    """Where the outbox is full, calls go first; what waits is bounded, what is lost is told."""
    gateway = HandGateway(lockstep=True, features=[codec.TRACES_FEATURE])
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            limits = Limits(max_outbox=1024 * 1024)
            async with mesh.connect(
                "web", gateway=gateway, process=process("web"), limits=limits
            ) as web:
                clients.append(web)
                await trio.sleep_forever()

        clients: list[mesh.Client] = []
        nursery.start_soon(peer)
        await gateway.accept()
        await trio.sleep(0.1)
        uplink = clients[0]._uplink
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
        nursery.cancel_scope.cancel()


async def test_what_was_asked_for_stays_so_while_the_gateway_does_not_read(
    autojump_clock: MockClock,
) -> None:
    """It is told once there is room: each trace, with all that there is of it."""
    gateway = HandGateway(lockstep=True, features=[codec.TRACES_FEATURE])
    clients: list[mesh.Client] = []
    ids = [number.to_bytes(16) for number in range(1, 201)]
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            limits = Limits(max_outbox=64 * 1024)
            async with mesh.connect(
                "web", gateway=gateway, process=process("web"), limits=limits
            ) as web:
                clients.append(web)
                await trio.sleep_forever()

        nursery.start_soon(peer)
        await gateway.accept()
        await trio.sleep(0.1)
        uplink = clients[0]._uplink
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
        nursery.cancel_scope.cancel()


async def test_much_of_one_trace_is_told_in_slices(autojump_clock: MockClock) -> None:
    """Other tasks run every hundred spans; what ends or goes meanwhile does no harm."""
    gateway = HandGateway(features=[codec.TRACES_FEATURE])
    clients: list[mesh.Client] = []
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            async with mesh.connect("web", gateway=gateway, process=process("web")) as web:
                clients.append(web)
                await trio.sleep_forever()

        nursery.start_soon(peer)
        await gateway.accept()
        await trio.sleep(0.1)
        uplink = clients[0]._uplink
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
        nursery.cancel_scope.cancel()


async def test_a_connection_that_is_lost_between_two_slices(autojump_clock: MockClock) -> None:
    """What was not told is asked for again over the next one."""
    gateway = HandGateway(features=[codec.TRACES_FEATURE])
    clients: list[mesh.Client] = []
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            async with mesh.connect("web", gateway=gateway, process=process("web")) as web:
                clients.append(web)
                await trio.sleep_forever()

        nursery.start_soon(peer)
        await gateway.accept()
        await trio.sleep(0.1)
        uplink = clients[0]._uplink
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
        nursery.cancel_scope.cancel()


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


async def test_a_caller_whose_scope_fires_before_the_answer_tells_its_part_before_it_leaves(
    autojump_clock: MockClock,
) -> None:
    """The gateway's answer says that the trace is kept, and comes a moment after the scope."""
    async with running() as it, it.peer("users") as users:

        async def get() -> None:
            await trio.sleep_forever()

        users.register("get", get)
        async with it.peer("web") as web:
            await settled(web)
            with trio.move_on_after(0.3) as scope:
                await web.call("users", "get")
            assert scope.cancelled_caught
            await trio.sleep(0.1)
        await trio.sleep(0.5)
        (trace,) = it.kept
        assert trace.missing == []
        assert trace.complete


async def test_the_type_of_an_exception_is_recorded_within_bounds(
    autojump_clock: MockClock,
) -> None:
    async with running(QUIET) as it, it.peer("users") as users:

        async def get() -> None:
            raise type("X" * 1_000, (Exception,), {})

        users.register("get", get)
        await settled(users)
        with pytest.raises(mesh.CallError):
            await users.call("users", "get")
        rows = users._uplink.records._rows
        assert [len(one.exception) for one in rows if one.kind == SERVER] == [256]


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
