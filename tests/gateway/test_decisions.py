"""What a gateway decides for calls, as errors, events and explanations tell it."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from mesh.handlers import Handler
from mesh.payload import decode
from mesh.wire import Kind, codec
from mesh.wire.codec import BY_DEADLINE, MSGPACK, Cancel
from mesh_telemetry import TraceSettings
from mesh_telemetry.decisions import from_event
from tests.gateway.raw_peer import (
    MemoryDialer,
    call_header,
    raw_peer,
    register_header,
    result_header,
    settled,
)
from tests.gateway.test_endings import clogged_callee
from tests.gateway.traces import QUIET, running

if TYPE_CHECKING:
    from trio.testing import MockClock

    from mesh_telemetry import Step
    from tests.gateway.raw_peer import RawPeer
    from tests.gateway.traces import Mesh

KEPT = {"kept", "kept_slow", "kept_objective", "kept_unusual", "kept_long", "kept_baseline"}


async def explained(it: Mesh, *, with_keep: bool = False) -> list[Step]:
    """What was decided in the newest kept trace."""
    await it.settled()
    steps = (await it.gateway.traces.explain(it.kept[0].trace_id.hex())).steps
    return [step for step in steps if with_keep or step.decision not in KEPT]


def told(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.call, step.sentence) for step in steps]


def check_same(error: mesh.CallError, step: Step) -> None:
    """The error, its details and the step are of one decision."""
    assert error.message in step.sentence
    assert error.details["decision"] == step.decision
    assert error.details.get("setting", "") == step.setting
    assert error.details.get("value") == step.value


async def failing(peer: mesh.Client, service: str, method: str, **more: Any) -> mesh.CallError:
    """The error of a call that fails."""
    with pytest.raises(mesh.CallError) as raised:
        await peer.call(service, method, **more)
    return raised.value


# Which instance.


async def test_the_only_instance_is_said_to_be_the_only_one(autojump_clock: MockClock) -> None:
    """Without an event in any span: nothing was decided."""
    async with running() as it, it.peer("users") as users, it.peer("web") as web:
        users.register("get", trio.lowlevel.checkpoint)
        await settled(users)
        await web.call("users", "get")
        steps = await explained(it, with_keep=True)
        assert told(steps) == [
            ("users.get", "picked users-1, the only instance of users"),
            (
                "users.get",
                "trace kept: nothing special, but the first 10 per second of users.get are kept",
            ),
        ]
        assert (steps[1].setting, steps[1].value) == ("traces.baseline", 10)
        names = [event.name for _, span in it.kept[0].spans() for event in span.events]
        assert names == ["mesh.decision.kept_baseline"]
        (record,) = it.gateway.core.recorder.by_activity(it.kept[0].activity_id)
        assert (record.picked, record.decisions) == ((), ())


@pytest.mark.parametrize("early", [True, False], ids=["at once", "after a wait"])
async def test_the_only_instance_that_fits_is_not_said_to_be_the_only_one(
    autojump_clock: MockClock, early: bool
) -> None:
    """Of those that there are, it is the only one that serves the caller's version."""
    async with running() as it, it.peer("web") as web, trio.open_nursery() as nursery:

        async def serve(name: str, version: str, delay: float) -> None:
            async with it.peer(name) as peer:
                await trio.sleep(delay)
                handlers = {"get": Handler(trio.lowlevel.checkpoint)}
                peer.register_all("users", handlers, {"get": {}}, version)
                await trio.sleep_forever()

        for number in range(2):
            nursery.start_soon(serve, f"new{number}", "2.0.0", 0)
        nursery.start_soon(serve, "old", "1.2.0", 0 if early else 2)
        await trio.sleep(1)
        await web.call("users", "get", version="1.2.0")
        *_, picked = await explained(it)
        assert picked.sentence == (
            "picked old-1, the only one of 3 instances that serves the caller's version"
        )
        assert (picked.decision, picked.setting) == ("picked", "")
        nursery.cancel_scope.cancel()


