"""What peers have recorded is told, whoever leaves, or is named as missing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider

import mesh
from mesh_telemetry import TraceSettings
from mesh_telemetry.peer_records import PeerRecords
from mesh_telemetry.spans import SERVER
from tests.client.one_trace import ALL, attributes, only
from tests.gateway.raw_peer import MemoryDialer, settled
from tests.gateway.traces import QUIET, forest, process, running

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_caller_that_leaves_right_after_its_answer_has_told_all(
    autojump_clock: MockClock,
) -> None:
    """Whether that was a result or an error, and of one that was kept for a reason or not."""
    async with running(ALL) as it, it.peer("users") as users:

        async def get(fails: bool) -> None:
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
