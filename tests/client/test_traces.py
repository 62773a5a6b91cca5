# ruff: noqa: ARG001 - a test on trio's jumping clock asks for it by an argument
"""A peer's part in traces: what it records, and whose child that is."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider

import mesh
from mesh.limits import Limits
from mesh_telemetry.spans import CLIENT, ERROR, SERVER, UNSET
from tests.client.one_trace import ALL, attributes, only, pair
from tests.gateway.raw_peer import MemoryDialer, settled
from tests.gateway.traces import EPOCH, hop, running, tree

if TYPE_CHECKING:
    from trio.testing import MockClock


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