async def test_of_several_instances_it_is_told_what_was_compared(
    autojump_clock: MockClock,
) -> None:
    async with (
        running(QUIET, limits=mesh.Limits(max_in_flight=2)) as it,
        it.peer("web") as web,
        trio.open_nursery() as nursery,
    ):
        for number in range(2):
            await nursery.start(_serve_waits, it, f"users{number}")
        nursery.start_soon(web.call, "users", "wait", 20)
        await trio.testing.wait_all_tasks_blocked()
        await web.call("users", "wait", 2)
        (picked,) = await explained(it)
        assert picked.sentence == (
            "picked users1-1 of 2 instances: 0 calls in flight there, 1 elsewhere"
        )
        assert (picked.setting, picked.value) == ("", None)  # nobody was left out for a limit
        assert picked.took_ms == pytest.approx(2000, abs=1)
        assert picked.left_ms == pytest.approx(30_000, abs=1)
        nursery.cancel_scope.cancel()


async def _serve_waits(it: Mesh, name: str, *, task_status: trio.TaskStatus[None]) -> None:
    async with it.peer(name) as peer:
        peer.register("wait", trio.sleep, service="users")
        await settled(peer)
        task_status.started()
        await trio.sleep_forever()


async def test_a_call_that_is_sent_again_says_so(autojump_clock: MockClock) -> None:
    """It never left for the instance that was lost."""
    async with (
        running(QUIET) as it,
        it.peer("caller") as caller,
        clogged_callee(it.gateway) as (clogged, _),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(failing, caller, "svc", "go")  # fills the stream
        await trio.testing.wait_all_tasks_blocked()

        @nursery.start_soon
        async def second() -> None:
            with mesh.traced():
                await caller.call("svc", "go")

        await trio.testing.wait_all_tasks_blocked()
        async with it.peer("other") as other:
            other.register("go", trio.lowlevel.checkpoint, service="svc")
            await settled(other)
            await clogged.stream.aclose()
            await it.settled()
            (sent,) = it.tracing.store.find(reason="forced")
            steps = (await it.gateway.traces.explain(sent.trace_id.hex())).steps
            again = next(step for step in steps if step.decision == "rerouted")
            assert again.sentence.endswith(" was lost before the call left, so it went to other-1")


# Waits.


async def test_a_wait_for_a_service_tells_why_it_was_expected(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("web") as web, trio.open_nursery() as nursery:
        await trio.sleep(60)
        async with it.peer("users") as users:
            users.register("get", trio.lowlevel.checkpoint)
            await settled(users)
        await trio.sleep(3)

        @nursery.start_soon
        async def serve_later() -> None:
            await trio.sleep(1.2)
            await nursery.start(_serve_waits, it, "users")

        await web.call("users", "wait", 0, timeout=4)
        waited, picked = await explained(it)
        assert waited.sentence == (
            "waited 1.20 s for users (it had no instance then; services are waited for up to 5 s)"
        )
        assert (waited.setting, waited.value) == ("limits.service_wait", 5)
        assert picked.decision == "only_instance"
        assert picked.at_ms == pytest.approx(waited.at_ms, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_a_wait_that_was_for_nothing_is_told_once(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("web") as web:
        async with it.peer("users") as users:
            users.register("get", trio.lowlevel.checkpoint)
            await settled(users)
        await trio.sleep(3)
        error = await failing(web, "users", "get")
        (step,) = await explained(it)
        check_same(error, step)
        assert re.fullmatch(
            r"gave up: waited 5 s for users\.get; nobody serves 'users' since [0-9:]{8} UTC "
            r"\(8\.00 s ago\); its last instance, users at \S+, left in order; start one, or call "
            r"it no more \(it had been gone for 3\.00 s\)",
            step.sentence,
        )
        assert step.setting == "limits.service_wait"


async def test_a_deadline_that_ends_a_wait_tells_both(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("web") as web:
        error = await failing(web, "never", "there", timeout=2)
        waited, expired = await explained(it)
        assert waited.sentence.startswith(
            "waited 2.00 s for never (the gateway had started 0.00 ms before; "
        )
        assert error.details["decision"] == expired.decision == "expired"


async def test_a_wait_for_a_connection_is_told_by_the_caller(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("users") as users, trio.open_nursery() as nursery:
        users.register("wait", trio.sleep)
        await settled(users)
        way = MemoryDialer(None)
        async with it.peer("web", gateway=way, connect_timeout=0) as web:

            @nursery.start_soon
            async def open_later() -> None:
                await trio.sleep(2)
                way.gateway = it.gateway

            await web.call("users", "wait", 0.5)
            steps = await explained(it)
        assert [step.decision for step in steps] == ["connection_awaited", "only_instance"]
        assert steps[0].sentence.startswith("waited ")
        assert steps[0].sentence.endswith(
            " s for a connection to the gateway (calls wait for one for up to 5 s)"
        )
        assert (steps[0].setting, steps[0].value) == ("limits.service_wait", 5)
        assert steps[0].at_ms >= 2000


async def test_what_never_left_its_caller_is_told_by_that(autojump_clock: MockClock) -> None:
    """In the trace of the call inside which it was made."""
    async with (
        running(limits=mesh.Limits(max_message=1000)) as it,
        it.peer("orders") as orders,
        it.peer("web") as web,
    ):

        async def large() -> None:
            await orders.call("users", "get", "x" * 2000)

        async def late() -> None:
            await orders.call("users", "get", timeout=0)

        orders.register("large", large)
        orders.register("late", late)
        await settled(orders)
        error = await failing(web, "orders", "large")
        step = (await explained(it))[-1]
        check_same(error, step)
        assert (step.call, step.setting, step.value) == ("users.get", "limits.max_message", 1000)
        error = await failing(web, "orders", "late")
        step = (await explained(it))[-1]
        check_same(error, step)
        assert step.sentence == (
            "out of time: no time was left for users.get when orders, which serves orders.late, "
            "called it"
        )
        assert (step.setting, step.value) == ("timeout", 0)


# Refusals: one of each limit.


async def refusal(it: Mesh, peer: mesh.Client, service: str, method: str, **more: Any) -> Step:
    """What is told of a call that was refused, or inside which one was."""
    error = await failing(peer, service, method, **more)
    steps = [step for step in await explained(it) if step.decision != "only_instance"]
    check_same(error, steps[-1])
    return steps[-1]


async def test_a_chain_that_is_too_deep(autojump_clock: MockClock) -> None:
    async with running(limits=mesh.Limits(max_depth=2)) as it, it.peer("a") as a:
        a.register("f", partial(a.call, "a", "g"))
        a.register("g", partial(a.call, "a", "h"))
        await settled(a)
        step = await refusal(it, a, "a", "f")
        assert (step.call, step.depth) == ("a.h", 2)
        assert step.sentence == "refused: depth 3 exceeds max_depth 2"
        assert (step.setting, step.value) == ("limits.max_depth", 2)


async def test_a_chain_that_goes_round(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("a") as a:
        a.register("f", partial(a.call, "a", "f"))
        await settled(a)
        step = await refusal(it, a, "a", "f")
        assert step.sentence.startswith("refused: visit 4 of a.f exceeds max_visits 3; ")
        assert (step.setting, step.value) == ("limits.max_visits", 3)


async def test_more_calls_than_an_instance_takes(autojump_clock: MockClock) -> None:
    async with (
        running(limits=mesh.Limits(max_in_flight=1)) as it,
        it.peer("a") as a,
        it.peer("web") as web,
        trio.open_nursery() as nursery,
    ):
        a.register("wait", trio.sleep)
        await settled(a)
        nursery.start_soon(web.call, "a", "wait", 20)
        await trio.testing.wait_all_tasks_blocked()
        step = await refusal(it, web, "a", "wait")
        assert (step.setting, step.value) == ("limits.max_in_flight", 1)
        nursery.cancel_scope.cancel()


async def test_a_callee_that_does_not_read(autojump_clock: MockClock) -> None:
    async with (
        running(limits=mesh.Limits(max_outbox=100_000)) as it,
        it.peer("web") as web,
        clogged_callee(it.gateway),
        trio.open_nursery() as nursery,
    ):
        for _ in range(30):
            nursery.start_soon(_ignore, web)
        await trio.testing.wait_all_tasks_blocked()
        step = await refusal(it, web, "svc", "go", params="x" * 5_000)
        assert step.decision == "outbox_full"
        assert (step.setting, step.value) == ("limits.max_outbox", 100_000)
        nursery.cancel_scope.cancel()


async def _ignore(peer: mesh.Client) -> None:
    with pytest.raises(mesh.CallError):
        await peer.call("svc", "go", "x" * 5_000)


async def test_what_nobody_serves(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("a") as a:
        a.register("f", trio.lowlevel.checkpoint)
        await settled(a)
        await trio.sleep(6)
        step = await refusal(it, a, "b", "f")
        assert step.sentence == (
            "refused: no service 'b' is registered; registered are a; what was never there is "
            "waited for only in the gateway's first 5 s"
        )
        assert (step.setting, step.value) == ("limits.service_wait", 5)
        step = await refusal(it, a, "a", "g")
        assert step.sentence == "refused: service 'a' has no method 'g'; it has f"
        assert (step.setting, step.value) == ("", None)


async def test_more_calls_than_may_wait(autojump_clock: MockClock) -> None:
    async with running(limits=mesh.Limits(max_waiting=0)) as it, it.peer("web") as web:
        step = await refusal(it, web, "late", "get")
        assert step.sentence.startswith("refused: 0 calls wait for services, 0 bytes; ")
        assert (step.setting, step.value) == ("limits.max_waiting", 0)


async def test_a_gateway_that_drains(autojump_clock: MockClock) -> None:
    """What it refuses then, and what it ends at last."""
    async with (
        running(limits=mesh.Limits(drain=3)) as it,
        it.peer("a") as a,
        it.peer("web", reconnect=False) as web,
        raw_peer(it.gateway) as raw,
        trio.open_nursery() as nursery,
    ):
        a.register("wait", trio.sleep_forever)
        await settled(a)
        errors: list[mesh.CallError] = []

        @nursery.start_soon
        async def long() -> None:
            errors.append(await failing(web, "a", "wait"))

        await trio.testing.wait_all_tasks_blocked()
        it.gateway.drain()
        await raw.call("a", "wait")
        _, _, _, payload = await raw.receive(Kind.ERROR)
        assert decode(payload, MSGPACK) == {
            "decision": "draining",
            "setting": "limits.drain",
            "value": 3,
        }
        await trio.sleep(4)
        (error,) = errors
        assert error.details == {
            "decision": "stopped",
            "setting": "limits.drain",
            "value": 3,
            "call": "a.wait",
            "after_ms": pytest.approx(3000, abs=1),
        }


async def test_parents_that_are_none(autojump_clock: MockClock) -> None:
    """Calls on behalf of one that another peer serves, that has ended, or that is out of time."""
    async with (
        running() as it,
        raw_peer(it.gateway, "worker") as worker,
        raw_peer(it.gateway, "caller") as caller,
        raw_peer(it.gateway, "thief") as thief,
    ):
        await worker.send(register_header("svc", "go"))
        await settled_raw(worker)
        await caller.call("svc", "go")
        _, _, parent, _ = await worker.receive(Kind.CALL)
        for peer, timeout_us, decision in (
            (thief, 1_000_000, "parent_foreign"),
            (worker, 0, "no_time"),
        ):
            await peer.call("svc", "go", parent_id=parent.call_id, timeout_us=timeout_us)
            _, _, error, payload = await peer.receive(Kind.ERROR)
            details = decode(payload, MSGPACK)
            assert details["decision"] == decision
        assert details["of"] == "svc.go"
        assert details["setting"] == "timeout"
        assert details["value"] == details["allowed_ms"] / 1e3 == 30
        await worker.send(result_header(parent.call_id))
        await caller.receive(Kind.RESULT)
        await worker.call("svc", "go", parent_id=parent.call_id)
        _, _, error, payload = await worker.receive(Kind.ERROR)
        assert decode(payload, MSGPACK) == {"decision": "parent_gone", "call": "svc.go"}
        assert error.message.startswith("the call inside which svc.go was called has ended; ")


async def settled_raw(peer: RawPeer) -> None:
    """What a raw peer has sent so far has been read."""
    await peer.call("mesh", "status")
    await peer.receive(Kind.RESULT)


# Ends.


async def shop(it: Mesh, peers: AsyncExitStack) -> mesh.Client:
    """orders.place calls users.wait, which takes its time; returns who calls."""
    users, orders, web = [
        await peers.enter_async_context(it.peer(name)) for name in ("users", "orders", "web")
    ]
    users.register("wait", trio.sleep_forever)
    orders.register("place", partial(orders.call, "users", "wait"))
    await settled(users)
    await settled(orders)
    assert isinstance(web, mesh.Client)
    return web


@pytest.mark.parametrize("timeout", [0.25, None])
async def test_a_deadline_tells_whose_it_was(
    autojump_clock: MockClock, timeout: float | None
) -> None:
    """Also where nobody set one."""
    async with running() as it, AsyncExitStack() as peers:
        web = await shop(it, peers)
        error = await failing(web, "orders", "place", timeout=timeout)
        steps = [step for step in await explained(it) if step.decision != "only_instance"]
        expired, over = steps
        allowed = "250.0 ms" if timeout else "30.00 s"
        spent = "250.0 ms" if timeout else "30,000.0 ms"
        assert told(steps) == [
            ("orders.place", f"out of time: orders.place was allowed {spent}; it may have run"),
            (
                "users.wait",
                (
                    "ended: orders.place, inside which users.wait was called, has ended: the "
                    f"deadline of orders.place ({allowed}, set by web); it may have run"
                ),
            ),
        ]
        assert error.details["decision"] == "expired"
        assert expired.setting == over.setting == error.details["setting"] == "timeout"
        assert expired.value == error.details["value"] == pytest.approx(timeout or 30, abs=1e-3)
        assert error.message.startswith(f"orders.place was allowed {spent}; spent: ")
        assert over.left_ms == pytest.approx(expired.left_ms, abs=1)


async def test_a_deadline_of_a_nested_call_is_that_of_the_call_above(
    autojump_clock: MockClock,
) -> None:
    """Where it is the same one, and the handler above it does not hear of it first."""
    async with (
        running() as it,
        raw_peer(it.gateway, "worker") as worker,
        raw_peer(it.gateway, "caller") as caller,
    ):
        await worker.send(register_header("svc", "go", "below"))
        await settled_raw(worker)
        await caller.call("svc", "go", timeout_us=2_000_000)
        _, _, parent, _ = await worker.receive(Kind.CALL)
        await trio.sleep(0.5)
        await worker.call("svc", "below", parent_id=parent.call_id, timeout_us=1_499_900)
        await worker.receive(Kind.CALL)
        _, _, _, payload = await worker.receive(Kind.ERROR)
        assert decode(payload, MSGPACK)["by"] == "the deadline of svc.go (2.00 s, set by caller)"


async def test_a_cancel_tells_who_caused_it_all_the_way_down(autojump_clock: MockClock) -> None:
    async with running() as it, AsyncExitStack() as peers:
        web = await shop(it, peers)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(web.call, "orders", "place")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        steps = [step for step in await explained(it) if step.decision != "only_instance"]
        assert told(steps) == [
            ("orders.place", "cancelled: web (web-1) cancelled orders.place"),
            (
                "users.wait",
                (
                    "ended: orders.place, inside which users.wait was called, has ended: web "
                    "(web-1) cancelled orders.place; it may have run"
                ),
            ),
        ]


async def test_a_disconnect_tells_who_went(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("a") as a:
        a.register("wait", trio.sleep_forever)
        await settled(a)
        async with raw_peer(it.gateway) as raw:
            await raw.call("a", "wait")
            await trio.testing.wait_all_tasks_blocked()
        _, cancelled = await explained(it)
        assert cancelled.sentence == "cancelled: raw (raw-1) disconnected, which had called a.wait"


async def test_a_scope_of_the_callers_is_a_deadline(autojump_clock: MockClock) -> None:
    async with running() as it, AsyncExitStack() as peers:
        web = await shop(it, peers)
        with trio.move_on_after(0.1):
            await web.call("orders", "place")
        steps = await explained(it)
        causes = [step.sentence for step in steps if step.decision in {"cancelled", "expired"}]
        assert len(causes) == 1
        assert "100.0 ms" in causes[0]


async def test_calls_that_outlive_their_parent_say_so(autojump_clock: MockClock) -> None:
    async with running() as it, raw_peer(it.gateway) as raw, it.peer("a") as a:
        a.register("wait", trio.sleep_forever)
        await settled(a)
        await raw.send(register_header("svc", "go"))
        await settled_raw(raw)
        await raw.call("svc", "go")
        _, _, parent, _ = await raw.receive(Kind.CALL)
        await raw.call("a", "wait", parent_id=parent.call_id)
        await trio.testing.wait_all_tasks_blocked()
        await raw.send(result_header(parent.call_id))
        (over,) = [step for step in await explained(it) if step.decision == "parent_over"]
        assert over.sentence == (
            "ended: svc.go, inside which a.wait was called, has ended: svc.go was answered; it may "
            "have run"
        )


async def test_a_lost_instance_is_named(autojump_clock: MockClock) -> None:
    async with running() as it, it.peer("web") as web, trio.open_nursery() as nursery:
        errors: list[mesh.CallError] = []
        async with raw_peer(it.gateway, "svc") as raw:
            await raw.send(register_header("svc", "go"))
            await settled_raw(raw)

            @nursery.start_soon
            async def call() -> None:
                errors.append(await failing(web, "svc", "go"))

            await raw.receive(Kind.CALL)
            await trio.sleep(2)
        steps = await explained(it)
        check_same(errors[0], steps[-1])
        assert steps[-1].sentence == (
            "failed: the connection to svc (svc-1), which served svc.go, was lost after 2,000 ms; "
            "it may have run"
        )
        assert errors[0].details["maybe_executed"] is errors[0].maybe_executed is True


async def test_an_answer_that_is_dropped_names_the_limit(autojump_clock: MockClock) -> None:
    async with (
        running(limits=mesh.Limits(max_outbox=100_000)) as it,
        it.peer("server") as server,
        raw_peer(it.gateway, "caller", lockstep=True) as caller,
    ):
        go = trio.Event()

        async def big() -> str:
            await go.wait()
            return "x" * 40_000

        server.register("big", big)
        await settled(server)
        await caller.send(*(call_header(number, "server", "big") for number in range(1, 7)))
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        _, _, _, payload = await caller.receive(Kind.ERROR)
        details = decode(payload, MSGPACK)
        assert (details["decision"], details["setting"]) == ("answer_dropped", "limits.max_outbox")
        assert (details["value"], details["call"]) == (100_000, "server.big")


async def test_a_late_answer_is_told_with_its_call(autojump_clock: MockClock) -> None:
    """Long after the call's spans were built."""
    async with running() as it, it.peer("users") as users, it.peer("web") as web:

        async def shielded() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(1.5)

        users.register("shielded", shielded)
        await settled(users)
        size = it.tracing.store.size
        await failing(web, "users", "shielded", timeout=0.5)
        steps = await explained(it)
        assert [step.decision for step in steps] == ["only_instance", "expired", "late"]
        assert steps[2].sentence == (
            "late: users (users-1) answered 1.00 s after the call had ended, and the answer was "
            "dropped"
        )
        assert it.tracing.store.size == sum(one.size for one in it.kept) > size
        it.check_nothing_left()


# Why a trace is kept.


async def keep(it: Mesh) -> Step:
    """The decision that kept the newest trace."""
    (step,) = [
        step for step in await explained(it, with_keep=True) if step.decision.startswith("kept")
    ]
    return step


@pytest.mark.parametrize(
    ("seconds", "sentence"),
    [
        (1.5, "trace kept: a.wait took 1.50 s; from 1.00 s on every call is slow"),
        (12, "trace kept: a.wait had been in flight for 10."),
    ],
)
async def test_a_slow_call_tells_from_when_on_it_is(
    autojump_clock: MockClock, seconds: float, sentence: str
) -> None:
    async with running(QUIET) as it, it.peer("a") as a, it.peer("web") as web:
        a.register("wait", trio.sleep)
        await settled(a)
        await web.call("a", "wait", seconds)
        step = await keep(it)
        assert step.sentence.startswith(sentence)
        assert (step.setting, step.value) == (
            ("traces.slow_after", 1) if seconds < 10 else ("traces.quota", 10)
        )


async def test_a_call_that_is_slow_for_its_method_tells_what_is_usual(
    autojump_clock: MockClock,
) -> None:
    async with running(QUIET) as it, it.peer("a") as a, it.peer("web") as web:
        a.register("wait", trio.sleep)
        await settled(a)
        for _ in range(150):
            await web.call("a", "wait", 0.01)
        await trio.sleep(1.5)
        await web.call("a", "wait", 0.1)
        step = await keep(it)
        assert step.decision == "kept_unusual"
        assert step.sentence.startswith("trace kept: a.wait took 100.0 ms; ")
        assert "or more is unusual for it lately" in step.sentence
        assert (step.setting, step.value) == ("traces.slow_after", 1)


async def test_a_call_that_misses_its_contract_s_objective_tells_that(
    autojump_clock: MockClock,
) -> None:
    """Also where it is unusual before that."""
    async with running(QUIET) as it, raw_peer(it.gateway, "a") as a, it.peer("web") as web:
        await a.send(codec.Register("a", "", {"wait": {"slo": 5.0}}, {}))

        async def answer(calls: int, seconds: float) -> None:
            for _ in range(calls):
                _, _, header, _ = await a.receive(Kind.CALL)
                await trio.sleep(seconds)
                await a.send(result_header(header.call_id), payload=b"\xc0")

        async def call(seconds: float, calls: int = 1) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, calls, seconds)
                for _ in range(calls):
                    await web.call("a", "wait")

        await call(6.0)
        step = await keep(it)
        assert step.decision == "kept_objective"
        assert step.sentence == "trace kept: a.wait took 6.00 s; its contract's objective is 5.00 s"
        assert (step.setting, step.value) == ("slo", 5)
        await trio.sleep(40)
        await call(0.01, 150)
        await trio.sleep(1.5)
        await call(0.1)
        step = await keep(it)
        assert step.decision == "kept_unusual"
        assert "is unusual for it lately (its contract's objective is 5.00 s)" in step.sentence


async def test_other_reasons_tell_the_quota(autojump_clock: MockClock) -> None:
    async with (
        running(TraceSettings(baseline=0, quota=3)) as it,
        it.peer("a") as a,
        it.peer("web") as web,
    ):

        async def fail() -> None:
            raise mesh.NotFound("gone")

        a.register("fail", fail)
        a.register("get", trio.lowlevel.checkpoint)
        await settled(a)
        await failing(web, "a", "fail")
        step = await keep(it)
        assert step.sentence == (
            "trace kept: a call in it failed (a.fail); up to 3 per second are, for one method"
        )
        assert (step.setting, step.value) == ("traces.quota", 3)
        with mesh.traced():
            await web.call("a", "get")
        step = await keep(it)
        assert step.sentence == (
            "trace kept: somebody asked for it; up to 3 such traces per second are"
        )


async def test_records_tell_their_decisions(autojump_clock: MockClock) -> None:
    """Also of calls whose trace is not kept."""
    async with running(TraceSettings(baseline=0, quota=0)) as it, it.peer("web") as web:
        await trio.sleep(6)
        with mesh.activity("one call"):
            error = await failing(web, "never", "there")
        (record,) = await web.call("mesh", "records", "one call")
        assert record["decisions"] == [error.details]


async def test_events_are_those_of_one_definition(autojump_clock: MockClock) -> None:
    """What a backend gets is what the error says."""
    async with running() as it, it.peer("web") as web:
        await trio.sleep(6)
        error = await failing(web, "never", "there")
        await it.settled()
        told = [
            one.decision
            for _, span in it.kept[0].spans()
            for event in span.events
            if (one := from_event(event.name, event.attributes, 0.0)) is not None
        ]
        assert told[0].details() == error.details


async def test_what_was_refused_is_named_although_its_name_is_nobodys(
    autojump_clock: MockClock,
) -> None:
    """All names that nobody has registered share one quota; the sentence tells which it was."""
    async with running() as it, it.peer("a") as a, it.peer("web") as web:
        a.register("get", trio.lowlevel.checkpoint)
        await settled(a)
        await failing(web, "a", "missing")
        step = await keep(it)
        assert step.sentence == (
            "trace kept: a call in it was refused (a.missing); up to 10 per second are, for all "
            "methods without a quota of their own"
        )


async def test_a_call_that_its_callers_deadline_cancelled_has_not_failed(
    autojump_clock: MockClock,
) -> None:
    """Its code is that of the deadline, and the line above says that it was cancelled."""
    async with running(QUIET) as it, it.peer("a") as a, raw_peer(it.gateway, "web") as web:
        a.register("nap", trio.sleep_forever)
        await settled(a)
        await web.send(call_header(1, "a", "nap"))
        await trio.testing.wait_all_tasks_blocked()
        await web.send(Cancel(1, BY_DEADLINE))
        await trio.testing.wait_all_tasks_blocked()
        steps = await explained(it, with_keep=True)
        assert [step.decision for step in steps] == ["only_instance", "cancelled", "kept"]
        assert steps[2].sentence.startswith("trace kept: a call in it was cancelled (a.nap); ")
