"""A whole mesh within a test, and what it tells of itself."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

import mesh
from mesh.testing import RecordedCall, RecordedSpan, local_mesh
from tests.gateway.test_events import is_, until
from tests.testing.shop import Orders, OrderService, User, UserNotFound, Users, UserService

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_services_are_there_when_the_block_begins() -> None:
    async with local_mesh(OrderService, UserService()) as it:
        assert await it.stub(Orders).place("ada") == "for ada"
        assert await it.stub(Users).get("ada", deep=True) == User("ada", ["deep"])
        assert {view.name for view in it.gateway.services()} == {"mesh", "orders", "users"}


async def test_services_of_functions_and_later_ones_are_served_too() -> None:
    def plain(client: mesh.Client) -> None:
        @client.method("echo")
        def echo(params: Any) -> Any:
            return params

    async with local_mesh() as it:
        (peer,) = await it.serve(plain)
        assert peer.name == "plain"
        assert await it.client.call("plain", "echo", {"a": 1}) == {"a": 1}


async def test_more_peers_call_by_their_own_names() -> None:
    async with local_mesh(UserService(), name="me") as it, it.connect("shop") as shop:
        await shop.stub(Users).count()
        await it.stub(Users).count()
        assert [call.caller for call in await it.calls()] == ["shop", "me"]


async def test_a_peer_may_speak_json() -> None:
    """Whose keys are texts."""
    async with local_mesh() as it, it.connect("shop", encoding="json") as shop:

        @it.client.method
        async def same(params: Any) -> Any:
            return params

        await it.settled()
        assert await shop.call("test", "same", {7: 1}) == {"7": 1}
        assert await it.client.call("test", "same", {7: 1}) == {7: 1}


async def test_a_peer_may_have_what_a_peer_elsewhere_has() -> None:
    said = logging.getLogger("said")
    limits = mesh.Limits(max_threads=3)
    async with (
        local_mesh() as it,
        it.connect(
            "shop",
            metadata={"zone": "a"},
            registry_events=True,
            limits=limits,
            keep_logs="warning",
        ) as shop,
        shop.events() as stream,
    ):

        @shop.method
        async def say() -> None:
            said.warning("it was said")

        await it.settled()
        await it.client.call("shop", "say")
        service = it.gateway.service("shop")
        assert service is not None
        assert [one.metadata["zone"] for one in service.instances] == ["a"]
        assert shop._uplink.dispatcher.limiter.total_tokens == 3
        assert [event for span in await it.spans("shop.say") for event in span.events]
        await it.serve(UserService())
        await until(stream, is_(mesh.events.ServiceRegistered, service="users"))


async def test_what_cannot_be_served_says_so_as_itself() -> None:
    with pytest.raises(mesh.ContractError, match="Users is a contract"):
        async with local_mesh(Users):
            pytest.fail("it must not begin")


@pytest.mark.parametrize("fails", [False, True])
async def test_what_still_runs_at_the_end_of_a_block_is_not_waited_for(fails: bool) -> None:
    """And an error of the test is raised as itself."""
    begun = trio.Event()

    def relay(client: mesh.Client) -> None:
        @client.method
        async def go() -> None:
            await client.call("test", "wait")

    async def wait() -> None:
        begun.set()
        await trio.sleep_forever()

    async def begin(client: mesh.Client) -> None:
        with pytest.raises(mesh.CallError):
            await client.call("relay", "go")

    async def body(nursery: trio.Nursery) -> None:
        async with local_mesh(relay) as it:
            it.client.register("wait", wait)
            nursery.start_soon(begin, it.client)
            await begun.wait()
            if fails:
                raise KeyError("of the test")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            with pytest.raises(KeyError) if fails else nullcontext():
                await body(nursery)


async def test_calls_are_recorded_as_the_gateway_saw_them() -> None:
    async with local_mesh(OrderService, UserService()) as it:
        with mesh.activity("order-1"), pytest.raises(mesh.NotFound):
            await it.stub(Orders).place("nobody")
        inner, outer = await it.calls()
        assert isinstance(inner, RecordedCall)
        assert (inner.caller, inner.service, inner.method) == ("orders", "users", "get")
        assert (inner.code, inner.reason, inner.depth) == ("not_found", "USER_NOT_FOUND", 2)
        assert inner.chain == ("orders.place", "users.get")
        assert (outer.caller, outer.code, outer.depth) == ("test", "not_found", 1)
        assert 0 < inner.duration <= outer.duration
        assert inner.activity_id == outer.activity_id == "order-1"
        assert inner.trace_id == outer.trace_id
        assert not inner.refused
        assert await it.calls(Users) == [inner]
        assert await it.calls("orders", "place") == [outer]
        assert await it.calls("orders", "get") == []


async def test_a_cancelled_call_is_recorded_though_nobody_waits_for_it() -> None:
    """The cancellation is still on its way when the caller asks."""

    async def forever() -> None:
        await trio.sleep_forever()

    async with local_mesh() as it:
        it.client.register("forever", forever)
        await it.settled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.client.call, "test", "forever")
            await it.settled()
            assert await it.calls() == []
            nursery.cancel_scope.cancel()
        assert [call.code for call in await it.calls()] == ["cancelled"]


async def test_every_trace_is_kept_and_whole() -> None:
    """More of one kind than a gateway keeps in a second by itself."""
    async with local_mesh(OrderService, UserService()) as it:
        for _ in range(50):
            await it.stub(Orders).place("ada")
        traces = await it.traces()
        assert [(one.code, one.spans, one.complete) for one in traces] == [("ok", 8, True)] * 50
        assert await it.traces(code="not_found") == []
        spans = await it.spans(trace_id=traces[0].trace_id)
        assert len(spans) == 8
        assert spans[0].name == "orders.place"
        assert (spans[0].kind, spans[0].service, spans[0].parent_id) == ("client", "test", "")
        assert len(await it.spans("users.get")) == 200


async def test_a_trace_has_one_id_wherever_it_is_told() -> None:
    async with local_mesh(OrderService, UserService()) as it:
        await it.stub(Orders).place("ada")
        with pytest.raises(mesh.NotFound):
            await it.stub(Orders).place("nobody")
        failed, whole = await it.traces()
        calls = await it.calls(Orders)
        assert [call.trace_id for call in calls] == [whole.trace_id, failed.trace_id]
        spans = await it.spans(trace_id=calls[1].trace_id)
        assert all(isinstance(span, RecordedSpan) for span in spans)
        assert {span.trace_id for span in spans} == {failed.trace_id}
        assert {span.parent_id for span in spans} <= {"", *(span.span_id for span in spans)}
        assert {span.service for span in spans} == {"test", "mesh-gateway", "orders", "users"}
        assert {(span.kind, span.error) for span in spans if span.service == "test"} == {
            ("client", True)
        }
        assert spans[0].duration >= calls[1].duration > 0
        assert await it.spans(trace_id="0" * 32) == []


async def test_what_a_handler_sets_on_its_span_is_there_to_assert_on() -> None:
    from opentelemetry import trace

    async with local_mesh() as it:

        @it.client.method
        async def mark() -> None:
            trace.get_current_span().set_attribute("marked", 7)

        await it.settled()
        await it.client.call("test", "mark")
        served = [span for span in await it.spans("test.mark") if span.kind == "server"]
        assert [span.attributes.get("marked") for span in served].count(7) == 1


async def test_several_tasks_may_ask_at_the_same_time() -> None:
    async with local_mesh(UserService()) as it:
        began = trio.current_time()
        await it.stub(Users).count()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(it.traces)
        assert trio.current_time() - began < 0.9, "one of them was never told"


async def test_metrics_are_read_as_scraped() -> None:
    async with local_mesh(UserService()) as it:
        assert await it.metric("mesh_calls_total", rpc_service="users") == 0
        for user_id in ("ada", "bob", "nobody"):
            try:
                await it.stub(Users).get(user_id)
            except UserNotFound:
                assert user_id == "nobody"
        assert await it.metric("mesh_calls_total", rpc_service="users") == 3
        assert await it.metric("mesh_calls_total", rpc_service="users", code="not_found") == 1
        took = {"rpc_service": "users", "rpc_method": "get"}
        assert await it.metric("mesh_call_duration_seconds_count", **took) == 3
        assert await it.metric("mesh_call_duration_seconds_bucket", le="+Inf", **took) == 3
        assert await it.metric("mesh_service_instances", rpc_service="users", state="healthy") == 1
        assert await it.metric("mesh_calls_total") == 3
        assert await it.metric("mesh_calls_total", rpc_service="mesh") > 0


@pytest.mark.parametrize(
    ("name", "labels", "told"),
    [
        ("mesh_call_total", {}, "no metric 'mesh_call_total'; did you mean mesh_calls_total"),
        ("mesh_calls_total", {"service": "users"}, "no label 'service'; its labels are caller, "),
        ("mesh_connections", {"peer": "x"}, "no label 'peer'; it has none"),
        ("mesh_calls_total_count", {}, "no metric"),
    ],
)
async def test_a_metric_that_cannot_be_is_no_zero(
    name: str, labels: dict[str, str], told: str
) -> None:
    async with local_mesh() as it:
        with pytest.raises(mesh.UsageError, match=told):
            await it.metric(name, **labels)


# The clock.


async def test_time_that_is_waited_for_costs_none(autojump_clock: MockClock) -> None:
    """An hour; and no heartbeat has to stop the clock for it, or has made a peer late."""

    async def slow() -> str:
        await trio.sleep(3600)
        return "done"

    async with local_mesh(UserService()) as it:
        it.client.register("slow", slow)
        await it.settled()
        beats = await it.metric("mesh_frames_total", kind="heartbeat")
        began, virtual = time.monotonic(), trio.current_time()
        assert await it.client.call("test", "slow", timeout=inf) == "done"
        assert 3600 <= trio.current_time() - virtual < 3601
        assert time.monotonic() - began < 60
        assert await it.stub(Users).count() == 1
        assert [call.duration >= 3600 for call in await it.calls()] == [True, False]
        assert await it.metric("mesh_frames_total", kind="heartbeat") == beats


def working(seconds: float) -> Callable[[], float]:
    """A plain function that takes real time."""

    def work() -> float:
        time.sleep(seconds)
        return seconds

    return work


async def test_the_clock_does_not_jump_while_a_thread_works(autojump_clock: MockClock) -> None:
    async with local_mesh() as it:
        it.client.register("work", working(0.3))
        await it.settled()
        began = trio.current_time()
        assert await it.client.call("test", "work", timeout=20) == 0.3
        assert 0.3 <= trio.current_time() - began < 10
        began = time.monotonic()
        await trio.sleep(100)  # and jumps again after that
        assert time.monotonic() - began < 50
        assert autojump_clock.rate == 0


async def test_a_thread_that_works_for_too_long_is_still_too_late(
    autojump_clock: MockClock,
) -> None:
    async with local_mesh() as it:
        it.client.register("work", working(0.5))
        await it.settled()
        with pytest.raises(mesh.DeadlineExceeded):
            await it.client.call("test", "work", timeout=0.1)


async def test_a_thread_that_waits_for_the_mesh_itself_is_not_waited_for_forever(
    autojump_clock: MockClock,
) -> None:
    """Time must pass for what it calls, or it would never end."""

    async def nap() -> str:
        await trio.sleep(0.2)
        return "slept"

    async with local_mesh() as it:

        def ask() -> Any:
            return trio.from_thread.run(it.client.call, "test", "nap")

        it.client.register("nap", nap)
        it.client.register("ask", ask)
        await it.settled()
        assert await it.client.call("test", "ask", timeout=20) == "slept"


async def test_two_meshes_share_the_clock(autojump_clock: MockClock) -> None:
    """The first to end does not take the watch over threads with it."""
    async with trio.open_nursery() as nursery:

        async def first(task_status: trio.TaskStatus[trio.Event]) -> None:
            leave = trio.Event()
            async with local_mesh():
                task_status.started(leave)
                await leave.wait()

        leave = await nursery.start(first)
        async with local_mesh() as it:
            it.client.register("work", working(0.3))
            await it.settled()
            leave.set()
            await it.settled()
            assert await it.client.call("test", "work", timeout=20) == 0.3
    assert (autojump_clock.rate, autojump_clock.autojump_threshold) == (0, 0)


def test_a_clock_that_a_test_moves_by_hand_stays_its_own() -> None:
    async def main() -> None:
        async with local_mesh() as it:
            it.client.register("work", working(0.1))
            await it.settled()
            assert await it.client.call("test", "work", timeout=0.05) == 0.1

    trio.run(main, clock=MockClock())


# How quiet it is.


async def test_the_end_of_a_block_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with local_mesh(OrderService, UserService()) as it:
            await it.stub(Orders).place("ada")
    assert caplog.messages == []
